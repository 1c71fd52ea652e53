"""The ledger: what it keeps, and which settings may change under a sweep's name."""

import json
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from orchestrator.config.compose import from_plain, to_plain
from orchestrator.config.schema import RunConfig, TrainerConfig
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.stages.ledger import FREE, FREE_TRAINER, Ledger, Verdict, describe_reads


@pytest.fixture
def settings() -> dict[str, Any]:
    return to_plain(
        from_plain(
            {
                "stage": {"name": "lr"},
                "task": {"name": "toy", "target": "toy.Task", "args": {"split_seed": 0}},
                "recipe": {"order": ["lr"]},
                "stages": {"lr": {"kind": "search", "asks": "which?", "varies": ["optimizer.lr"]}},
                "space": {"optimizer": {"lr": {"type": "float", "low": 0.001, "high": 1.0, "scale": "log"}}},
                "model": {"width": 8},
            }
        )
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "toy-seed0" / "ledger.json"


def changed(settings: dict[str, Any], where: str, value: Any) -> dict[str, Any]:
    """A deep copy of ``settings`` with the dotted key ``where`` set."""
    copy: dict[str, Any] = json.loads(json.dumps(settings))
    *groups, key = where.split(".")
    inner = copy
    for group in groups:
        inner = inner[group]
    assert inner.get(key) != value
    inner[key] = value
    return copy


def test_a_sweep_keeps_its_identity_and_settings(path: Path, settings: dict[str, Any]) -> None:
    assert Ledger.read(path) is None
    first = Ledger.open(path, settings)
    again = Ledger.open(path, settings)
    assert again.sweep_id == first.sweep_id
    assert again.config == first.config
    assert again.config["optimizer"]["lr"] == settings["optimizer"]["lr"]
    other = Ledger.open(path.parents[1] / "other" / "ledger.json", settings)
    assert other.sweep_id != first.sweep_id


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("seed", 1),
        ("optimizer.lr", 0.5),
        ("optimizer.name", "sgd"),
        ("data.batch_size", 7),
        ("model.width", 9),
        ("model.depth", 2),
        ("trainer.epochs", 4),
        ("trainer.patience", 4),
        ("task.args", {"split_seed": 1}),
        ("task.target", "toy.Other"),
        ("space.optimizer.lr.high", 0.5),
        ("sampler.name", "tpe"),
        ("pruner.name", "median"),
        ("runner.cpus_per_trial", 2),
    ],
)
def test_a_change_of_what_a_trial_means_is_refused_with_the_key_named(
    path: Path, settings: dict[str, Any], where: str, value: Any
) -> None:
    Ledger.open(path, settings)
    before = path.read_bytes()
    with pytest.raises(ConfigError) as error:
        Ledger.open(path, changed(settings, where, value))
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith("sweep toy-seed0 was begun with other settings")
    assert where.removeprefix("runner.") in line
    new = value["split_seed"] if isinstance(value, dict) else value
    assert f"-> {new}" in line
    assert "sweep.name=NAME" in line
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("stage.name", "width"),
        ("n_trials", 40),
        ("timeout_s", 1.5),
        ("dry_run", True),
        ("stages.lr.n_trials", 40),
        ("recipe.order", ["lr", "lr"]),
        ("runner.name", "local"),
        ("runner.workers", 2),
        ("runner.address", "auto"),
        ("tracking.name", "none"),
        ("train.seed", 3),
        ("sweep.dir", "elsewhere"),
        ("trainer.keep_checkpoints", 1),
        ("trainer.disk_gb", 1.0),
        ("trainer.data_workers", 3),
        ("trainer.checkpoint_epochs", 3),
    ],
)
def test_what_only_steers_the_next_command_may_change(
    path: Path, settings: dict[str, Any], where: str, value: Any
) -> None:
    first = Ledger.open(path, settings)
    again = Ledger.open(path, changed(settings, where, value))
    assert again.sweep_id == first.sweep_id


def test_many_changes_are_one_line(path: Path, settings: dict[str, Any]) -> None:
    Ledger.open(path, settings)
    other = settings
    for key, value in {"lr": 0.1, "beta1": 0.1, "beta2": 0.1, "eps": 0.1, "ema_decay": 0.1, "clip_norm": 0.1}.items():
        other = changed(other, f"optimizer.{key}", value)
    with pytest.raises(ConfigError, match=r"and 2 more; go back to them") as error:
        Ledger.open(path, other)
    assert "\n" not in str(error.value)


