"""What a stage asks of its policy, whatever sampler and pruner are behind it."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from test_advisor import ALL, BASE, EPOCHS, RUNGS, SPACE

from orchestrator.config.schema import PrunerConfig, SamplerConfig
from orchestrator.study.advisor import Advisor
from orchestrator.study.mates import Mates
from orchestrator.study.policy import FreezeThaw, IndependentTrials, Limits, SearchPolicy
from orchestrator.study.pruners import Pruner, make_pruner, next_rung
from orchestrator.study.records import TrialRecord
from orchestrator.study.region import Region
from orchestrator.study.samplers import make_sampler
from orchestrator.types import Configuration, Direction, TrialState

OPENING: list[Configuration] = [{**BASE, "optimizer.lr": lr} for lr in (1e-4, 1e-3, 1e-2)]


def staged(pruner: Pruner | None = None, limits: Limits = Limits()) -> FreezeThaw:  # noqa: B008
    advisor = Advisor(SPACE, BASE, Direction.MINIMIZE, EPOCHS, SamplerConfig(candidates=30), 0, ALL)
    return FreezeThaw(advisor, OPENING, RUNGS, pruner, limits)


def running(number: int, epochs: int, level: float = 1.0, warmup: float = 0.0) -> TrialRecord:
    lr = 10 ** (-4 + number % 4)
    return TrialRecord(
        number=number, stage="lr", configuration={**BASE, "optimizer.lr": lr, "schedule.warmup": warmup}, seed=number,
        epochs=EPOCHS, state=TrialState.RUNNING, curve={e: level + 1 / e for e in range(1, epochs + 1)},
    )  # fmt: skip


def seen(policy: FreezeThaw, records: Sequence[TrialRecord]) -> Sequence[TrialRecord]:
    for record in records:
        policy.observe(record)
    return records


def goes_on(
    policy: SearchPolicy, record: TrialRecord, records: Sequence[TrialRecord], left: int | None = None
) -> bool:
    index = sum(other.number < record.number for other in records)
    return policy.goes_on(record, index, Mates(Direction.MINIMIZE, records), left)


def test_the_opening_comes_first_in_its_order() -> None:
    policy = staged()
    assert [policy.propose(number, number, 0).configuration for number in range(3)] == OPENING


def test_a_limited_opening_keeps_to_the_epochs() -> None:
    policy = staged(limits=Limits(opening_too=True))
    assert policy.propose(0, 0, EPOCHS) is not None
    assert policy.propose(0, 0, 0) is None
    few = staged(limits=Limits(n_trials=2))
    assert few.propose(0, 0, None).configuration == OPENING[0]
    assert few.propose(1, 1, None).configuration not in OPENING


def test_the_opening_pauses_at_its_first_rung_unless_it_warms_up() -> None:
    policy = staged()
    trial, warm = running(0, 1), running(1, 1, warmup=0.2)
    records = seen(policy, [trial, warm])
    assert not goes_on(policy, trial, records)
    assert goes_on(policy, warm, records)
    assert goes_on(policy, running(0, 2), records)


def test_in_rounds_every_trial_pauses_at_its_rung_but_not_in_warm_up() -> None:
    policy = staged(limits=Limits(in_rounds=True))
    for epochs in (1, 3, 9):
        assert not goes_on(policy, running(5, epochs), [])
        assert goes_on(policy, running(5, epochs, warmup=0.6), [])
    assert goes_on(policy, running(5, 2), [])


@pytest.mark.parametrize("warmup", [0.0, 0.25, 0.9])
def test_where_a_trial_may_stop_next_is_after_its_warm_up(warmup: float) -> None:
    policy = staged()
    expected = {0.0: [1, 3, 9, 18], 0.25: [9, 9, 9, 18], 0.9: [18, 18, 18, 18]}[warmup]
    assert [policy.stop_at(running(0, epochs, warmup=warmup)) for epochs in (0, 1, 3, 9)] == expected
    assert next_rung((), {}, 0, 5) == 5


def test_the_last_of_a_few_trials_runs_to_its_end_if_none_has() -> None:
    policy = staged(limits=Limits(n_trials=4))
    records = seen(policy, [running(number, 1) for number in range(4)])
    assert not goes_on(policy, records[2], records)
    assert goes_on(policy, records[3], records)
    done = replace(running(0, EPOCHS), state=TrialState.COMPLETE, value=0.1)
    policy.observe(done)
    assert not goes_on(policy, replace(records[3], curve={1: 50.0}), records)


def test_a_pruner_of_the_users_stops_and_the_budget_too() -> None:
    pruner = make_pruner(PrunerConfig(name="median", min_epochs=1, startup_trials=2), Direction.MINIMIZE, EPOCHS)
    policy = staged(pruner)
    records = [running(0, 9, 1.0), running(1, 9, 2.0), running(2, 3, 5.0), running(3, 3, 0.5)]
    assert not goes_on(policy, records[2], records)
    assert goes_on(policy, records[3], records)
    assert goes_on(policy, records[3], records, 6)
    assert not goes_on(policy, records[3], records, 5)


def test_independent_trials_begin_only_if_they_can_end() -> None:
    region = Region(SPACE, BASE, {"optimizer.lr": SPACE.whole("optimizer.lr")})
    sampler = make_sampler(SamplerConfig(name="random"), region, Direction.MINIMIZE, 0, "lr")
    pruner = make_pruner(PrunerConfig(name="none"), Direction.MINIMIZE, EPOCHS)
    policy = IndependentTrials(sampler, pruner, region, EPOCHS)
    assert policy.propose(0, 0, EPOCHS - 1) is None
    proposal = policy.propose(0, 0, EPOCHS)
    assert proposal is not None
    assert proposal.parent is None
    assert policy.stop_at(running(0, 3)) == EPOCHS
    assert goes_on(policy, running(0, 3), [], 0)
    assert policy.seed_noise(1.0) is None
