"""What every tracker promises; see orchestrator/tracking/base.py."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pytest
from mlflow import MlflowClient
from mlflow_stores import SWEEP_ID, copy_of_store, read_runs

from orchestrator.tracking.base import (
    NOTE,
    SWEEP,
    DatasetEntry,
    ModelEntry,
    Tracker,
    is_trial,
    link,
    stage_key,
    trial_key,
)
from orchestrator.tracking.memory import MemoryTracker, NullTracker
from orchestrator.tracking.mlflow import KEY_TAG, MlflowTracker

STAGE, TRIAL = stage_key("lr"), trial_key(0)


class Kit(Protocol):
    """A kind of tracker with a place where it writes."""

    def open(self) -> Tracker:
        """A tracker of the sweep, as a new command would make it."""
        ...

    def read(self) -> dict[str, dict[str, Any]]:
        """What is written, by key."""
        ...

    def notes(self) -> dict[str, str]:
        """The descriptions, by key."""
        ...

    def entities(self) -> tuple[dict[str, str], dict[str, str]]:
        """Data sets to their digests, and models to the tag ``trial``, of the sweep's run."""
        ...


class MemoryKit:
    def __init__(self) -> None:
        self.tracker = MemoryTracker()

    def open(self) -> Tracker:
        return self.tracker

    def read(self) -> dict[str, dict[str, Any]]:
        return {
            key: {
                "name": run.name,
                "parent": run.parent,
                "params": {name: str(value) for name, value in run.params.items()},
                "tags": run.tags,
                "steps": {name: [step[name] for step in run.steps.values() if name in step] for name in names(run)},
                "summary": run.metrics,
                "artifacts": run.artifacts | {name: content.decode() for name, content in run.files.items()},
                "status": run.status,
            }
            for key, run in self.tracker.runs.items()
        }

    def notes(self) -> dict[str, str]:
        return {key: run.tags[NOTE] for key, run in self.tracker.runs.items() if NOTE in run.tags}

    def entities(self) -> tuple[dict[str, str], dict[str, str]]:
        run = self.tracker.runs[SWEEP]
        return (
            {name: entry.digest for name, entry in run.datasets.items()},
            {name: entry.tags["trial"] for name, entry in run.models.items()},
        )


def names(run: Any) -> list[str]:
    return list(dict.fromkeys(name for step in run.steps.values() for name in step))


@dataclass
class MlflowKit:
    uri: str
    opened: list[MlflowTracker] = field(default_factory=list)

    def open(self) -> Tracker:
        self.opened.append(MlflowTracker(self.uri, "digits", SWEEP_ID, flush_s=0.05))
        return self.opened[-1]

    def read(self) -> dict[str, dict[str, Any]]:
        return read_runs(self.uri, "digits")

    def _runs(self) -> list[Any]:
        client = MlflowClient(self.uri)
        return list(client.search_runs([client.get_experiment_by_name("digits").experiment_id]))

    def notes(self) -> dict[str, str]:
        return {run.data.tags[KEY_TAG]: run.data.tags[NOTE] for run in self._runs() if NOTE in run.data.tags}

    def entities(self) -> tuple[dict[str, str], dict[str, str]]:
        [sweep] = [run for run in self._runs() if run.data.tags[KEY_TAG] == SWEEP]
        models = MlflowClient(self.uri).search_logged_models([sweep.info.experiment_id])
        assert [output.model_id for output in sweep.outputs.model_outputs] == [model.model_id for model in models]
        assert all(model.status == "READY" for model in models)
        return (
            {used.dataset.name: used.dataset.digest for used in sweep.inputs.dataset_inputs},
            {model.name: model.tags["trial"] for model in models},
        )


@pytest.fixture(params=["memory", "mlflow"])
def kit(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Kit]:
    if request.param == "memory":
        yield MemoryKit()
        return
    found = MlflowKit(copy_of_store(request, tmp_path))
    yield found
    for tracker in found.opened:
        tracker.close()


