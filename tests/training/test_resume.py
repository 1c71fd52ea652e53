"""An interrupted trial ends with the same bits as one that was never interrupted (on the CPU)."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from orchestrator.config.hyperparameters import (
    DataConfig,
    Hyperparameters,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import DamagedError, OrchestratorError
from orchestrator.tasks.base import Splits, Task
from orchestrator.tasks.digits import DigitsCNN, DigitsMLP
from orchestrator.training import checkpoint
from orchestrator.training.fit import fit
from orchestrator.training.loop import Loop
from orchestrator.types import EpochResult, TrialSpec

EPOCHS = 5
SGD = OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3)
BATCH = DataConfig(batch_size=256)
ADAMW = OptimizerConfig(name="adamw", lr=0.01, weight_decay=0.1)

CASES: dict[str, tuple[type[Task], Hyperparameters]] = {
    "sgd with momentum": (DigitsMLP, Hyperparameters(optimizer=SGD, data=BATCH, model={"width": 16})),
    "adam": (
        DigitsMLP,
        Hyperparameters(optimizer=OptimizerConfig(name="adam", lr=0.01), data=BATCH, model={"width": 16}),
    ),
    "adamw, clipping, label smoothing": (
        DigitsMLP,
        Hyperparameters(
            optimizer=replace(ADAMW, clip_norm=0.5),
            loss=LossConfig(label_smoothing=0.1),
            data=BATCH,
            model={"width": 16},
        ),
    ),
    "average of the weights": (
        DigitsMLP,
        Hyperparameters(optimizer=replace(SGD, ema_decay=0.95), data=BATCH, model={"width": 16}),
    ),
    "dropout": (DigitsMLP, Hyperparameters(optimizer=SGD, data=BATCH, model={"width": 16, "dropout": 0.3})),
    "one cycle": (
        DigitsMLP,
        Hyperparameters(optimizer=ADAMW, schedule=ScheduleConfig(kind="one_cycle"), data=BATCH, model={"width": 16}),
    ),
    "augmentation": (
        DigitsMLP,
        Hyperparameters(optimizer=SGD, data=replace(BATCH, augmentation=0.5), model={"width": 16}),
    ),
    "batch norm and everything": (
        DigitsCNN,
        Hyperparameters(
            optimizer=replace(ADAMW, ema_decay=0.9, clip_norm=1.0),
            data=replace(BATCH, augmentation=0.7),
            schedule=ScheduleConfig(kind="cosine", warmup=0.2),
            model={"width": 4, "depth": 2, "dropout": 0.2},
        ),
    ),
}

SPLITS: dict[type[Task], Splits] = {}


def splits(task: Task) -> Splits:
    return SPLITS.setdefault(type(task), task.splits())


def start(
    name: str,
    folder: Path,
    *,
    checkpoint_epochs: int = 100,
    save_at: tuple[int, ...] = (),
    patience: int = 0,
    reported: int = EPOCHS,
    resume_from: Path | None = None,
) -> Iterator[EpochResult]:
    kind, hyperparameters = CASES[name]
    task = kind()
    config = TrainerConfig(
        epochs=EPOCHS, checkpoint_epochs=checkpoint_epochs, device="cpu", patience=patience, eval_batch_size=100
    )
    spec = TrialSpec(
        0, "lr", {}, seed=3, epochs=EPOCHS, directory=folder, save_at=save_at, reported=reported,
        resume_from=resume_from,
    )  # fmt: skip
    return fit(task, splits(task), hyperparameters, config, spec)


def plain(result: EpochResult) -> tuple[Any, ...]:
    """Everything but the time."""
    return result.epoch, result.value, {name: x for name, x in result.metrics.items() if name != "seconds"}


def assert_same(one: Any, other: Any, where: str = "state") -> None:
    """Equal to the last bit, all the way down; but not the time that an epoch took, nor what was told since the
    checkpoint before."""
    if where.endswith((".seconds", ".recent")):
        return
    assert type(one) is type(other), where
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype, where
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}.{index}")
    else:
        assert one == other, where


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[list[Any], dict[str, Any]]]:
    """Results and last state of each case, never interrupted."""
    found = {}
    for name in CASES:
        folder = tmp_path_factory.mktemp("whole")
        results = [plain(result) for result in start(name, folder)]
        assert [result[0] for result in results] == list(range(1, EPOCHS + 1))
        found[name] = results, checkpoint.load(folder)
    return found


def disturb() -> None:
    """What another trial in the same process would leave behind."""
    torch.manual_seed(999)
    torch.rand(17)


@pytest.mark.parametrize("name", CASES)
def test_closed_early_and_continued(name: str, whole: Any, tmp_path: Path) -> None:
    results, state = whole[name]
    for stops in ((1,), (3,), (1, 2, 4), (EPOCHS,)):
        folder = tmp_path / "-".join(map(str, stops))
        seen = []
        for stop in stops:
            epochs = start(name, folder)
            if seen:
                assert plain(next(epochs)) == seen[-1], "the checkpoint's own epoch comes again first"
            while not seen or seen[-1][0] < stop:
                seen.append(plain(next(epochs)))
            epochs.close()  # type: ignore[attr-defined]
            assert checkpoint.load(folder)["epoch"] == stop
            disturb()
        seen += [plain(result) for result in start(name, folder)][1:]
        assert seen == results, stops
        assert_same(checkpoint.load(folder), state)


@pytest.mark.parametrize("name", CASES)
def test_abandoned_and_continued_from_the_last_periodic_checkpoint(name: str, whole: Any, tmp_path: Path) -> None:
    results, state = whole[name]
    epochs = start(name, tmp_path, checkpoint_epochs=2)
    first = [plain(next(epochs)) for _ in range(3)]
    kept = (tmp_path / checkpoint.NAME).read_bytes()
    epochs.close()  # type: ignore[attr-defined]
    # A killed process writes nothing more: only what was there before the end remains.
    (tmp_path / checkpoint.NAME).write_bytes(kept)
    assert checkpoint.load(tmp_path)["epoch"] == 2
    disturb()
    rest = [plain(result) for result in start(name, tmp_path, checkpoint_epochs=2)]
    assert first[:1] + rest == results
    assert first[1:] == rest[:2]
    assert_same(checkpoint.load(tmp_path), state)


def test_checkpoints_are_written_when_due(tmp_path: Path) -> None:
    saved = []
    for result in start("dropout", tmp_path, checkpoint_epochs=4, save_at=(1,)):
        kept = checkpoint.load(tmp_path)["epoch"] if checkpoint.exists(tmp_path) else 0
        saved.append((result.epoch, kept))
    assert saved == [(1, 1), (2, 1), (3, 1), (4, 4), (5, 5)]


def test_a_finished_trial_started_again_trains_nothing(tmp_path: Path) -> None:
    list(start("dropout", tmp_path))
    state = checkpoint.load(tmp_path)
    assert [result.epoch for result in start("dropout", tmp_path)] == [EPOCHS]
    assert_same(checkpoint.load(tmp_path), state)


def test_keep_false_writes_and_reads_nothing(tmp_path: Path) -> None:
    kind, hyperparameters = CASES["dropout"]
    task = kind()
    folder = tmp_path / "trial"
    spec = TrialSpec(0, "lr", {}, seed=3, epochs=2, directory=folder, save_at=(1,), keep=False)
    config = TrainerConfig(epochs=2, checkpoint_epochs=1, device="cpu")
    epochs = fit(task, splits(task), hyperparameters, config, spec)
    next(epochs)
    epochs.close()  # type: ignore[attr-defined]
    assert len(list(fit(task, splits(task), hyperparameters, config, spec))) == 2
    assert not folder.exists()


def test_early_stopping_goes_on_counting_after_a_resume(tmp_path: Path) -> None:
    kind, _ = CASES["dropout"]
    task = kind()
    # A rate so high that nothing is learnt after the first epochs.
    bad = Hyperparameters(
        optimizer=OptimizerConfig(name="sgd", lr=2.0, clip_norm=1.0), data=BATCH, model={"width": 4}
    )
    config = TrainerConfig(epochs=40, patience=3, device="cpu")

    def go(folder: Path) -> Iterator[EpochResult]:
        spec = TrialSpec(0, "lr", {}, seed=0, epochs=40, directory=folder)
        return fit(task, splits(task), bad, config, spec)

    results = [plain(result) for result in go(tmp_path / "whole")]
    assert 4 <= len(results) < 40
    seen: list[Any] = []
    for _ in range(len(results)):
        epochs = go(tmp_path / "parts")
        if seen:
            assert plain(next(epochs)) == seen[-1]
        seen.append(plain(next(epochs)))
        epochs.close()  # type: ignore[attr-defined]
    assert seen == results
    assert [plain(result) for result in go(tmp_path / "parts")] == results[-1:]


def test_a_checkpoint_holds_tensors_and_plain_values_only(tmp_path: Path) -> None:
    list(start("batch norm and everything", tmp_path))
    # weights_only: torch refuses anything that would need code to be run.
    state = torch.load(tmp_path / checkpoint.NAME, weights_only=True)
    assert {"model", "optimizer", "average", "best", "epoch", "step"} <= state.keys()
    assert state["best"]["model"].keys() == state["model"].keys()


def test_a_task_that_scores_with_numpy_leaves_a_readable_checkpoint(tmp_path: Path) -> None:
    import numpy as np

    class NumpyScores(DigitsMLP):
        def score(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
            return {name: np.float64(value) for name, value in super().score(predictions, targets).items()}

    task = NumpyScores()
    spec = TrialSpec(0, "lr", {}, seed=0, epochs=1, directory=tmp_path)
    config = TrainerConfig(epochs=1, device="cpu")
    [result] = fit(task, splits(task), Hyperparameters(model={"width": 4}), config, spec)
    assert type(result.value) is float
    assert checkpoint.load(tmp_path)["best"]["value"] == result.value


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_checkpoint_is_named(share: float, tmp_path: Path) -> None:
    list(start("dropout", tmp_path))
    path = tmp_path / checkpoint.NAME
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(OrchestratorError, match=r"checkpoint\.pt: is damaged") as caught:
        next(start("dropout", tmp_path))
    assert "\n" not in str(caught.value)


def flip(path: Path) -> None:
    """One bit in each kilobyte: some lie in padding, where nothing depends on them."""
    content = bytearray(path.read_bytes())
    for at in range(500, len(content), 1000):
        content[at] ^= 0x10
    path.write_bytes(content)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


@pytest.mark.parametrize("damage", [cut, flip])
def test_a_damaged_checkpoint_is_recovered_from_the_one_before(damage: Any, whole: Any, tmp_path: Path) -> None:
    results, state = whole["dropout"]
    epochs = start("dropout", tmp_path, checkpoint_epochs=2)
    for _ in range(4):
        next(epochs)
    path = tmp_path / checkpoint.NAME
    assert [checkpoint.load(tmp_path, name)["epoch"] for name in (checkpoint.NAME, checkpoint.PREVIOUS)] == [4, 2]
    damage(path)
    again = start("dropout", tmp_path, checkpoint_epochs=2, reported=4)
    found = [next(again) for _ in range(3)]
    assert f"{path}: is damaged" in found[0].note
    assert found[0].note.endswith("it goes on from the older one, of epoch 2")
    assert [result.note for result in found[1:]] == ["", ""]
    # What was damaged has not taken the place of what is whole.
    assert [checkpoint.load(tmp_path, name)["epoch"] for name in (checkpoint.NAME, checkpoint.PREVIOUS)] == [4, 2]
    assert [plain(result) for result in [*found, *again]] == results[1:]
    assert_same(checkpoint.load(tmp_path), state)


def test_with_both_damaged_it_goes_on_from_the_trial_that_it_continues_or_not_at_all(tmp_path: Path) -> None:
    parent, own = tmp_path / "parent", tmp_path / "own"
    epochs = start("dropout", parent, checkpoint_epochs=2)
    for _ in range(2):
        next(epochs)
    continued = start("dropout", own, checkpoint_epochs=1, reported=2, resume_from=parent)
    assert [next(continued).epoch for _ in range(3)] == [2, 3, 4]
    for name in (checkpoint.NAME, checkpoint.PREVIOUS):
        flip(own / name)
    first = next(start("dropout", own, checkpoint_epochs=1, reported=4, resume_from=parent))
    assert (first.epoch, first.note.rpartition("; ")[2]) == (2, "it goes on from the older one, of epoch 2")
    with pytest.raises(DamagedError, match=r"checkpoint\.pt: is damaged .* or remove it"):
        next(start("dropout", own, checkpoint_epochs=1, reported=4))


def test_a_checkpoint_that_is_gone_is_said(tmp_path: Path) -> None:
    first = next(start("dropout", tmp_path / "lost", checkpoint_epochs=2, reported=3))
    assert "lost: the checkpoint of epoch 2 or later is gone; it goes on from the start" in first.note
    first = next(start("dropout", tmp_path / "own", checkpoint_epochs=4, reported=3))
    assert first.note == "", "there was none yet"
    first = next(start("dropout", tmp_path / "child", reported=3, resume_from=tmp_path / "parent"))
    assert "it goes on from the start" in first.note


def test_a_kill_between_the_two_steps_of_keeping_the_old_one(whole: Any, tmp_path: Path) -> None:
    results, _ = whole["dropout"]
    epochs = start("dropout", tmp_path, checkpoint_epochs=2)
    for _ in range(2):
        next(epochs)
    (tmp_path / checkpoint.NAME).rename(tmp_path / checkpoint.PREVIOUS)
    again = list(start("dropout", tmp_path, checkpoint_epochs=2, reported=3))
    assert {result.note for result in again} == {""}
    assert [plain(result) for result in again] == results[1:]


def test_what_a_power_loss_took_from_the_driver_is_reported_again(whole: Any, tmp_path: Path) -> None:
    """The driver makes an epoch durable when its checkpoint is, and may lose those since."""
    results, _ = whole["dropout"]
    epochs = start("dropout", tmp_path, checkpoint_epochs=2)
    first = [next(epochs) for _ in range(4)]
    assert [result.saved for result in first] == [False, True, False, True]
    again = list(start("dropout", tmp_path, checkpoint_epochs=2, reported=2))
    assert [plain(result) for result in again] == results[2:]
    assert all(result.saved for result in again)


def test_memory_is_measured_for_each_trial_by_itself(tmp_path: Path) -> None:
    def peak(pixels: int, folder: str) -> int:
        torch.manual_seed(0)
        data = TensorDataset(torch.rand(64, 1, pixels), torch.zeros(64, dtype=torch.long))
        spec = TrialSpec(0, "lr", {}, seed=0, epochs=1, directory=tmp_path / folder)

        class Large(DigitsMLP):
            def model(self, width: int = 8) -> nn.Module:  # type: ignore[override]
                return nn.Sequential(nn.Flatten(), nn.Linear(pixels, width), nn.Linear(width, 10))

        config = TrainerConfig(epochs=1, device="cpu")
        [result] = fit(Large(), Splits(data, data, data), Hyperparameters(model={"width": 256}), config, spec)
        [use] = result.memory
        assert use.where == "host"
        assert use.limit_bytes > 2**28
        return use.peak_bytes

    weights = 256 * 100_000 * 4
    assert peak(100_000, "large") > 2 * weights, "weights and gradients"
    assert peak(1000, "small") < weights, "what the trial before held counts for it only"


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {"epoch": 1})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(tmp_path, {"epoch": 2, "bad": lambda: None})
    assert checkpoint.load(tmp_path) == {"epoch": 1}
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.NAME], "nothing aside, and none kept"


def test_restoring_a_state_makes_a_fresh_loop_equal(tmp_path: Path) -> None:
    kind, hyperparameters = CASES["batch norm and everything"]
    task = kind()
    spec = TrialSpec(0, "lr", {}, seed=3, epochs=EPOCHS, directory=tmp_path)
    loops = [Loop(task, splits(task), hyperparameters, TrainerConfig(device="cpu"), spec) for _ in range(2)]
    loops[0].run_epoch()
    checkpoint.save(tmp_path, loops[0].state())
    loops[1].restore(checkpoint.load(tmp_path))
    assert_same(loops[1].state(), loops[0].state())
