"""One trial as a program: failures named, nothing carried over from what ran before."""

import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator.config.hyperparameters import Hyperparameters, OptimizerConfig
from orchestrator.config.schema import TaskConfig, TrainerConfig
from orchestrator.errors import InfeasibleTrialError
from orchestrator.tasks.tabular import Diabetes
from orchestrator.training import checkpoint
from orchestrator.training.data import steps_per_epoch
from orchestrator.trial import TrainingProgram, failure
from orchestrator.types import End, Outcome, Reason, TrialSpec

HERE = f"{__name__}.Fussy"
CONFIGURATION = Hyperparameters(
    optimizer=OptimizerConfig(lr=0.01, ema_decay=0.5), model={"width": 8, "depth": 1, "dropout": 0.3}
).flat()


class Fussy(Diabetes):
    """Raises what ``raised`` holds when a loss is asked for."""

    raised: BaseException | None = None

    def model(self, width: int = 8, depth: int = 1, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
        return super().model(width=width, depth=depth, dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if Fussy.raised is not None:
            raise Fussy.raised
        return super().loss(outputs, targets)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def program(target: str = HERE, threads: int = 1) -> TrainingProgram:
    return TrainingProgram(TaskConfig(name="mine", target=target), TrainerConfig(device="cpu"), threads)


def spec(folder: Path, seed: int = 5, **changed: Any) -> TrialSpec:
    return TrialSpec(0, "lr", {**CONFIGURATION, **changed}, seed=seed, epochs=2, directory=folder)


def raised_by(program: TrainingProgram, spec: TrialSpec) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011
        list(program(spec))
    return caught.value


GPU, HOST = Reason.OUT_OF_MEMORY, Reason.HOST_OUT_OF_MEMORY


def cpu_out_of_memory() -> RuntimeError:
    """What PyTorch really raises."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    return caught.value


@pytest.mark.parametrize(
    ("error", "line", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried\nmore"), "CUDA out of memory. Tried", GPU),
        (MemoryError(), "MemoryError", HOST),
        (MemoryError("no room\nat all"), "no room", HOST),
        (RuntimeError("CUDA error: out of memory\nCompile with"), "CUDA error: out of memory", GPU),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling x"), "CUDA error: CUBLAS", GPU),
        (cpu_out_of_memory(), "", HOST),
    ],
    ids=["cuda", "empty", "python", "driver", "cublas", "cpu"],
)
def test_out_of_memory_is_named(
    error: Exception, line: str, reason: Reason, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Fussy, "raised", error)
    found = failure(raised_by(program(), spec(tmp_path)))
    assert (found.end, found.reason) == (End.FAILED, reason)
    assert found.detail.startswith(line)
    assert len(found.detail.splitlines()) == 1


def test_other_errors_are_the_users_with_the_users_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Fussy, "raised", RuntimeError("shapes do not match"))
    found = failure(raised_by(program(), spec(tmp_path)))
    assert (found.end, found.reason) == (End.FAILED, Reason.USER_ERROR)
    first, *frames = found.detail.splitlines()
    assert first == "RuntimeError: shapes do not match"
    assert any("test_trial.py" in line and "in loss" in line for line in frames)
    package = str(Path(checkpoint.__file__).parent)
    assert not any(package in line for line in frames)


def test_an_error_of_ours_keeps_its_frames() -> None:
    try:
        steps_per_epoch(10, 0)
    except Exception as error:
        trimmed = error
    trimmed.__traceback__ = trimmed.__traceback__.tb_next  # type: ignore[union-attr]
    found = failure(trimmed)
    assert "data.py" in found.detail


def test_a_named_failure_keeps_its_reason_also_through_a_pickle() -> None:
    error = InfeasibleTrialError(Reason.NON_FINITE, "training loss nan")
    for one in (error, pickle.loads(pickle.dumps(error))):
        assert failure(one) == Outcome(End.FAILED, Reason.NON_FINITE, "training loss nan")


def test_a_diverging_trial_is_non_finite(tmp_path: Path) -> None:
    found = failure(raised_by(program(), spec(tmp_path, **{"optimizer.name": "sgd", "optimizer.lr": 1e30})))
    assert found.reason is Reason.NON_FINITE
    assert not checkpoint.exists(tmp_path)


def run(folder: Path, seed: int = 5) -> tuple[list[Any], dict[str, Any]]:
    results = [(result.value, {**result.metrics, "seconds": 0.0}) for result in program()(spec(folder, seed))]
    return results, checkpoint.load(folder)["model"]


def test_a_result_does_not_depend_on_what_ran_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, weights = run(tmp_path / "first")
    other, _ = run(tmp_path / "other", seed=6)
    monkeypatch.setattr(Fussy, "raised", ValueError("a trial that fails half-way"))
    raised_by(program(), spec(tmp_path / "failed"))
    monkeypatch.setattr(Fussy, "raised", None)
    half = program()(spec(tmp_path / "half", seed=8))
    next(half)
    torch.manual_seed(1)
    np.random.seed(1)
    again, same = run(tmp_path / "again")
    assert first == again != other
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    # Two trials that take turns in one process do not disturb each other either.
    half.close()  # type: ignore[attr-defined]
    one, two = program()(spec(tmp_path / "one")), program()(spec(tmp_path / "two", seed=6))
    turns = [(next(one).value, next(two).value) for _ in range(2)]
    assert turns == [(mine[0], theirs[0]) for mine, theirs in zip(first, other, strict=True)]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_threads_are_set_for_each_trial(threads: int, tmp_path: Path) -> None:
    torch.set_num_threads(3 - threads)
    next(program(threads=threads)(spec(tmp_path)))
    assert torch.get_num_threads() == threads


def test_the_program_can_be_sent_to_a_worker(tmp_path: Path) -> None:
    sent = pickle.loads(pickle.dumps(program()))
    assert sent == program()
    one = [result.value for result in sent(spec(tmp_path / "sent"))]
    assert one == [result.value for result in program()(replace(spec(tmp_path), directory=tmp_path / "here"))]
