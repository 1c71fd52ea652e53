"""``stage=preflight`` as its user sees it, and what it keeps (a few checks only, a tiny task)."""

import importlib
import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from orchestrator.app import main as app
from orchestrator.app.main import main
from orchestrator.preflight.registry import checks
from orchestrator.tasks import loading
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.tracking.memory import MemoryTracker

KEPT = {"task_runs", "finite_data", "class_balance", "loss_direction", "init_loss", "new_model"}
NAME = "small-seed0"

TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from orchestrator import ClassificationTask, Splits


class Small(ClassificationTask):
    def splits(self):
        inputs = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
        targets = (inputs[:, 0] + inputs[:, 1] > 0).long()
        return Splits(*(TensorDataset(inputs[i::3], targets[i::3]) for i in range(3)))

    def model(self, width: int = 8):
        return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 2))
"""
NEGATED = """
    def loss(self, outputs, targets, label_smoothing=0.0):
        return -super().loss(outputs, targets, label_smoothing)
"""
EAGER = """
class Eager(nn.Sequential):
    def __init__(self, *layers):
        super().__init__(*layers)
        with torch.no_grad():
            self[-1].bias[:] = torch.tensor([0.0, 0.8])


_model = Small.model
Small.model = lambda self, width=8: Eager(*_model(self, width))
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])


@pytest.fixture
def tracker(monkeypatch: pytest.MonkeyPatch) -> MemoryTracker:
    found = MemoryTracker()
    monkeypatch.setattr(app, "make_tracker", lambda sweep: found)
    return found


def words(source: str, *more: str) -> list[str]:
    """The words that work on the task ``source``, with the kept checks only."""
    sys.modules.pop("small_task", None)
    loading._load_cached.cache_clear()
    importlib.invalidate_caches()
    Path("small_task.py").write_text(source)
    left_out = sorted(row.name for row in checks() if row.name not in KEPT)
    settings = ["trainer.epochs=3", "n_trials=2", "sampler=random", "runner=inline", "tracking=none"]
    task = ["task=custom", "task.name=small", "task._target_=small_task.Small"]
    return [*task, *settings, f"preflight.skip=[{','.join(left_out)}]", *more]


def ledger() -> dict:
    return json.loads(Path("sweeps", NAME, "ledger.json").read_text())


