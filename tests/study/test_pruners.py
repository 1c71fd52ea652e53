"""What stops a trial: shipped pruners and one of the user's, as pure functions of a stage's curves."""

import copy
from collections.abc import Mapping, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.schema import PrunerConfig
from orchestrator.errors import ConfigError
from orchestrator.study.mates import Mates
from orchestrator.study.pruners import Pruner, make_pruner, rungs_of
from orchestrator.study.records import TrialRecord
from orchestrator.types import Direction, TrialState

EPOCHS = 27
CUSTOM = {"target": "optuna.pruners.MedianPruner", "args": {"n_startup_trials": 4}}
CONFIGS = {
    "halving": PrunerConfig(name="halving", min_epochs=3),
    "hyperband": PrunerConfig(name="hyperband", min_epochs=3),
    "median": PrunerConfig(name="median", min_epochs=3),
    "none": PrunerConfig(name="none", min_epochs=3),
    "custom": PrunerConfig(name="custom", min_epochs=3, **CUSTOM),
}
STOPPING = ["halving", "hyperband", "median", "custom"]
BOTH = pytest.mark.parametrize("direction", list(Direction))


def record(
    number: int, curve: Sequence[float] | Mapping[int, float], state: TrialState = TrialState.COMPLETE
) -> TrialRecord:
    points = dict(curve) if isinstance(curve, Mapping) else dict(enumerate(curve, start=1))
    ended = state in (TrialState.COMPLETE, TrialState.PRUNED)
    return TrialRecord(
        number=number,
        stage="lr",
        configuration={},
        seed=0,
        epochs=EPOCHS,
        state=state,
        curve=points,
        value=min(points.values()) if ended else None,
    )


def flat(number: int, level: float, epochs: int, direction: Direction, running: bool = False) -> TrialRecord:
    """A trial that reports ``level`` (less is better) at every epoch."""
    state = TrialState.RUNNING if running else TrialState.COMPLETE
    return record(number, [direction.cost(level)] * epochs, state)


def stage_of(count: int, direction: Direction) -> list[TrialRecord]:
    """Finished trials, all of one bracket's number or not, the first the best."""
    return [flat(number, float(number), EPOCHS, direction) for number in range(count)]


def stops(
    pruner: Pruner, own: TrialRecord, others: Sequence[TrialRecord], direction: Direction = Direction.MINIMIZE
) -> bool:
    """Whether it is stopped among ``others``, and that it does not matter whether it is counted with them."""
    found, alone = (pruner.stops(own, Mates(direction, records)) for records in ([*others, own], others))
    assert found == alone
    return found


@pytest.mark.parametrize("name", STOPPING)
@BOTH
def test_the_worst_is_stopped_and_the_best_goes_on(name: str, direction: Direction) -> None:
    pruner = make_pruner(CONFIGS[name], direction, EPOCHS)
    others = stage_of(24, direction)
    number = 24  # hyperband: the bracket with all rungs
    worst = [
        e for e in range(1, EPOCHS + 1) if stops(pruner, flat(number, 99.0, e, direction, True), others, direction)
    ]
    best = [
        e for e in range(1, EPOCHS + 1) if stops(pruner, flat(number, -99.0, e, direction, True), others, direction)
    ]
    assert worst
    assert best == []


@pytest.mark.parametrize("name", STOPPING)
@BOTH
def test_never_before_the_first_rung_and_never_at_the_last_epoch(name: str, direction: Direction) -> None:
    pruner = make_pruner(CONFIGS[name], direction, EPOCHS)
    others = stage_of(24, direction)
    stopped = [
        e for e in range(1, EPOCHS + 1) if stops(pruner, flat(24, 99.0, e, direction, True), others, direction)
    ]
    assert stopped[0] == 3
    assert stopped[-1] < EPOCHS
    if name in ("halving", "hyperband"):
        assert stopped == [3, 9]


def test_none_stops_nothing() -> None:
    pruner = make_pruner(CONFIGS["none"], Direction.MINIMIZE, EPOCHS)
    others = stage_of(24, Direction.MINIMIZE)
    assert not any(stops(pruner, flat(24, 99.0, e, Direction.MINIMIZE, True), others) for e in range(1, EPOCHS))
    assert list(pruner.rungs) == []


@pytest.mark.parametrize("name", STOPPING)
@BOTH
def test_values_are_compared_at_equal_epochs(name: str, direction: Direction) -> None:
    """The others ended far better, but at epoch 3 they were worse than this one is."""
    pruner = make_pruner(CONFIGS[name], direction, EPOCHS)
    others = [record(n, [direction.cost(v) for v in [9.0] * 8 + [0.0] * 19]) for n in range(24)]
    early = flat(24, 5.0, 3, direction, True)
    late = flat(24, 5.0, 9, direction, True)
    assert not stops(pruner, early, others, direction)
    assert stops(pruner, late, others, direction)


