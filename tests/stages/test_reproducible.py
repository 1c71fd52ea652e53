"""Same seed, same trials: run twice, cut off anywhere and taken up again, and with any timing."""

import json
from pathlib import Path

import pytest
from curves import Stored, bowl, command, curve_of, falling, gist, renewed, share
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator import simulate
from orchestrator.errors import InfeasibleTrialError
from orchestrator.stages.rounds import Rounds, as_begun
from orchestrator.stages.studies import STUDY_FILE
from orchestrator.stages.sweep import LEDGER_FILE, Sweep
from orchestrator.study.records import TrialRecord
from orchestrator.types import Configuration, Reason, TrialState

ONE_STAGE = ("stage=width", "+stages.width.budget=3", "recipe.repeats=1")
PASSES = ("stage=all", "recipe.order=[start,lr,width,joint]", "stages.start.points=4", "stages.lr.points=3",
          "stages.joint.budget=2", "recipe.budget={high: 1.5, medium: 1, low: 1}", "recipe.repeats=1")  # fmt: skip
AUDITED = (*ONE_STAGE, "pruner.audit_share=0.4")
RANDOM = ("stage=width", "sampler=random", "n_trials=7")
ROOMY = ("stage=width", "+stages.width.budget=5", "recipe.repeats=1")
DETERMINISTIC = ("deterministic=true", "runner.workers=4")


def partly_infeasible(configuration: Configuration, seed: int) -> list[float]:
    """Some diverge half way, some run out of memory at once."""
    if configuration["model.width"] > 160:
        raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "too wide")
    values = list(falling(configuration, seed))
    return [*values[:4], *[float("nan")] * 60] if share(seed) < 0.3 else values


def outcome(sweep: Sweep) -> tuple[list[object], object, list[str]]:
    """Trials, winner and finished visits."""
    best = sweep.best
    return gist(sweep.study.records), best and best.number, list(sweep.ledger.finished)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_seed_gives_the_same_trials_and_another_seed_others(workers: int) -> None:
    first, again = (simulate(command(*ONE_STAGE), falling, workers) for _ in range(2))
    assert gist(first.trials) == gist(again.trials)
    other = simulate(command(*ONE_STAGE, "seed=1"), falling, workers)
    assert gist(first.trials) != gist(other.trials)


