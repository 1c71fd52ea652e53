"""What the surrogate is told of the trials."""

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.config.space import RangeConfig
from orchestrator.study.encoding import Encoding
from orchestrator.study.knowledge import _MOST_ROWS, Knowledge, _Scale
from orchestrator.study.records import TrialRecord
from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.types import Direction, TrialState

SPACE = SearchSpace({"optimizer.lr": Hyperparameter("optimizer.lr", RangeConfig(type="float", low=0.0, high=1.0))})
RUNGS = (1, 3, 9)


def known(direction: Direction = Direction.MINIMIZE) -> Knowledge:
    return Knowledge(Encoding(SPACE), direction, 27, RUNGS)


def trial(
    number: int, epochs: int, state: TrialState = TrialState.PRUNED, level: float = 1.0, **more: object
) -> TrialRecord:
    lr = (number * 0.37) % 1
    curve = {epoch: level + (lr - 0.4) ** 2 + 1 / epoch for epoch in range(1, epochs + 1)}
    record = TrialRecord(
        number=number, stage="lr", configuration={"optimizer.lr": lr}, seed=number, epochs=27, state=state,
        curve=curve, value=min(curve.values(), default=None),
    )  # fmt: skip
    return replace(record, **more)


def seen(knowledge: Knowledge) -> list[tuple[int, int]]:
    """Training and epoch of every observation."""
    rows = knowledge._table.rows()
    return [(int(training), int(epoch)) for training, epoch in zip(rows.trainings, rows.epochs, strict=True)]


def test_a_trial_is_seen_at_rungs_and_at_its_end() -> None:
    knowledge = known()
    knowledge.observe(trial(0, 10))
    knowledge.observe(trial(1, 27, TrialState.COMPLETE))
    assert seen(knowledge) == [(0, 1), (0, 3), (0, 9), (1, 1), (1, 3), (1, 9), (1, 27)]


def test_a_promotion_is_the_same_training_and_counts_once() -> None:
    knowledge = known()
    first = trial(0, 3)
    knowledge.observe(first)
    assert knowledge.trainings[0].promotable
    child = replace(first, number=1, state=TrialState.RUNNING, parent=0, inherited=3)
    knowledge.observe(child)
    assert not knowledge.trainings[0].promotable
    knowledge.observe(replace(trial(1, 9), configuration=first.configuration, parent=0, inherited=3))
    assert seen(knowledge) == [(0, 1), (0, 3), (0, 9)]
    assert (knowledge.root(1), knowledge.trainings[0].last.number) == (0, 1)


def test_an_infeasible_trial_says_nothing_of_costs() -> None:
    knowledge = known()
    knowledge.observe(trial(0, 9))
    knowledge.observe(trial(1, 3, TrialState.INFEASIBLE, value=None))
    assert seen(knowledge) == [(0, 1), (0, 3), (0, 9)]
    belief = knowledge.believe()
    assert belief is not None
    mean, _ = belief.of_new(np.array([[trial(0, 1).configuration["optimizer.lr"]], [0.37]]))
    assert np.isfinite(mean).all()


def test_nothing_is_believed_before_the_first_value() -> None:
    knowledge = known()
    assert knowledge.believe() is None
    knowledge.observe(trial(0, 0, TrialState.RUNNING))
    knowledge.observe(trial(1, 0, TrialState.INFEASIBLE))
    assert knowledge.believe() is None


def test_what_is_pending_is_expected_and_no_longer_uncertain() -> None:
    knowledge = known()
    for number in range(4):
        knowledge.observe(trial(number, 9))
    knowledge.observe(trial(4, 0, TrialState.RUNNING))
    place = knowledge.trainings[4].place[None, :]
    free, pending = knowledge.believe(), None
    assert free is not None
    before = free.of_new(place)
    pending = knowledge.believe({4: 27})
    assert pending is not None
    after = pending.of_new(place)
    assert after[1][0] < before[1][0]
    assert after[0][0] == pytest.approx(before[0][0], abs=0.05)