@pytest.mark.parametrize("name", STOPPING)
@BOTH
def test_a_bad_epoch_after_a_good_one_is_forgiven(name: str, direction: Direction) -> None:
    pruner = make_pruner(CONFIGS[name], direction, EPOCHS)
    own = record(24, [direction.cost(v) for v in (-5.0, 99.0, 99.0)], TrialState.RUNNING)
    assert not stops(pruner, own, stage_of(24, direction), direction)


@pytest.mark.parametrize(
    ("name", "enough"), [("median", 6), ("halving", 5), ("custom", 6)], ids=["median", "halving", "custom"]
)
@BOTH
def test_nothing_is_stopped_before_enough_trials_got_there(name: str, enough: int, direction: Direction) -> None:
    extra = {**CUSTOM, "args": {"n_startup_trials": 6}} if name == "custom" else {"startup_trials": 6}
    pruner = make_pruner(PrunerConfig(name=name, min_epochs=3, **extra), direction, EPOCHS)
    own = flat(24, 99.0, 3, direction, True)
    short = [flat(number, 0.0, 2, direction, True) for number in range(10, 20)]
    assert not stops(pruner, own, [*stage_of(enough - 1, direction), *short], direction)
    assert stops(pruner, own, [*stage_of(enough, direction), *short], direction)


@BOTH
def test_halving_keeps_the_best_share(direction: Direction) -> None:
    """Of 12 at a rung, the best third go on: exactly four of them, equals included."""
    pruner = make_pruner(CONFIGS["halving"], direction, EPOCHS)
    trials = [flat(number, float(number), 3, direction, True) for number in range(12)]
    going_on = [trial.number for trial in trials if not pruner.stops(trial, Mates(direction, trials))]
    assert going_on == [0, 1, 2, 3]
    equal = [flat(number, 1.0, 3, direction, True) for number in range(12)]
    assert not any(pruner.stops(trial, Mates(direction, equal)) for trial in equal)


@BOTH
def test_the_median_is_of_the_others(direction: Direction) -> None:
    pruner = make_pruner(CONFIGS["median"], direction, EPOCHS)
    others = stage_of(5, direction)
    assert not stops(pruner, flat(24, 2.0, 3, direction, True), others, direction)
    assert stops(pruner, flat(24, 2.1, 3, direction, True), others, direction)


@pytest.mark.parametrize("name", ["halving", "hyperband", "median"])
def test_infeasible_trials_do_not_count(name: str) -> None:
    pruner = make_pruner(CONFIGS[name], Direction.MINIMIZE, EPOCHS)
    own = flat(24, 5.0, 3, Direction.MINIMIZE, True)
    bad = [record(number, [0.0] * 5, TrialState.INFEASIBLE) for number in range(24)]
    assert not stops(pruner, own, bad)
    assert stops(pruner, own, [*bad, *(flat(30 + n, 0.0, 5, Direction.MINIMIZE) for n in range(24))])


def test_infeasible_trials_do_not_count_for_a_pruner_of_the_user() -> None:
    config = PrunerConfig(name="custom", target="optuna.pruners.PercentilePruner", args={"percentile": 50.0})
    pruner = make_pruner(config, Direction.MINIMIZE, EPOCHS)
    own = flat(24, 5.0, 3, Direction.MINIMIZE, True)
    assert not stops(pruner, own, [record(number, [0.0] * 5, TrialState.INFEASIBLE) for number in range(24)])
    assert stops(pruner, own, [record(number, [0.0] * 5) for number in range(24)])


def test_only_the_trials_given_count() -> None:
    """The caller gives the trials of one stage; what a pruner saw before leaves no trace."""
    for name in STOPPING:
        pruner = make_pruner(CONFIGS[name], Direction.MINIMIZE, EPOCHS)
        own = flat(24, 50.0, 3, Direction.MINIMIZE, True)
        assert stops(pruner, own, stage_of(24, Direction.MINIMIZE)), name
        weak = [flat(number, 60.0 + number, EPOCHS, Direction.MINIMIZE) for number in range(24)]
        assert not stops(pruner, own, weak), name


CURVES = st.lists(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=EPOCHS), min_size=1, max_size=12
)


@given(CURVES, st.sampled_from(STOPPING[:3]), st.sampled_from(list(Direction)), st.randoms())
def test_the_decision_depends_on_the_curves_alone(
    curves: list[list[float]], name: str, direction: Direction, random: object
) -> None:
    stage = [record(number, curve, TrialState.RUNNING) for number, curve in enumerate(curves)]
    before = copy.deepcopy(stage)
    pruner = make_pruner(CONFIGS[name], direction, EPOCHS)
    first = [pruner.stops(own, Mates(direction, stage)) for own in stage]
    fresh = make_pruner(CONFIGS[name], direction, EPOCHS)
    shuffled = list(stage)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert [fresh.stops(own, Mates(direction, shuffled)) for own in stage] == first
    assert stage == before
    # The best so far at its epoch is never stopped.
    for own, stopped in zip(stage, first, strict=True):
        epoch = own.epochs_run
        costs = [min(direction.cost(v) for v in c[:epoch]) for c in curves if len(c) >= epoch]
        if min(direction.cost(v) for v in own.curve.values()) <= min(costs):
            assert not stopped