def begin(tracker: Tracker) -> None:
    tracker.begin(SWEEP, None, "digits-seed0", {"optimizer.lr": 0.1, "model.width": 8}, {"kind": "sweep"})
    tracker.artifact(SWEEP, "config.yaml", "seed: 0\n")
    tracker.begin(STAGE, SWEEP, "lr", {}, {"kind": "stage"})
    tracker.begin(TRIAL, STAGE, "lr=0.1", {"optimizer.lr": 0.1, "optimizer.name": "sgd"}, {"stage": "lr"})


def train(tracker: Tracker, *epochs: int) -> None:
    for epoch in epochs:
        tracker.log(TRIAL, epoch, {"val/loss": 1 / epoch, "val/accuracy": 0.5})


def end(tracker: Tracker) -> None:
    tracker.artifact(TRIAL, "notes/detail.txt", "two\nlines")
    tracker.end(TRIAL, "FINISHED", {"best": 0.25, "epochs": 4.0}, {"state": "complete"})
    tracker.end(STAGE, "FINISHED", {"trials": 1.0}, {"verdict": "fine"})
    tracker.end(SWEEP, "FINISHED", {"best": 0.25}, {})


WHOLE = {
    SWEEP: {
        "name": "digits-seed0",
        "parent": None,
        "params": {"optimizer.lr": "0.1", "model.width": "8"},
        "tags": {"kind": "sweep"},
        "steps": {},
        "summary": {"best": 0.25},
        "artifacts": {"config.yaml": "seed: 0\n"},
        "status": "FINISHED",
    },
    STAGE: {
        "name": "lr",
        "parent": SWEEP,
        "params": {},
        "tags": {"kind": "stage", "verdict": "fine"},
        "steps": {},
        "summary": {"trials": 1.0},
        "artifacts": {},
        "status": "FINISHED",
    },
    TRIAL: {
        "name": "lr=0.1",
        "parent": STAGE,
        "params": {"optimizer.lr": "0.1", "optimizer.name": "sgd"},
        "tags": {"stage": "lr", "state": "complete"},
        "steps": {"val/loss": [1.0, 0.5, 1 / 3, 0.25], "val/accuracy": [0.5] * 4},
        "summary": {"best": 0.25, "epochs": 4.0},
        "artifacts": {"notes/detail.txt": "two\nlines"},
        "status": "FINISHED",
    },
}


def test_the_whole_tree_is_written(kit: Kit) -> None:
    tracker = kit.open()
    begin(tracker)
    train(tracker, 1, 2, 3, 4)
    end(tracker)
    assert tracker.close() == 0
    assert kit.read() == WHOLE


def test_repeating_every_call_writes_nothing_twice(kit: Kit) -> None:
    tracker = kit.open()
    for _ in range(2):
        begin(tracker)
        begin(tracker)
        train(tracker, 1, 1, 2, 3, 2, 4)
        end(tracker)
    end(tracker)
    assert tracker.close() == 0
    assert kit.read() == WHOLE


def test_a_later_command_that_sends_all_again_writes_nothing_twice(kit: Kit) -> None:
    for _ in range(3):
        tracker = kit.open()
        begin(tracker)
        train(tracker, 1, 2, 3, 4)
        end(tracker)
        assert tracker.close() == 0
    assert kit.read() == WHOLE


def test_a_run_that_was_begun_is_continued_at_its_next_step(kit: Kit) -> None:
    tracker = kit.open()
    begin(tracker)
    train(tracker, 1, 2)
    assert tracker.close() == 0
    half = kit.read()
    assert half[TRIAL]["status"] == "RUNNING"
    assert half[TRIAL]["steps"]["val/loss"] == [1.0, 0.5]
    tracker = kit.open()
    begin(tracker)
    train(tracker, 1, 2, 3, 4)
    end(tracker)
    assert tracker.close() == 0
    assert kit.read() == WHOLE


