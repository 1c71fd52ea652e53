"""The whole search on curves: every sampler, both directions, and what a user gets back."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from curves import bowl, command, curve_of, falling, gist

from orchestrator import Simulation, simulate
from orchestrator.study.records import incumbent
from orchestrator.tasks.tabular import BreastCancer
from orchestrator.types import Configuration, Direction

LITTLE = ("stage=all", "recipe.budget={high: 2, medium: 1, low: 1}", "stages.joint.budget=2", "trainer.epochs=6")
SAMPLERS = ["staged", "random", "qmc", "tpe", "gp"]


class ByAccuracy(BreastCancer):
    """The same task, judged by what is to be maximised."""

    objective = "accuracy"


def rising(configuration: Configuration, seed: int) -> Sequence[float]:
    return [-value for value in falling(configuration, seed)]


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("direction", list(Direction))
def test_every_sampler_runs_the_whole_recipe(sampler: str, direction: Direction) -> None:
    words = [*LITTLE, f"sampler={sampler}"]
    if direction is Direction.MAXIMIZE:
        words += ["task._target_=test_simulate.ByAccuracy"]
    found = simulate(command(*words), falling if direction is Direction.MINIMIZE else rising)
    assert found.best is not None
    assert found.best == incumbent(found.trials, direction)
    assert all(trial.state.finished for trial in found.trials)
    stages = {key.partition("@")[0] for key in found.ledger.finished}
    assert stages >= {"lr", "batch_size", "momentum", "width", "decay", "depth", "joint"}
    start = found.trials[0].configuration
    assert bowl(found.best.configuration) < bowl(start)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_visit_is_announced_that_can_do_nothing(workers: int) -> None:
    found = simulate(command("stage=all", "+experiment=quick"), falling, workers)
    for key, verdict in found.ledger.finished.items():
        assert verdict["trials"] > 0 or verdict["skipped"], key
    stages = {key.partition("@")[0] for key in found.ledger.finished}
    assert stages >= {"start", "lr", "batch_size", "momentum", "width", "decay", "depth", "regularization", "joint"}


def test_what_nothing_is_left_for_is_said_once_to_be_skipped() -> None:
    """Finishing what the first stages began takes it all."""
    words = ("recipe.budget={high: 0.6, medium: 0.6, low: 0.6}", "stages.joint.budget=0.6")
    found = simulate(command("stage=all", *words, "recipe.growth=1"), falling)
    skipped = [key for key, verdict in found.ledger.finished.items() if verdict["skipped"]]
    assert len({key.partition("@")[0] for key in skipped}) == len(skipped) > 0
    assert all("nothing is left" in found.ledger.finished[key]["skipped"] for key in skipped)


def test_both_directions_are_mirrored() -> None:
    down = simulate(command(*LITTLE), falling)
    up = simulate(command(*LITTLE, "task._target_=test_simulate.ByAccuracy"), rising)
    assert [t.configuration for t in down.trials] == [t.configuration for t in up.trials]
    assert [t.parent for t in down.trials] == [t.parent for t in up.trials]


def test_one_stage_finds_the_best_learning_rate_within_a_factor() -> None:
    found = simulate(command("stage=lr"), curve_of(lambda configuration, seed: bowl(configuration)))
    assert found.best is not None
    assert 0.03 / 1.5 < found.best.configuration["optimizer.lr"] < 0.03 * 1.5
    assert sum(trial.epochs_paid for trial in found.trials) <= 6 * 9


def test_what_comes_back_says_what_it_cost() -> None:
    one, four = (simulate(command("stage=joint", "stages.joint.budget=6"), falling, workers) for workers in (1, 4))
    assert isinstance(one, Simulation)
    assert one.seconds == sum(trial.epochs_paid for trial in one.trials)
    assert one.busy == 1.0
    assert four.seconds < one.seconds / 2
    assert 0.4 < four.busy <= 1.0
    assert one.ledger.finished["joint"]["trials"] == len(one.trials)


def test_nothing_is_left_behind_and_the_global_random_state_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    simulate(command("stage=width", "sampler=random", "n_trials=2"), falling)
    assert list(tmp_path.iterdir()) == []


def test_the_public_door_is_enough_and_quiet() -> None:
    code = (
        "import json, orchestrator\n"
        "config = orchestrator.compose(['stage=lr', 'task=breast_cancer', 'trainer.epochs=4', 'n_trials=6'])\n"
        "found = orchestrator.simulate(config, lambda c, seed: [1 / e + c['optimizer.lr'] for e in range(1, 5)])\n"
        "print(json.dumps([found.best.value, len(found.trials)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    value, trials = json.loads(done.stdout)
    assert trials == 6
    assert value < 1
    assert done.stderr == ""


def test_a_second_simulation_does_not_remember_the_first() -> None:
    words = ("stage=lr", "n_trials=9")
    assert gist(simulate(command(*words), falling).trials) == gist(simulate(command(*words), falling).trials)
