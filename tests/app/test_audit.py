"""``stage=audit``: what it says, what it keeps, and that it refuses what is not finished."""

import json
import math
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from orchestrator import compose, simulate
from orchestrator.app import audit as subject
from orchestrator.app.audit import SurrogateCurves, recipe, rivals
from orchestrator.app.main import main
from orchestrator.config.schema import RunConfig
from orchestrator.errors import InfeasibleTrialError
from orchestrator.stages.sweep import make_plan
from orchestrator.study.records import TrialRecord
from orchestrator.types import Configuration, Direction, Reason, TrialState

NAME = "digits_mlp-seed0"
LR = "optimizer.lr"
QUICK = ["task=digits_mlp", "trainer.epochs=3", "+stages.lr.budget=6", "runner=inline", "tracking=none"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])


def curve(configuration: Configuration, seed: int) -> Sequence[float]:
    """Best at a learning rate of 0.01; beyond 0.2 it fails."""
    rate = float(configuration[LR])
    if rate > 0.2:
        raise InfeasibleTrialError(Reason.DIVERGED, "too fast")
    return [0.2 + (math.log10(rate) + 2) ** 2 + math.exp(-epoch / 3) for epoch in range(1, 10)]


def searched() -> tuple[RunConfig, Sequence[TrialRecord]]:
    words = ["stage=lr", "task=digits_mlp", "trainer.epochs=9", "tracking=none", "sweep.dir=nowhere"]
    config = compose([*words, "+stages.lr.budget=8"])
    return config, simulate(config, curve).trials


def trial(
    number: int, value: float | None, epochs: int, state: TrialState, repeats: int | None = None
) -> TrialRecord:
    curve = dict.fromkeys(range(1, epochs + 1), 1.0)
    return TrialRecord(number, "lr", {LR: 0.1}, 0, 9, state, curve, value, repeats=repeats)


def test_the_curves_of_the_surrogate_are_near_those_that_the_sweep_saw() -> None:
    config, trials = searched()
    curves = SurrogateCurves(make_plan(config), trials)
    best = min((t for t in trials if t.state is TrialState.COMPLETE), key=lambda t: float(t.value or 0))
    assert curves.value(best.configuration) == pytest.approx(best.value, rel=0.1)
    far = {**best.configuration, LR: 1e-4}
    assert curves.value(far) > 2 * curves.value(best.configuration)
    expected = curves(best.configuration, 1)
    assert len(expected) == 9
    assert expected == curves(best.configuration, 1) != curves(best.configuration, 2)
    assert expected[0] > expected[-1]


def test_what_failed_in_the_sweep_fails_in_the_simulation() -> None:
    config, trials = searched()
    failed = [t for t in trials if t.state is TrialState.INFEASIBLE]
    assert failed
    curves = SurrogateCurves(make_plan(config), trials)
    with pytest.raises(InfeasibleTrialError):
        curves(failed[0].configuration, 0)


def test_every_way_of_searching_gets_the_sweeps_epochs_and_no_more() -> None:
    config, _ = searched()
    for command in (recipe(config, ["lr"], 60), *rivals(config, 60).values()):
        spent = sum(t.epochs_paid for t in simulate(command, curve).trials)
        assert 60 - 9 < spent <= 60


def test_the_recipes_budgets_are_stretched_in_proportion() -> None:
    stages = recipe(compose(["stage=all"]), ["start", "lr", "joint"], 600).stages
    assert stages["start"].budget == 0
    assert stages["lr"].budget == pytest.approx(20 * 6 / 20)
    assert stages["joint"].budget == pytest.approx(20 * 14 / 20)


def test_values_are_taken_at_shares_of_the_budget() -> None:
    trials = [
        trial(0, 0.9, 2, TrialState.PRUNED),
        trial(1, 1.5, 9, TrialState.COMPLETE),
        trial(2, 0.1, 2, TrialState.PRUNED),
        trial(3, 0.7, 7, TrialState.COMPLETE),
        trial(4, 0.5, 7, TrialState.COMPLETE, repeats=3),
    ]
    # Finished ones go before stopped ones; what measures seed noise does not count.
    found = subject._anytime(trials, 20, Direction.MINIMIZE, lambda t: float(t.value or 0))
    assert found == [0.9, 0.9, 0.7]
    assert subject._anytime(trials, 19, Direction.MINIMIZE, lambda t: float(t.value or 0))[-1] == 1.5
    assert subject._anytime(trials, 4, Direction.MAXIMIZE, lambda t: 1.0) == [None, 1.0, 1.0]


@pytest.mark.parametrize(
    ("direction", "joint", "random", "said"),
    [
        (Direction.MINIMIZE, 2.0, 3.0, r"paid against joint .* paid against random"),
        (Direction.MAXIMIZE, 2.0, 0.5, r"did not pay against joint .*5 of 5.* paid against random"),
        (Direction.MINIMIZE, 1.0, 0.5, r"no clear difference against joint .* did not pay against random"),
    ],
)
def test_the_verdict_says_who_was_better(direction: Direction, joint: float, random: float, said: str) -> None:
    values = {way: [[None, None, end]] * 5 for way, end in (("recipe", 1.0), ("joint", joint), ("random", random))}
    assert re.search(said, subject._verdict(values, direction))


def test_a_sweep_that_has_not_begun_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=audit", *QUICK]) == 2
    assert re.fullmatch(r"orchestrator: stage=audit: sweep \S+ has not begun.*\n", capsys.readouterr().err)
    assert not Path("sweeps", NAME).exists()


def test_a_search_that_was_interrupted_is_refused() -> None:
    assert main(["stage=lr", *QUICK]) == 0
    path = Path("sweeps", NAME, "ledger.json")
    ledger = json.loads(path.read_text())
    path.write_text(json.dumps({**ledger, "stages": {}}))
    assert main(["stage=audit", *QUICK]) == 2


def test_a_finished_sweep_is_audited_in_simulation_and_for_real(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=lr", *QUICK]) == 0
    assert main(["stage=audit", "dry_run=true", *QUICK]) == 0
    assert "train nothing" in capsys.readouterr().out
    assert not Path("sweeps", NAME, "audit.json").exists()

    assert main(["stage=audit", "audit.seeds=2", *QUICK]) == 0
    output = capsys.readouterr().out
    assert "favours\n  the sweep's own way" in output
    result = json.loads(Path("sweeps", NAME, "audit.json").read_text())
    assert {way: len(runs) for way, runs in result["values"].items()} == {"recipe": 2, "joint": 2, "random": 2}
    assert main(["stage=status", *QUICK]) == 0
    assert result["verdict"] in capsys.readouterr().out

    assert main(["stage=audit", "audit.live=true", *QUICK]) == 0
    assert "trained for real" in capsys.readouterr().out
    live = json.loads(Path("sweeps", NAME, "audit.json").read_text())
    assert live["live"]
    for way in ("joint", "random"):
        ledger = json.loads(Path("sweeps", f"{NAME}.audit-{way}", "ledger.json").read_text())
        assert sum(stage.get("epochs", 0) for stage in ledger["stages"].values()) > 0
        assert live["values"][way][0][-1] is not None