def test_of_many_under_way_those_near_the_best_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """All means stay; with room for two, what is far from the best makes little less uncertain."""
    monkeypatch.setattr("orchestrator.study.knowledge._MOST_PENDING", 2)
    knowledge = known()
    for number in range(6):
        knowledge.observe(trial(number, 9))
    pending = {}
    for number in range(6, 12):
        knowledge.observe(trial(number, 0, TrialState.RUNNING))
        pending[number] = 27
    free = knowledge.believe()
    assert free is not None
    [[best]] = free.places[free.best(1)]
    near, *_, far = sorted(pending, key=lambda number: abs(knowledge.trainings[number].place[0] - best))
    places = np.array([knowledge.trainings[number].place for number in (near, far)])
    before = free.of_new(places)
    crowded = knowledge.believe(pending)
    assert crowded is not None
    after = crowded.of_new(places)
    assert np.allclose(after[0], before[0])
    near_share, far_share = after[1] / before[1]
    assert near_share < far_share
    monkeypatch.undo()
    everything = knowledge.believe(pending)
    assert everything is not None
    assert everything.of_new(places)[1][1] < 0.9 * after[1][1]
    # A near copy of any of them is known all the same.
    assert crowded.likeness_to_pending(places) == pytest.approx(np.ones(2))


def predictions(knowledge: Knowledge) -> np.ndarray:
    belief = knowledge.believe()
    assert belief is not None
    return np.concatenate(belief.of_new(np.linspace(0, 1, 5)[:, None]))


@pytest.mark.parametrize("turned", range(2, 14))
def test_the_scales_depend_on_what_is_known_and_not_on_what_was(turned: int) -> None:
    """A trial that had reported twice when the scales were found turns out infeasible."""
    slow, restarted = known(), known()
    for number in range(16):
        if number == turned:
            for epochs in (1, 3, 9):
                slow.observe(trial(number, epochs, TrialState.RUNNING))
                slow.believe()
        end = TrialState.INFEASIBLE if number == turned else TrialState.PRUNED
        for knowledge in (slow, restarted):
            knowledge.observe(trial(number, 1, end))
        slow.believe()
    np.testing.assert_array_equal(predictions(slow), predictions(restarted))


def test_more_than_it_can_take_is_thinned_to_the_longest_and_best() -> None:
    knowledge = known()
    for number in range(_MOST_ROWS):
        knowledge.observe(trial(number, 3, level=1.0 + number))
    finished = trial(_MOST_ROWS, 27, TrialState.COMPLETE, level=150.0)
    knowledge.observe(finished)
    belief = knowledge.believe()
    assert belief is not None
    assert len(belief.seen) <= _MOST_ROWS / 2
    assert {0, 1, 2, finished.number} <= set(belief.seen)
    assert set(range(_MOST_ROWS - 38, _MOST_ROWS)) <= set(belief.seen), "what has just begun must be known"


@pytest.mark.parametrize("sign", [1, -1])
def test_costs_return_to_their_own_units(sign: int) -> None:
    knowledge = known()
    for number in range(5):
        knowledge.observe(trial(number, 9, level=sign * 5.0))
    rows = knowledge._table.rows()
    scale = _Scale.of(rows)
    assert scale.log == (sign > 0)
    for cost, standardised in zip(rows.costs, scale.standardised(rows), strict=True):
        if cost <= scale.cost((scale.cap - scale.mean) / scale.deviation):
            assert scale.cost(float(standardised)) == pytest.approx(cost)


@pytest.mark.parametrize("kept", [True, False])
def test_seed_noise_is_what_a_training_keeps_from_epoch_to_epoch_and_what_it_does_not(kept: bool) -> None:
    knowledge, rng, deviation = known(Direction.MAXIMIZE), np.random.default_rng(0), 0.05
    for number in range(40):
        record = trial(number, 27, TrialState.COMPLETE)
        noise = deviation * (np.full(28, rng.normal()) if kept else rng.normal(size=28))
        knowledge.observe(
            replace(record, curve={epoch: noise[epoch] - record.curve[epoch] for epoch in (*RUNGS, 27)})
        )
    belief = knowledge.believe()
    assert belief is not None
    found = belief.seed_noise(-1.04)  # what the good ones end at
    assert found is not None
    assert deviation / 2.5 < found < deviation * 2.5