CUTS = {
    "one stage": (ONE_STAGE, falling, 1),
    "one stage, infeasible": (ONE_STAGE, partly_infeasible, 1),
    "one stage, audited": (AUDITED, falling, 1),
    "passes": (PASSES, falling, 1),
    "random": (RANDOM, falling, 1),
    "median": ((*ONE_STAGE, "pruner=median"), falling, 1),
    "rounds": ((*ONE_STAGE, *DETERMINISTIC), falling, 4),
    "rounds, infeasible": ((*ROOMY, *DETERMINISTIC), partly_infeasible, 4),
    "rounds, audited": ((*AUDITED, *DETERMINISTIC), falling, 4),
    "rounds of passes": ((*PASSES, *DETERMINISTIC), falling, 4),
    "rounds of tpe": (("stage=width", "sampler=tpe", "n_trials=9", *DETERMINISTIC), falling, 4),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_sweep_cut_off_anywhere_ends_in_the_trials_of_the_undisturbed_one(name: str, tmp_path: Path) -> None:
    words, curve, workers = CUTS[name]
    stored = Stored(command(*words), curve, workers, seconds=lambda configuration: 0.5 + share(configuration))
    whole = stored.run(tmp_path / "whole")
    assert whole is not None
    expected = outcome(whole)
    epochs = sum(record.epochs_paid for record in whole.study.records)
    folder = tmp_path / "cut"

    @settings(deadline=None, max_examples=4)
    @given(cuts=st.lists(st.integers(0, epochs - 1), min_size=1, max_size=2))
    def check(cuts: list[int]) -> None:
        renewed(folder)
        for cut in cuts:
            stored.run(folder, cut_after=cut)
        again = stored.run(folder)
        assert again is not None
        assert outcome(again) == expected

    check()


@pytest.mark.parametrize("name", ["one stage, infeasible", "rounds, infeasible", "random"])
def test_every_prefix_of_the_journal_is_a_sweep_that_can_go_on(name: str, tmp_path: Path) -> None:
    """A kill between two writes, however near: the end of a trial alone is several of them."""
    words, curve, workers = CUTS[name]
    stored = Stored(command(*words), curve, workers)
    whole = stored.run(tmp_path)
    assert whole is not None
    expected, journal = outcome(whole), whole.folder / STUDY_FILE
    lines = journal.read_bytes().splitlines(keepends=True)
    ledger = json.loads((whole.folder / LEDGER_FILE).read_text())

    @settings(deadline=None, max_examples=5)
    @given(kept=st.integers(1, len(lines)))
    def check(kept: int) -> None:
        journal.write_bytes(b"".join(lines[:kept]))
        (whole.folder / LEDGER_FILE).write_text(json.dumps({**ledger, "stages": {}}))
        again = stored.run(tmp_path)
        assert again is not None
        assert outcome(again) == expected

    check()


TIMINGS = {
    "staged": ((*ONE_STAGE, *DETERMINISTIC), falling),
    "staged, infeasible": ((*ROOMY, *DETERMINISTIC), partly_infeasible),
    "staged, audited": ((*AUDITED, *DETERMINISTIC), falling),
    "staged, hyperband": ((*ONE_STAGE, *DETERMINISTIC, "pruner=hyperband"), falling),
    "passes": ((*PASSES, *DETERMINISTIC), falling),
    "tpe": (("stage=width", "sampler=tpe", "n_trials=10", *DETERMINISTIC), partly_infeasible),
    "tpe by epochs": (("stage=width", "sampler=tpe", "+stages.width.budget=6", *DETERMINISTIC), falling),
}


@pytest.mark.parametrize("name", TIMINGS)
def test_with_deterministic_the_trials_are_the_same_whatever_the_timing(name: str, tmp_path: Path) -> None:
    """Also where only half of the workers that are asked for are there."""
    words, curve = TIMINGS[name]

    def trials(timing: int) -> list[object]:
        there = 2 if timing == 2 else 4
        stored = Stored(command(*words), curve, there, lambda configuration: 0.01 + share(timing, configuration))
        sweep = stored.run(renewed(tmp_path / "sweep"))
        assert sweep is not None
        return gist(sweep.study.records)

    first = trials(0)
    assert max(record.round for record in first) >= 1
    for timing in range(1, 3):
        assert trials(timing) == first


def test_without_deterministic_the_timing_may_matter(tmp_path: Path) -> None:
    """So that the test above is one."""
    found = [
        gist(sweep.study.records)
        for timing in range(3)
        if (sweep := Stored(command(*ONE_STAGE), falling, 4, lambda configuration, t=timing: share(t, configuration))
            .run(tmp_path / str(timing)))
    ]  # fmt: skip
    assert found[0] != found[1] or found[1] != found[2]


def test_a_round_knows_of_its_own_trials_that_they_have_begun() -> None:
    done = TrialRecord(
        number=5, stage="lr", configuration={}, seed=0, epochs=9, state=TrialState.PRUNED,
        curve={1: 3.0, 2: 2.0, 3: 1.0}, value=1.0, reason=Reason.RUNG, parent=2, inherited=2, round=1,
    )  # fmt: skip
    begun = as_begun(done)
    assert begun.state is TrialState.RUNNING
    assert begun.curve == {1: 3.0, 2: 2.0}
    assert (begun.value, begun.reason) == (None, None)
    rounds = Rounds(2, [done])
    assert rounds.view(done) == begun
    assert rounds.takes_more([done])
    rounds.close()
    assert not rounds.takes_more([done])
    rounds.next()
    assert rounds.view(done) is done
    assert Rounds(0, [done]).view(done) is done


def test_in_a_round_no_two_trials_continue_the_same_one() -> None:
    found = simulate(command("stage=joint", "stages.joint.budget=6", *DETERMINISTIC), falling, 4)
    parents = [record.parent for record in found.trials if record.parent is not None]
    assert parents
    assert len(set(parents)) == len(parents)


def test_deterministic_rounds_find_what_one_worker_finds() -> None:
    """Rounds cost little in trials: the same budget ends near the same value."""
    curve = curve_of(lambda configuration, seed: bowl(configuration))
    one = simulate(command("stage=lr"), curve, 1)
    rounds = simulate(command("stage=lr", *DETERMINISTIC), curve, 4)
    assert one.best is not None
    assert rounds.best is not None
    assert abs(one.best.value - rounds.best.value) < 0.1