@given(CURVES, st.sampled_from(STOPPING[:3]), st.sampled_from(list(Direction)), st.randoms())
def test_mates_that_grew_epoch_by_epoch_decide_as_ones_made_at_once(
    curves: list[list[float]], name: str, direction: Direction, random: Random
) -> None:
    """Trials report in any order, some end infeasible: after each event every decision is that of fresh eyes."""
    pruner, grown, known = make_pruner(CONFIGS[name], direction, EPOCHS), Mates(direction), {}
    waiting = [number for number, curve in enumerate(curves) for _ in range(len(curve) + 1)]
    random.shuffle(waiting)
    for number in waiting:
        epochs = known[number].epochs_run if number in known else 0
        ended = epochs == len(curves[number])
        state = TrialState.INFEASIBLE if ended and random.random() < 0.3 else TrialState.RUNNING
        known[number] = record(number, curves[number][: epochs + 1], state)
        grown.take(known[number])
        asked = [own for own in known.values() if own.state is TrialState.RUNNING]
        fresh = Mates(direction, known.values())
        assert [pruner.stops(own, grown) for own in asked] == [pruner.stops(own, fresh) for own in asked]


def test_the_decision_of_a_pruner_of_the_user_depends_on_the_curves_alone() -> None:
    stage = [flat(number, float(number), 3, Direction.MINIMIZE, number > 6) for number in range(12)]
    first = make_pruner(CONFIGS["custom"], Direction.MINIMIZE, EPOCHS)
    mates, backwards = Mates(Direction.MINIMIZE, stage), Mates(Direction.MINIMIZE, stage[::-1])
    decisions = [first.stops(own, mates) for own in stage]
    assert len(set(decisions)) == 2
    again = make_pruner(CONFIGS["custom"], Direction.MINIMIZE, EPOCHS)
    assert [first.stops(own, mates) for own in stage] == decisions
    assert [again.stops(own, backwards) for own in stage] == decisions


@pytest.mark.parametrize("name", STOPPING)
def test_a_curve_with_a_gap_is_no_crash(name: str) -> None:
    """A kill lost the first reports, and the trial went on from a checkpoint that was later."""
    pruner = make_pruner(CONFIGS[name], Direction.MINIMIZE, EPOCHS)
    gaps = [record(number, {5: 0.0, 6: 0.0}) for number in range(24)]
    own = flat(24, 9.0, 3, Direction.MINIMIZE, True)
    assert not stops(pruner, own, gaps)


def test_hyperband_compares_within_a_bracket() -> None:
    pruner = make_pruner(CONFIGS["hyperband"], Direction.MINIMIZE, EPOCHS)
    others = stage_of(24, Direction.MINIMIZE)
    first, second = flat(24, 99.0, 3, Direction.MINIMIZE, True), flat(25, 99.0, 3, Direction.MINIMIZE, True)
    assert list(pruner.rungs) == [3, 9]
    # Odd numbers begin at the second rung.
    assert stops(pruner, first, others)
    assert not stops(pruner, second, others)
    assert stops(pruner, flat(25, 99.0, 9, Direction.MINIMIZE, True), others)
    strangers = [trial for trial in others if trial.number % 2]
    assert not stops(pruner, first, strangers)


@pytest.mark.parametrize(
    ("config", "epochs", "rungs"),
    [
        (PrunerConfig(min_epochs=1, reduction_factor=3), 30, (1, 3, 9)),
        (PrunerConfig(min_epochs=3, reduction_factor=3), 27, (3, 9)),
        (PrunerConfig(min_epochs=2, reduction_factor=2), 9, (2, 4)),
        (PrunerConfig(rungs=(2, 5, 9)), 9, (2, 5)),
        (PrunerConfig(min_epochs=5), 5, ()),
    ],
)
def test_the_rungs(config: PrunerConfig, epochs: int, rungs: tuple[int, ...]) -> None:
    assert rungs_of(config, epochs) == rungs
    pruner = make_pruner(config, Direction.MINIMIZE, epochs)
    assert tuple(pruner.rungs) == rungs


def test_a_budget_below_every_rung_stops_nothing() -> None:
    pruner = make_pruner(PrunerConfig(name="hyperband", min_epochs=1), Direction.MINIMIZE, 1)
    assert not stops(pruner, flat(24, 9.0, 1, Direction.MINIMIZE, True), stage_of(24, Direction.MINIMIZE))


@pytest.mark.parametrize(
    ("target", "args", "says"),
    [
        ("optuna.pruners.Nope", {}, "no attribute 'Nope'"),
        ("builtins.dict", {}, "gives a dict, not an Optuna pruner"),
        ("optuna.pruners.MedianPruner", {"foo": 1}, "'foo'"),
    ],
)
def test_a_pruner_of_the_user_that_is_none_is_refused(target: str, args: dict[str, int], says: str) -> None:
    with pytest.raises(ConfigError, match=rf"^pruner\._target_={target}: .*{says}"):
        make_pruner(PrunerConfig(name="custom", target=target, args=args), Direction.MINIMIZE, EPOCHS)