def test_the_free_settings_are_settings() -> None:
    assert set(FREE) <= {item.name for item in fields(RunConfig)}
    assert set(FREE_TRAINER) <= {item.name for item in fields(TrainerConfig)}


def test_finished_stages_are_kept(path: Path, settings: dict[str, Any]) -> None:
    ledger = Ledger.open(path, settings)
    assert ledger.finished == {}
    verdict = Verdict(
        stage="lr",
        trials=5,
        pruned=2,
        infeasible={"non_finite": 1},
        best_trial=3,
        best_value=0.5,
        previous_trial=None,
        previous_value=None,
        changed={"optimizer.lr": (0.1, 0.2)},
    )
    ledger.finish("lr", verdict, "in words")
    for kept in (ledger, Ledger.open(path, settings), Ledger.read(path)):
        assert kept is not None
        assert list(kept.finished) == ["lr"]
        result = kept.finished["lr"]
        assert (result["trials"], result["best_trial"], result["best_value"]) == (5, 3, 0.5)
        assert result["infeasible"] == {"non_finite": 1}
        assert list(result["changed"]["optimizer.lr"]) == [0.1, 0.2]
        assert result["finished"]


def test_reading_the_test_split_is_noted_for_good(path: Path, settings: dict[str, Any]) -> None:
    ledger = Ledger.open(path, settings)
    assert not ledger.test_reads
    ledger.note_test_read()
    again = Ledger.open(path, settings)
    assert list(again.test_reads) == list(ledger.test_reads)
    assert len(again.test_reads) == 1
    assert again.test_reader is None, "no stage finished with it"


@dataclass
class ReadsTest:
    test: dict[str, float]


def test_a_second_reading_is_told_from_one_that_was_lost(path: Path, settings: dict[str, Any]) -> None:
    ledger = Ledger.open(path, settings)
    assert describe_reads(ledger.test_reads) == ""
    ledger.note_test_read()  # and then a kill
    ledger.note_test_read()
    ledger.finish("ensemble", ReadsTest({"loss": 1.0}), "text")
    assert ledger.test_reader == "ensemble"
    assert [read.lost for read in ledger.test_reads] == [True, False]
    told = describe_reads(ledger.test_reads)
    assert told.startswith(f"once, at {ledger.test_reads[1].at}; also at ")
    assert "ended before anything came of it" in told
    ledger.note_test_read()
    assert [read.lost for read in ledger.test_reads] == [True, False, False]
    assert re.match(
        r"2 times: at \S+, and again at \S+ \(ensemble.read_test_again\)", describe_reads(ledger.test_reads)
    )


@dataclass
class Unwritable:
    thing: object


def test_a_result_that_cannot_be_written_leaves_the_ledger(path: Path, settings: dict[str, Any]) -> None:
    ledger = Ledger.open(path, settings)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        ledger.finish("lr", Unwritable(object()), "in words")
    assert path.read_bytes() == before
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize("text", ["", "{", '{"id": 1'])
def test_a_damaged_ledger_is_refused_in_one_line(path: Path, settings: dict[str, Any], text: str) -> None:
    Ledger.open(path, settings)
    path.write_text(text)
    with pytest.raises(OrchestratorError, match=r"ledger\.json: is damaged") as error:
        Ledger.open(path, settings)
    assert "\n" not in str(error.value)
    assert path.read_text() == text


@pytest.mark.parametrize(("best", "previous", "improved"), [(3, None, True), (3, 1, True), (1, 1, False)])
def test_a_stage_improved_if_the_incumbent_changed(best: int, previous: int | None, improved: bool) -> None:
    verdict = Verdict(stage="lr", best_trial=best, best_value=0.1, previous_trial=previous, previous_value=0.2)
    assert verdict.improved is improved


def test_changed_settings_of_a_sweep_without_a_trial_make_a_new_one(path: Path, settings: dict[str, Any]) -> None:
    first = Ledger.open(path, settings)
    assert Ledger.open(path, settings, lambda: False).sweep_id == first.sweep_id
    other = changed(settings, "optimizer.lr", 0.5)
    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        Ledger.open(path, other, lambda: True)
    second = Ledger.open(path, other, lambda: False)
    assert second.sweep_id != first.sweep_id
    assert second.config["optimizer"]["lr"] == 0.5
    assert Ledger.open(path, other).sweep_id == second.sweep_id