def test_a_sound_task_passes_and_nothing_is_trained(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=preflight", *words(TASK)]) == 0
    output = capsys.readouterr().out
    assert "[preflight] is the data sound, is the training code right" in output
    assert re.search(r"preflight of Small: \d+ pass", output)
    result = ledger()["stages"]["preflight"]
    assert (result["worst"], result["failed"]) == ("pass", [])
    report = json.loads(Path("sweeps", NAME, "preflight", "report.json").read_text())
    assert {found["check"] for found in report["findings"] if found["severity"] == "pass"} >= {"init_loss"}
    assert not any(Path("sweeps", NAME, "trials").iterdir())


def test_a_broken_task_is_blocked_with_exit_code_3_before_any_trial(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=all", "recipe.order=[preflight,lr]", *words(TASK + NEGATED)]) == 3
    captured = capsys.readouterr()
    assert re.search(r"^FAIL loss_direction: ", captured.out, re.MULTILINE)
    assert "  likely: " in captured.out
    assert "  do: " in captured.out
    assert re.match(r"orchestrator: preflight: FAIL in .*loss_direction.*preflight.on_fail=warn", captured.err)
    assert captured.err.count("\n") == 1
    assert "[lr]" not in captured.out
    assert "loss_direction" in ledger()["stages"]["preflight"]["failed"]
    assert not any(Path("sweeps", NAME, "trials").iterdir())


def test_the_mended_task_is_checked_again_and_tuned_and_then_not_checked_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    order = ["stage=all", "recipe.order=[preflight,lr]"]
    assert main([*order, *words(TASK + NEGATED)]) == 3
    assert main([*order, *words(TASK)]) == 0
    assert set(ledger()["stages"]) == {"preflight", "lr"}
    capsys.readouterr()
    assert main([*order, *words(TASK)]) == 0
    assert "[preflight] finished before; skipped (stage=preflight checks again)" in capsys.readouterr().out
    # Asked for by name it checks again: the code may have changed.
    assert main(["stage=preflight", *words(TASK + NEGATED)]) == 3


def test_settings_may_change_after_a_failed_preflight_but_not_after_a_trial(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["stage=preflight", *words(TASK + NEGATED)]) == 3
    assert main(["stage=preflight", *words(TASK, "optimizer.lr=0.02")]) == 0
    assert main(["stage=lr", *words(TASK, "optimizer.lr=0.02")]) == 0
    capsys.readouterr()
    assert main(["stage=preflight", *words(TASK, "optimizer.lr=0.03")]) == 2
    assert "optimizer.lr 0.02 -> 0.03" in capsys.readouterr().err


def test_on_fail_warn_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    source = words(TASK + NEGATED, "preflight.on_fail=warn")
    assert main(["stage=all", "recipe.order=[preflight,lr]", *source]) == 0
    output = capsys.readouterr().out
    assert re.search(r"\[preflight\] FAIL in .*loss_direction.*; going on because preflight.on_fail=warn", output)
    assert "best learning rate" in output
    main(["stage=status", *source])
    assert re.search(r"^  preflight +failed ", capsys.readouterr().out, re.MULTILINE)


def test_a_skipped_check_does_not_block(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=preflight", *words(TASK + NEGATED)]) == 3
    failed = ledger()["stages"]["preflight"]["failed"]
    skipped = sorted({*failed, *(row.name for row in checks() if row.name not in KEPT)})
    assert main(["stage=preflight", *words(TASK + NEGATED), f"preflight.skip=[{','.join(skipped)}]"]) == 0
    report = json.loads(Path("sweeps", NAME, "preflight", "report.json").read_text())
    reasons = {found["statistic"] for found in report["findings"] if found["check"] in failed}
    assert reasons == {"left out by preflight.skip"}


def test_the_list_names_every_check_in_one_line_and_starts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["preflight.list=true"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [row.name for row in checks()]
    assert list(Path().iterdir()) == []


def test_a_threshold_of_ones_own_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=preflight", *words(TASK + EAGER)]) == 0
    assert ledger()["stages"]["preflight"]["worst"] == "pass"
    strict = "preflight.settings.init_loss.warn=1.01"
    assert main(["stage=preflight", *words(TASK + EAGER, strict)]) == 0
    assert "WARN init_loss: " in capsys.readouterr().out
    result = ledger()["stages"]["preflight"]
    assert result["worst"] == "warn"
    assert [found["check"] for found in result["findings"] if found["severity"] == "warn"] == ["init_loss"]


def test_what_was_found_is_tracked(tracker: MemoryTracker) -> None:
    assert main(["stage=preflight", *words(TASK + NEGATED)]) == 3
    run = tracker.runs[stage_key("preflight")]
    assert run.status == "FAILED"
    assert run.tags["preflight"] == "fail"
    assert "loss_direction" in run.tags["preflight.fail"].split(", ")
    assert "| fail | loss_direction |" in run.tags["mlflow.note.content"]
    assert run.metrics["checks/fail"] >= 1
    assert any(name.startswith("init_loss/") for name in run.metrics)
    assert json.loads(run.files["preflight/report.json"])["worst"] == "fail"
    assert tracker.runs[SWEEP].tags["preflight"] == "fail"
    assert tracker.runs[SWEEP].status == "FAILED"
    assert main(["stage=preflight", *words(TASK)]) == 0
    assert run.status == "FINISHED"
    assert run.tags["preflight.fail"] == ""


def test_a_later_command_sends_what_was_found_again(tracker: MemoryTracker) -> None:
    assert main(["stage=preflight", *words(TASK)]) == 0
    tracker.runs.clear()
    assert main(["stage=lr", *words(TASK)]) == 0
    run = tracker.runs[stage_key("preflight")]
    assert (run.status, run.tags["preflight"]) == ("FINISHED", "pass")
    assert "preflight/report.json" in run.files


def test_an_interrupt_ends_the_checks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(app, "graceful_interrupt", lambda: nullcontext(lambda: True))
    assert main(["stage=preflight", *words(TASK)]) == 130
    assert "interrupted during the checks; nothing was tuned" in capsys.readouterr().err
    assert ledger()["stages"] == {}


def test_the_tuned_network_is_shown_beside_the_classical_models(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tracker: MemoryTracker
) -> None:
    monkeypatch.setattr(sys.modules[__name__], "KEPT", {"task_runs", "baselines"})
    assert main(["stage=all", "recipe.order=[preflight,lr]", *words(TASK)]) == 0
    output = capsys.readouterr().out
    best = ledger()["stages"]["lr"]["best_trial"]
    lines = output[output.index("  on validation  ") :].splitlines()
    assert [line.split("  ")[1] for line in lines[1:4]] == ["base rates", "logistic regression", "boosted trees"]
    assert lines[4].startswith(f"  tuned network (trial {best})")
    assert f"{ledger()['stages']['lr']['best_value']:.4g}" in lines[4].split()
    # Two epochs of training against an exact fit of a linear question.
    assert "the network is no better here than logistic regression" in output
    assert tracker.runs[SWEEP].metrics["baseline/logistic regression/accuracy"] > 0.9
    assert "tuned network" in tracker.runs[SWEEP].artifacts["baselines.txt"]
