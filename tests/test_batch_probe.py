"""The largest batch that memory holds is found by trying, and nothing larger is proposed."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from killed_sweeps import trials
from ranked_task import arguments

from orchestrator.app.main import main
from orchestrator.batch_probe import RATIO, BatchProbe, largest
from orchestrator.config.hyperparameters import DataConfig, Hyperparameters
from orchestrator.config.schema import TaskConfig, TrainerConfig
from orchestrator.stages import memory_limit
from orchestrator.types import TrialSpec

pytestmark = pytest.mark.timeout(240)


@given(st.integers(0, 5000), st.integers(1, 600), st.integers(1, 5000))
def test_the_largest_is_found_in_few_tries(limit: int, first: int, highest: int) -> None:
    tried: list[int] = []

    def fits(size: int) -> bool:
        tried.append(size)
        return size <= limit

    found = list(largest(fits, first, highest))
    assert found == sorted(set(found))
    assert all(1 <= size <= highest for size in tried)
    assert len(tried) == len(set(tried)) <= 24
    best, most = (found[-1] if found else 0), min(limit, highest)
    assert best <= most
    assert best == most or most < RATIO * best or (best, most) == (0, 0)


def test_across_ranks_the_one_with_least_memory_decides(tmp_path: Path) -> None:
    """The second of two ranks has room for 12 examples: batches of 22, with headroom."""
    probe = BatchProbe(
        TaskConfig(name="ranked", target="ranked_task.Ranked", args=arguments(tmp_path, "large")),
        TrainerConfig(device="cpu", workers=2),
        threads=2,
        highest=24,
    )
    configuration = Hyperparameters(data=DataConfig(batch_size=16), model={"width": 8, "norm": True}).flat()
    spec = TrialSpec(-1, "batch size", configuration, seed=0, epochs=1, directory=tmp_path, keep=False)
    assert [int(result.value) for result in probe(spec)] == [16, 19, 21, 22]


def test_a_search_proposes_no_batch_that_memory_does_not_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a worker whose address space is limited; the space reaches up to all 400 examples."""
    monkeypatch.chdir(tmp_path)
    words = [
        *("stage=batch_size", "task=custom", "task.name=limited", "task._target_=limited_task.Limited"),
        *(f"+task.args.main={os.getpid()}", "tracking=none", "runner=local", "sampler=random", "pruner=none"),
        *("recipe.probe_batch_size=always", "trainer.epochs=1", "trainer.eval_batch_size=16", "trainer.swa_share=0"),
        *("recipe.repeats=0", "data.batch_size=16", "space.data.batch_size.high=400", "n_trials=3"),
    ]
    assert main(words) == 0
    ledger = json.loads((tmp_path / "sweeps/limited-seed0/ledger.json").read_text())
    limit = ledger["batch_limit"]
    assert f"memory holds batches of up to {limit} examples" in capsys.readouterr().out
    assert 16 < limit < 400
    found = trials(tmp_path / "sweeps/limited-seed0")
    assert [trial["state"] for trial in found] == ["COMPLETE"] * 3
    assert all(trial["configuration"]["data.batch_size"] <= limit for trial in found)
    # It is known when the command is typed again.
    monkeypatch.setattr(BatchProbe, "__call__", None)
    assert main(words) == 0


def test_on_demand_it_is_tried_on_gpus_only(tmp_path: Path) -> None:
    task = TaskConfig(name="ranked", target="ranked_task.Ranked", args=arguments(tmp_path, "large"))
    probe = BatchProbe(task, TrainerConfig(device="cpu"), threads=1, highest=24, anywhere=False)
    spec = TrialSpec(-1, "batch size", {}, seed=0, epochs=1, directory=tmp_path, keep=False)
    assert [result.value for result in probe(spec)] == [24]


@pytest.mark.parametrize(("fits", "told"), [(99, "the largest batch that fits has 99 examples"), (0, "not even one")])
def test_a_default_that_does_not_fit_is_refused(
    fits: int, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory_limit, "_probe", lambda sweep, runner: fits)
    words = ["stage=batch_size", "runner=local", "tracking=none", "recipe.probe_batch_size=always"]
    assert main([*words, "data.batch_size=400"]) == 2
    assert f"data.batch_size=400: does not fit in memory: {told}" in capsys.readouterr().err