def test_a_finished_trial_never_changes_and_a_sweep_goes_on(kit: Kit) -> None:
    tracker = kit.open()
    begin(tracker)
    train(tracker, 1, 2, 3, 4)
    end(tracker)
    tracker.close()
    tracker = kit.open()
    begin(tracker)
    train(tracker, 5)
    tracker.end(TRIAL, "FAILED", {"best": 9.0}, {"state": "infeasible"})
    tracker.close()
    found = kit.read()
    assert found[TRIAL] == WHOLE[TRIAL]
    assert found[SWEEP]["status"] == found[STAGE]["status"] == "RUNNING"
    tracker = kit.open()
    tracker.begin(SWEEP, None, "digits-seed0", {}, {})
    tracker.end(SWEEP, "KILLED", {"best": 0.125}, {})
    tracker.close()
    assert kit.read()[SWEEP] == {**WHOLE[SWEEP], "status": "KILLED", "summary": {"best": 0.125}}


def test_a_failed_trial_keeps_its_reason(kit: Kit) -> None:
    tracker = kit.open()
    begin(tracker)
    tracker.end(TRIAL, "FAILED", {}, {"state": "infeasible", "reason": "non_finite"})
    assert tracker.close() == 0
    found = kit.read()[TRIAL]
    assert found["status"] == "FAILED"
    assert found["tags"] == {"stage": "lr", "state": "infeasible", "reason": "non_finite"}


def test_the_null_tracker_takes_everything_and_leaves_nothing() -> None:
    tracker = NullTracker()
    begin(tracker)
    train(tracker, 1, 2)
    end(tracker)
    assert tracker.close() == 0
    assert vars(tracker) == {}


def test_a_file_is_kept_as_it_is(kit: Kit, tmp_path: Path) -> None:
    picture = tmp_path / "picture.png"
    picture.write_text("not a text")
    tracker = kit.open()
    begin(tracker)
    for _ in range(2):
        tracker.file(STAGE, "preflight", picture)
    tracker.file(STAGE, "preflight/more", picture)
    train(tracker, 1, 2, 3, 4)
    end(tracker)
    assert tracker.close() == 0
    wanted = {"preflight/picture.png": "not a text", "preflight/more/picture.png": "not a text"}
    assert kit.read() == {**WHOLE, STAGE: {**WHOLE[STAGE], "artifacts": wanted}}


def test_a_link_leads_to_the_run_it_names(kit: Kit) -> None:
    tracker = kit.open()
    begin(tracker)
    tracker.end(STAGE, "FINISHED", {}, {NOTE: f"by {link(TRIAL, 'trial 0')}, not {link('trial:7', 'trial 7')}"})
    assert tracker.close() == 0
    found = kit.notes()[STAGE]
    if isinstance(kit, MlflowKit):
        client = MlflowClient(kit.uri)
        experiment = client.get_experiment_by_name("digits").experiment_id
        [trial] = client.search_runs([experiment], f"tags.`orchestrator.key` = '{TRIAL}'")
        # MLflow's pages; a run that is not there has no address.
        assert found == f"by [trial 0](#/experiments/{experiment}/runs/{trial.info.run_id}), not trial 7"
    else:
        assert found == "by [trial 0](run:trial:0), not [trial 7](run:trial:7)"


def test_data_sets_and_models_are_kept_once(kit: Kit, tmp_path: Path) -> None:
    weights = tmp_path / "winner.pt"
    weights.write_text("weights")
    dataset = DatasetEntry("digits training", "abc", "tasks.Digits", "training", {"examples": 5})
    model = ModelEntry("winner", {"optimizer.lr": 0.1}, {"trial": "0"}, (weights,), {"winner/loss": 0.25})
    for _ in range(2):
        tracker = kit.open()
        begin(tracker)
        for _ in range(2):
            tracker.dataset(SWEEP, dataset)
            tracker.model(SWEEP, model)
        assert tracker.close() == 0
    assert kit.entities() == ({"digits training": "abc"}, {"winner": "0"})


def test_keys_tell_trials_from_stages() -> None:
    assert is_trial(TRIAL)
    assert not is_trial(STAGE)
    assert not is_trial(stage_key("trial:"))
    assert not is_trial(SWEEP)
    assert len({SWEEP, STAGE, stage_key("width"), TRIAL, trial_key(1)}) == 5
