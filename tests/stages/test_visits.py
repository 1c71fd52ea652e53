"""Which visits a command makes, and how long they are."""

import itertools
import math
from dataclasses import replace

import pytest
from curves import command
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.stages.sweep import make_plan
from orchestrator.stages.visits import Visit, budget, make_visits, pass_lengths, stage_of, varied

NAMES = ["start", "lr", "batch_size", "width", "decay", "joint"]


@given(total=st.floats(0.1, 500), first=st.floats(0.1, 50), growth=st.floats(1.0, 4.0))
def test_passes_grow_and_sum_to_the_total(total: float, first: float, growth: float) -> None:
    lengths = pass_lengths(total, first, growth)
    assert math.isclose(sum(lengths), total, rel_tol=1e-9)
    for before, after in itertools.pairwise(lengths):
        assert after >= before * growth * (1 - 1e-9)
    assert lengths[0] == total or math.isclose(lengths[0], first, rel_tol=1e-9)


def test_one_stage_is_one_visit_with_its_budget_of_epochs() -> None:
    [visit] = make_visits(command("stage=lr"), ["lr"])
    assert visit == Visit("lr", epochs=6 * 9, repeats=2)
    assert (visit.key, visit.alone) == ("lr", True)
    assert make_visits(command("stage=lr", "n_trials=5"), ["lr"]) == [Visit("lr", n_trials=5)]
    [few] = make_visits(command("stage=lr", "+stages.lr.budget=1.5"), ["lr"])
    assert (few.epochs, few.repeats) == (14, 0)


@pytest.mark.parametrize("words", [("n_trials=5",), ("sampler=random",), ("recipe.first_pass=0",),
                                   ("+stages.width.n_trials=3",)])  # fmt: skip
def test_without_passes_each_stage_is_visited_once(words: tuple[str, ...]) -> None:
    visits = make_visits(command("stage=all", *words), NAMES)
    kept = [visit.stage for visit in visits]
    assert kept == [name for name in NAMES if name in kept]
    assert set(NAMES) - set(kept) <= {"start"}
    assert all(visit.alone for visit in visits)


def test_the_last_visit_ends_where_the_whole_budget_does() -> None:
    config = command("stage=all")
    visits = make_visits(config, NAMES)
    total = sum(budget(config, config.stages[name]) for name in NAMES)
    assert visits[-1].up_to == total * 9
    assert visits[-1].repeats == 2
    assert all(visit.up_to is None and visit.repeats == 0 for visit in visits[:-1])
    assert [visit.round for visit in visits] == sorted(visit.round for visit in visits)
    keys = [visit.key for visit in visits]
    assert len(set(keys)) == len(keys)
    assert keys[:2] == ["start", "lr"]
    assert "lr@2" in keys
    assert "start@2" not in keys
    assert {stage_of(key) for key in keys} == set(NAMES)


def test_a_stage_that_does_not_prune_waits_for_a_pass_that_affords_it() -> None:
    config = command("stage=all")
    visits = make_visits(config, NAMES)
    assert min(visit.epochs for visit in visits if visit.stage == "decay") >= 4.5
    assert min(visit.epochs for visit in visits if visit.stage == "width") < 4.5
    few = make_visits(command("stage=all", "+experiment=quick"), NAMES)
    assert [visit.round for visit in few if visit.stage == "decay"] == [few[-1].round]


def test_the_last_pass_divides_what_is_left_among_its_visits() -> None:
    visits = make_visits(command("stage=all"), NAMES)
    last = visits[-1].round
    before = [visit for visit in visits if visit.round < last]
    assert before
    assert all(visit.share is None for visit in before)
    left, spent = 1.0, []
    for visit in [visit for visit in visits if visit.round == last][:-1]:
        spent.append(left * visit.share)
        left -= spent[-1]
    planned = [visit.epochs for visit in visits if visit.round == last][:-1]
    ratios = [cost / epochs for cost, epochs in zip(spent, planned, strict=True)]
    assert ratios == pytest.approx([ratios[0]] * len(ratios))
    assert left == pytest.approx(14 * ratios[0] * planned[0] / 6 / ratios[0] * ratios[0], rel=0.05)


def test_passes_leave_room_for_their_opening_the_first_finished_trial_and_the_repeats() -> None:
    config = command("stage=all")
    visits = make_visits(config, NAMES)
    total = sum(budget(config, config.stages[name]) for name in NAMES)
    beside = 2 + 1 + (1 + 5 + 7) / 9
    assert sum(visit.epochs or 0 for visit in visits[:-1]) <= (total - beside) * 9


def test_what_a_stage_varies_is_what_the_task_has() -> None:
    config = command("stage=all")
    space = make_plan(config).space
    assert varied(space, config.stages["joint"]) == list(space.hyperparameters)
    assert varied(space, config.stages["momentum"]) == ["optimizer.beta1"]
    assert varied(space, replace(config.stages["lr"], varies=("model.nothing",))) == []
