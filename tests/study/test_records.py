from dataclasses import replace

import pytest

from orchestrator.study.records import TrialRecord, incumbent, ranked
from orchestrator.types import Direction, TrialState


def record(number: int, value: float | None, state: TrialState = TrialState.COMPLETE) -> TrialRecord:
    return TrialRecord(
        number=number, stage="lr", configuration={}, seed=0, epochs=3, state=state, curve={1: 1.0}, value=value
    )


VALUES = [3.0, 1.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("direction", "order"), [(Direction.MINIMIZE, [1, 3, 2, 0]), (Direction.MAXIMIZE, [0, 2, 1, 3])]
)
def test_trials_are_ranked_best_first_and_the_earlier_of_equals_first(direction: Direction, order: list[int]) -> None:
    records = [record(number, value) for number, value in enumerate(VALUES)]
    for given in (records, records[::-1]):
        assert [item.number for item in ranked(given, direction)] == order
        best = incumbent(given, direction)
        assert best is not None
        assert best.number == order[0]


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.PRUNED, TrialState.INFEASIBLE])
@pytest.mark.parametrize("direction", list(Direction))
def test_only_a_complete_trial_is_chosen(state: TrialState, direction: Direction) -> None:
    best_of_all = direction.worst * -1
    others = [record(1, best_of_all, state), record(2, None)]
    assert incumbent(others, direction) is None
    assert ranked(others, direction) == []
    chosen = incumbent([*others, record(3, 5.0)], direction)
    assert chosen is not None
    assert chosen.number == 3


def test_the_epochs_run_are_those_reported() -> None:
    assert record(0, None).epochs_run == 1
    assert replace(record(0, None), curve={}).epochs_run == 0
    assert replace(record(0, None), curve={1: 0.0, 4: 0.0, 2: 0.0}).epochs_run == 4
