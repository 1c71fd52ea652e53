"""The freeze-thaw decisions, on a sweep played by hand."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from orchestrator.config.schema import SamplerConfig
from orchestrator.config.space import RangeConfig
from orchestrator.study.advisor import Advisor, Proposal
from orchestrator.study.candidates import Focus, sobol
from orchestrator.study.records import TrialRecord
from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.types import Configuration, Direction, TrialState, Value

RANGES = {
    "data.batch_size": RangeConfig(type="int", low=16, high=512, limits=(4, 8192), scale="log"),
    "model.depth": RangeConfig(type="int", low=1, high=4),
    "optimizer.lr": RangeConfig(type="float", low=1e-4, high=1.0, limits=(1e-6, 10.0), scale="log"),
    "optimizer.momentum": RangeConfig(
        type="float", low=0.0, high=0.98, scale="log_complement", when={"optimizer.name": ("sgd",)}
    ),
    "optimizer.name": RangeConfig(type="choice", choices=("sgd", "adam")),
}
SPACE = SearchSpace({name: Hyperparameter(name, config) for name, config in RANGES.items()})
BASE: dict[str, Value] = {
    "data.batch_size": 64, "model.depth": 2, "optimizer.lr": 0.001, "optimizer.momentum": 0.5,
    "optimizer.name": "sgd",
}  # fmt: skip
RUNGS = (1, 3, 9)
EPOCHS = 18
ALL = Focus(varies=list(RANGES), windows={}, rungs=RUNGS)


def cost(configuration: Configuration) -> float:
    """Least (0.2) at adam, lr 0.05, batch 32, depth 3."""
    return (
        0.2
        + 0.3 * (math.log10(configuration["optimizer.lr"]) - math.log10(0.05)) ** 2
        + 0.05 * (math.log2(configuration["data.batch_size"]) - 5) ** 2
        + 0.1 * (configuration["model.depth"] - 3) ** 2
        + (0.5 if configuration["optimizer.name"] == "sgd" else 0.0)
    )


@dataclass
class Play:
    """Trains on paper what an advisor proposes."""

    focus: Focus = ALL
    direction: Direction = Direction.MINIMIZE
    level: Callable[[Configuration], float | None] = cost
    """None: infeasible."""
    resumable: Callable[[int], bool] = lambda number: True
    base: Configuration = field(default_factory=lambda: BASE)
    candidates: int = 60

    def __post_init__(self) -> None:
        self.advisor = Advisor(
            SPACE, self.base, self.direction, EPOCHS, SamplerConfig(candidates=self.candidates), 0, self.focus,
            self.resumable,
        )  # fmt: skip
        self.records: list[TrialRecord] = []

    def begin(self, proposal: Proposal) -> TrialRecord:
        parent = None if proposal.parent is None else self.records[proposal.parent]
        record = TrialRecord(
            number=len(self.records), stage="lr", configuration=proposal.configuration, epochs=EPOCHS,
            seed=0, state=TrialState.RUNNING, curve=dict(parent.curve) if parent else {},
            parent=proposal.parent, inherited=parent.epochs_run if parent else 0,
        )  # fmt: skip
        self.records.append(record)
        self.advisor.observe(record)
        return record

    def end(self, record: TrialRecord, epochs: int) -> TrialRecord:
        """Train it to ``epochs`` and stop it there."""
        level = self.level(record.configuration)
        if level is None:
            ended = replace(record, state=TrialState.INFEASIBLE)
        else:
            curve = {e: self.direction.cost(level + 1 / e) for e in range(1, epochs + 1)}
            state = TrialState.COMPLETE if epochs == EPOCHS else TrialState.PRUNED
            ended = replace(record, state=state, curve=curve, value=self.direction.best(list(curve.values())))
        self.records[record.number] = ended
        self.advisor.observe(ended)
        return ended

    def next_rung(self, record: TrialRecord) -> int:
        return next((rung for rung in RUNGS if rung > record.epochs_run), EPOCHS)

    def ask(self) -> Proposal | None:
        return self.advisor.propose(len(self.records))

    def run(self, trials: int) -> "Play":
        """One worker; every trial pauses at its next rung."""
        while len(self.records) < trials:
            proposal = self.ask()
            assert proposal is not None
            record = self.begin(proposal)
            self.end(record, self.next_rung(record))
        return self


def configurations(records: Sequence[TrialRecord]) -> list[tuple[object, ...]]:
    """Of those that began something new."""
    return [tuple(sorted(r.configuration.items())) for r in records if r.parent is None]


def test_nothing_is_proposed_twice() -> None:
    play = Play().run(40)
    new = configurations(play.records)
    assert len(set(new)) == len(new)
    parents = [record.parent for record in play.records if record.parent is not None]
    assert parents
    assert len(set(parents)) == len(parents)


@pytest.mark.parametrize("known", [0, 5])
@pytest.mark.parametrize("varies", [list(RANGES), ["model.depth", "optimizer.name"]])
def test_eight_workers_never_take_the_same_place(known: int, varies: list[str]) -> None:
    play = Play(replace(ALL, varies=varies)).run(known)
    while len(play.records) < known + 8:
        proposal = play.ask()
        if proposal is None:
            break
        play.begin(proposal)
    assert len(play.records) >= known + 6  # depth and name alone have eight values, the first of them known
    new = configurations(play.records)
    assert len(set(new)) == len(new)
    parents = [record.parent for record in play.records if record.parent is not None]
    assert len(set(parents)) == len(parents)


def test_pending_trials_make_others_look_elsewhere() -> None:
    play = Play(replace(ALL, varies=["optimizer.lr"])).run(8)
    rates = []
    for _ in range(5):
        proposal = play.ask()
        assert proposal is not None
        play.begin(proposal)
        if proposal.parent is None:
            rates.append(math.log10(proposal.configuration["optimizer.lr"]))
    gaps = np.diff(sorted(rates))
    assert len(rates) >= 2
    assert gaps.min() > 0
    assert gaps.sum() > 0.1


def test_workers_begin_what_is_less_alike_than_belief_alone_would(monkeypatch: pytest.MonkeyPatch) -> None:
    def likeness() -> float:
        play = Play().run(40)
        found = []
        for _ in range(8):
            proposal = play.ask()
            assert proposal is not None
            if proposal.parent is None:
                belief = play.advisor._believe()
                assert belief is not None
                encoding = play.advisor._encoding
                place = encoding.place(proposal.configuration)
                found.append(float(belief.likeness_to_pending(encoding.inputs(place[None, :])).max()))
            play.begin(proposal)
        assert len(found) >= 2
        return statistics.mean(found)

    spread = likeness()
    monkeypatch.setattr("orchestrator.study.advisor._COPY", 1 - 1e-12)
    assert spread < likeness()


def test_a_space_that_is_exhausted_gives_promotions_and_then_nothing() -> None:
    play = Play(replace(ALL, varies=["model.depth"], opens=False))
    for depth in (1, 2, 3, 4):
        play.end(play.begin(Proposal({**BASE, "model.depth": depth})), 1)
    proposals = []
    while (proposal := play.ask()) is not None:
        proposals.append(proposal)
        record = play.begin(proposal)
        play.end(record, play.next_rung(record))
    assert all(proposal.parent is not None for proposal in proposals)
    assert sum(record.state is TrialState.COMPLETE for record in play.records) == 4


def test_maximise_and_minimise_are_mirrored() -> None:
    down, up = Play().run(25), Play(direction=Direction.MAXIMIZE).run(25)
    assert [(r.configuration, r.parent) for r in down.records] == [(r.configuration, r.parent) for r in up.records]
    for one, other in zip(down.records, up.records, strict=True):
        assert down.advisor.goes_on(one) == up.advisor.goes_on(other)


def test_it_finds_what_is_good_over_numbers_choices_and_conditions() -> None:
    play = Play(candidates=200).run(70)
    best = min((r for r in play.records if r.value is not None), key=lambda r: r.value or 0.0).configuration
    assert best["optimizer.name"] == "adam"
    assert 0.01 < best["optimizer.lr"] < 0.25
    assert 2 <= best["model.depth"] <= 4


def test_what_has_no_effect_stays_as_in_the_base() -> None:
    play = Play(level=lambda c: cost(c) + (3.0 if c["optimizer.name"] == "adam" else 0.0)).run(40)
    adam = [record for record in play.records if record.configuration["optimizer.name"] == "adam"]
    assert adam
    assert {record.configuration["optimizer.momentum"] for record in adam} == {BASE["optimizer.momentum"]}
    sgd = {r.configuration["optimizer.momentum"] for r in play.records if r.configuration["optimizer.name"] == "sgd"}
    assert len(sgd) > 1


def test_a_memory_limit_is_avoided_once_it_is_known() -> None:
    """Larger batches are better here, but fit only where the network is shallow."""

    def limited(configuration: Configuration) -> float | None:
        batch, depth = math.log2(configuration["data.batch_size"]), configuration["model.depth"]
        return None if batch + depth > 10 else 2.0 - 0.1 * batch - 0.05 * depth

    focus = replace(ALL, varies=["data.batch_size", "model.depth"])
    play = Play(focus, level=limited).run(60)
    failed = [record.state is TrialState.INFEASIBLE for record in play.records]
    assert sum(failed[:20]) >= 1
    assert sum(failed[20:]) <= 8
    best = min((r.configuration for r in play.records if r.value is not None), key=lambda c: limited(c) or 0.0)
    assert math.log2(best["data.batch_size"]) > 7


def test_only_what_was_stopped_and_can_be_loaded_goes_on() -> None:
    play = Play(resumable=lambda number: number % 2 == 0).run(50)
    for record in play.records:
        if record.parent is not None:
            assert record.parent % 2 == 0
            assert play.records[record.parent].state is TrialState.PRUNED
            assert play.records[record.parent].configuration == record.configuration
    assert any(record.parent is not None for record in play.records)


def test_the_first_finished_trial_comes_early_and_is_the_most_promising() -> None:
    play = Play()
    for lr in (1e-4, 1e-2, 1.0):
        play.end(play.begin(Proposal({**BASE, "optimizer.lr": lr})), 1)
    proposal = play.ask()
    assert proposal is not None
    assert proposal.parent == 1
    record = play.begin(proposal)
    assert play.advisor.goes_on(replace(record, curve=play.end(record, 3).curve))


def test_while_none_is_finished_the_furthest_of_the_promising_goes_on() -> None:
    """Among many that promise about the same, each would else give way to another and none come to its end."""
    rates = [10 ** (-1.5 - step / 20) for step in range(12)]
    play = Play(level=lambda configuration: 0.3 + 0.001 * rates.index(configuration["optimizer.lr"]))
    for rate in rates[:1] + rates[2:]:
        play.end(play.begin(Proposal({**BASE, "optimizer.lr": rate})), 1)
    further = play.begin(Proposal({**BASE, "optimizer.lr": rates[1]}))
    assert play.advisor.goes_on(replace(further, curve=play.end(further, 9).curve))


def test_a_near_copy_of_what_another_worker_trains_is_not_the_next_to_be_continued() -> None:
    play = Play(replace(ALL, varies=["model.depth"], opens=False))
    for configuration in ({}, {"model.depth": 3}, {"model.depth": 3, "optimizer.lr": 0.00101}, {"model.depth": 1}):
        play.end(play.begin(Proposal({**BASE, **configuration})), 1)
    play.end(play.begin(Proposal({**BASE, "model.depth": 4})), EPOCHS)
    continued = []
    while (proposal := play.ask()) is not None:
        play.begin(proposal)
        if proposal.parent is not None:
            continued.append(proposal.parent)
    assert len(continued) == 4
    assert continued[0] in (1, 2)
    assert continued[1] not in (1, 2)


@pytest.mark.parametrize("good", [True, False])
def test_beside_the_first_to_be_finished_a_good_first_configuration_goes_on(good: bool) -> None:
    rates = [0.02 if good else 1e-4, 0.05, 0.04, 0.03, 0.5, 0.7, 1.0, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4]
    play = Play()
    for rate in rates:
        play.end(play.begin(Proposal({**BASE, "optimizer.lr": rate})), 1)
    first = play.ask()
    assert first is not None
    assert first.parent in (1, 2, 3)
    play.begin(first)
    other = play.ask()
    assert other is not None
    assert other.parent != 0
    play.begin(replace(other, parent=2))
    second = play.ask()
    assert second is not None
    assert (second.parent == 0) is good
    if good:
        record = play.begin(second)
        assert play.advisor.goes_on(replace(record, curve=play.end(record, 3).curve))


def test_a_stage_by_itself_keeps_enough_to_finish_one() -> None:
    play = Play(replace(ALL, closes=True))
    left = 26
    while (proposal := play.advisor.propose(len(play.records), left)) is not None:
        record = play.begin(proposal)
        ended = play.end(record, play.next_rung(record))
        left -= ended.epochs_paid
    assert left >= 0
    assert any(record.state is TrialState.COMPLETE for record in play.records)


@pytest.mark.parametrize("left", [0, 1, 2, 5])
def test_nothing_unaffordable_is_proposed(left: int) -> None:
    play = Play().run(20)
    for number in range(20, 30):
        proposal = play.advisor.propose(number, left)
        if proposal is None:
            continue
        parent = None if proposal.parent is None else play.records[proposal.parent]
        assert (1 if parent is None else play.next_rung(parent) - parent.epochs_run) <= left


def test_a_new_trial_in_warm_up_costs_the_epochs_until_it_can_be_compared() -> None:
    play = Play(base={**BASE, "schedule.warmup": 0.25}).run(6)  # warm until epoch 4.5: the first rung is 9
    for left, affordable in ((8, False), (9, True)):
        assert play.advisor.affords(play.records[0].configuration, left) is affordable
    assert all(
        proposal is None or proposal.parent is not None
        for proposal in (play.advisor.propose(number, 8) for number in range(6, 12))
    )


def test_a_trial_in_warm_up_always_goes_on() -> None:
    play = Play().run(12)
    bad = {**BASE, "optimizer.lr": 1e-4, "schedule.warmup": 0.2}
    record = play.begin(Proposal(bad))
    for epochs, warm in ((3, True), (9, False)):
        curve = dict.fromkeys(range(1, epochs + 1), 9.0)
        running = replace(record, curve=curve)
        play.advisor.observe(running)
        assert play.advisor.goes_on(running) is warm


def test_a_window_bounds_what_was_tuned_before_and_only_the_stage_varies_freely() -> None:
    focus = Focus(varies=["model.depth"], windows={"optimizer.lr": 0.1}, opens=False, rungs=RUNGS)
    play = Play(focus).run(30)
    for record in play.records:
        moved = {name for name, value in record.configuration.items() if value != BASE[name]}
        assert moved <= {"model.depth", "optimizer.lr"}
    first = play.records[0].configuration["optimizer.lr"]
    assert abs(math.log10(first) + 3) <= 0.4 + 1e-9


def test_singly_changes_one_of_the_stage_at_a_time() -> None:
    names = ["data.batch_size", "model.depth", "optimizer.lr"]
    play = Play(replace(ALL, varies=names, singly=True, opens=False))
    play.end(play.begin(Proposal(BASE)), EPOCHS)
    parents = [BASE]
    for _ in range(15):
        proposal = play.ask()
        assert proposal is not None
        if proposal.parent is None:
            distances = [sum(proposal.configuration[n] != base[n] for n in names) for base in parents]
            assert min(distances) == 1
            parents.append(dict(proposal.configuration))
        record = play.begin(proposal)
        play.end(record, play.next_rung(record))


def test_windows_open_when_the_incumbent_is_poor_and_the_count_is_of_proposals() -> None:
    start = {**BASE, "optimizer.lr": 1e-4}
    focus = Focus(varies=["model.depth"], windows={"optimizer.lr": 0.05}, rungs=RUNGS)
    play = Play(focus, base=start)
    play.end(play.begin(Proposal(start)), EPOCHS)
    for lr in (1e-3, 1e-2, 1e-1):
        play.end(play.begin(Proposal({**start, "optimizer.lr": lr})), 1)
    # So that something was seen to help that the stage itself may not touch.
    before = len(play.records)
    play.run(before + 12)
    new = [r.configuration for r in play.records[before:] if r.parent is None]
    outside = [c for c in new if c["optimizer.name"] != "sgd" or c["data.batch_size"] != 64]
    assert len(outside) <= play.advisor.opened <= len(new)


def test_beyond_the_range_where_the_best_lies_at_its_end() -> None:
    """The best rate is 10 times the upper end of the range; the limits allow it."""
    play = Play(
        replace(ALL, varies=["optimizer.lr"]),
        level=lambda c: 1.0 + (math.log10(c["optimizer.lr"]) - 1.0) ** 2,
    ).run(40)
    rates = [record.configuration["optimizer.lr"] for record in play.records]
    assert max(rates) > 3
    assert max(rates) <= 10


def test_a_restarted_advisor_proposes_the_same() -> None:
    play = Play().run(18)
    fresh = Play()
    for record in play.records:
        fresh.advisor.observe(record)
    for number in (18, 19, 20):
        assert fresh.advisor.propose(number) == play.advisor.propose(number)
    assert fresh.advisor.seed_noise(0.5) == play.advisor.seed_noise(0.5)


def test_a_line_runs_over_the_range_at_the_best_configuration() -> None:
    play = Play()
    play.end(play.begin(Proposal({**BASE, "model.depth": 3})), EPOCHS)
    line = play.advisor.line("optimizer.lr", 4)
    np.testing.assert_allclose([math.log10(c["optimizer.lr"]) for c in line], [-3.5, -2.5, -1.5, -0.5])
    assert {c["model.depth"] for c in line} == {3}


@pytest.mark.parametrize(("better", "kept"), [(1, True), (3, False)])
def test_a_line_stays_at_a_first_configuration_that_is_among_the_best_third(better: int, kept: bool) -> None:
    others = [{**BASE, "model.depth": 3, "optimizer.lr": 10 ** (-1 - number / 4)} for number in range(6)]
    levels = [0.5, *(0.2 if number < better else 0.9 for number in range(6))]
    tried = [dict(BASE), *others]
    play = Play(level=lambda configuration: levels[tried.index(dict(configuration))])
    for configuration in tried:
        play.end(play.begin(Proposal(configuration)), 1)
    line = play.advisor.line("optimizer.lr", 4)
    assert {c["model.depth"] for c in line} == {BASE["model.depth"] if kept else 3}


def test_sobol_points_fill_what_is_asked_and_leave_the_rest() -> None:
    points = sobol(SPACE, BASE, ["optimizer.lr", "optimizer.name"], 8, seed=1)
    assert len({tuple(p.items()) for p in points}) == 8
    assert {p["model.depth"] for p in points} == {BASE["model.depth"]}
    assert {p["optimizer.name"] for p in points} == {"sgd", "adam"}
    shares = sorted((math.log10(p["optimizer.lr"]) + 4) / 4 * 8 for p in points)
    assert [int(share) for share in shares] == list(range(8))
    assert points == sobol(SPACE, BASE, ["optimizer.lr", "optimizer.name"], 8, seed=1)
    assert points != sobol(SPACE, BASE, ["optimizer.lr", "optimizer.name"], 8, seed=2)
