"""The search leaves the machine's cores to the trials."""

from collections.abc import Iterator

import pytest
from test_advisor import Play  # type: ignore[import-not-found]
from threadpoolctl import ThreadpoolController

from orchestrator.study.surrogate import Observations, Surrogate
from orchestrator.study.threads import on_one_thread

BLAS = ThreadpoolController().select(user_api="blas")


def threads() -> set[int]:
    return {library.num_threads for library in BLAS.lib_controllers}


@pytest.fixture
def several() -> Iterator[None]:
    """Whatever the machine has, or ``OMP_NUM_THREADS`` says."""
    with BLAS.limit(limits=3):
        yield


@pytest.mark.usefixtures("several")
def test_other_code_has_its_threads_back_also_after_an_error() -> None:
    @on_one_thread
    def fail() -> None:
        assert threads() == {1}
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        on_one_thread(fail)()
    assert threads() == {3}


@pytest.mark.usefixtures("several")
def test_a_search_decides_on_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[set[int]] = []
    condition = Surrogate.condition

    def spy(self: Surrogate, known: Observations) -> None:
        seen.append(threads())
        condition(self, known)

    monkeypatch.setattr(Surrogate, "condition", spy)
    Play().run(12)
    assert seen
    assert set().union(*seen) == {1}
    assert threads() == {3}
