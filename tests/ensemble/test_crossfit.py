"""Which way of choosing is taken, and what it is judged by; what a task's objective is found to be."""

import numpy as np
import pytest
import torch

from orchestrator.ensemble.crossfit import KINDS, Way, cross, decide, folds, gap
from orchestrator.ensemble.greedy import Library
from orchestrator.ensemble.judge import Judge
from orchestrator.ensemble.objective import Metric, Objective, SquaredError
from orchestrator.tasks.tabular import BreastCancer, Diabetes
from orchestrator.types import Direction


def library(noise: list[float], examples: int = 80, seed: int = 0, shared: float = 0.0) -> Library:
    """Candidates with independent errors of these deviations, and one error that all share."""
    generator = np.random.default_rng(seed)
    targets = generator.normal(size=(examples, 1))
    errors = generator.normal(size=(len(noise), examples, 1)) * np.array(noise)[:, None, None]
    errors += shared * generator.normal(size=(1, examples, 1))
    made = SquaredError(targets)
    return Library(made.reduced(targets + errors), made)


def judged(some: Library, members: int = 5) -> tuple[dict, dict]:
    plain = range(len(some.values))
    ways = {kind: Way(kind, members, 1, plain, plain) for kind in KINDS}
    crossed = {kind: cross(some, way, count=5, repeats=2) for kind, way in ways.items()}
    return crossed, {kind: way.choose(some) for kind, way in ways.items()}


def test_every_example_is_judged_by_what_was_chosen_without_it() -> None:
    some = library([0.5, 0.6, 0.7, 3.0])
    seen = []

    class Spy(Way):
        def choose(self, part: Library) -> dict[int, float]:
            assert part.examples is not None
            seen.append(set(part.examples.tolist()))
            return super().choose(part)

    found = cross(some, Spy("greedy", 3, 0, range(4), range(4)), count=4, repeats=2)
    held = [set(examples.tolist()) for parts in found.parts for examples, _ in parts]
    assert all(not a & b and len(a | b) == 80 for a, b in zip(seen, held, strict=True))
    assert set.union(*held[:4]) == set(range(80))
    assert held[:4] != held[4:], "the second division is another"
    by_hand = [
        sum(share * some.values[i] for i, share in shares.items())[examples] for examples, shares in found.parts[0]
    ]
    assert np.allclose(
        np.concatenate([found.averages[0][examples] for examples, _ in found.parts[0]]), np.concatenate(by_hand)
    )


def test_the_folds_share_out_all_examples() -> None:
    parts = folds(10, 3, 0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(10))
    assert len(folds(2, 5, 0)) == 2


def test_independent_errors_call_for_an_ensemble_and_it_is_no_worse_on_fresh_examples() -> None:
    some = library([0.5] * 8)
    crossed, _ = judged(some)
    kind = decide(some, crossed)
    assert kind in ("bagged", "uniform")
    gain, error = gap(some, crossed["single"], crossed[kind])
    assert gain > 3 * error > 0


def test_one_good_candidate_among_bad_ones_is_taken_alone() -> None:
    """What once went wrong: bags without the best candidate voted, and their committee cost twice the best single."""
    some = library([0.2, *[2.0] * 9])
    crossed, chosen = judged(some)
    assert some.cost(chosen["bagged"]) > 1.5 * some.cost(chosen["single"])
    kind = decide(some, crossed)
    assert some.cost(chosen[kind]) <= some.cost(chosen["single"])
    assert kind in ("single", "greedy")


@pytest.mark.parametrize("seed", range(6))
def test_what_is_taken_costs_at_most_two_standard_errors_more_than_the_best_single(seed: int) -> None:
    generator = np.random.default_rng(seed)
    some = library(generator.uniform(0.2, 2.0, 10).tolist(), 30, seed, shared=0.3)
    crossed, _ = judged(some)
    kind = decide(some, crossed)
    worse, error = gap(some, crossed[kind], crossed["single"])
    assert worse <= 2 * error


def test_a_gap_without_costs_of_examples_has_a_bootstrap_error_like_the_paired_one() -> None:
    some = library([0.5] * 6)

    def called(average: np.ndarray, examples: np.ndarray | None) -> float:
        return float(np.square(average).mean())

    whole = Metric(called)
    whole.reduced(some.values)
    other = Library(some.values, whole)
    crossed = [
        cross(lib, Way(kind, 3, 1, range(6), range(6)), count=4, repeats=1)
        for lib in (some, other)
        for kind in ("single", "greedy")
    ]
    paired, resampled = gap(some, crossed[0], crossed[1]), gap(other, crossed[2], crossed[3])
    assert resampled[0] == pytest.approx(paired[0], rel=1e-4)
    assert resampled[1] == pytest.approx(paired[1], rel=0.3)


def judge_of(task: object, form: str, examples: int = 40) -> Judge:
    generator = torch.Generator().manual_seed(0)
    if form == "classes":
        sample = torch.rand(3, examples, 2, generator=generator, dtype=torch.float64).softmax(dim=2)
        return Judge(task, torch.randint(0, 2, (examples,), generator=generator), sample)
    sample = torch.randn(3, examples, 1, generator=generator, dtype=torch.float64)
    return Judge(task, torch.randn(examples, 1, generator=generator), sample)


@pytest.mark.parametrize(
    ("task", "objective", "form", "name", "root"),
    [
        (BreastCancer, "loss", "classes", "log-loss", False),
        (BreastCancer, "accuracy", "classes", "error rate", False),
        (BreastCancer, "roc_auc", "classes", "the task's own score", False),
        (Diabetes, "loss", "values", "squared error", False),
        (Diabetes, "r2", "values", "squared error", False),
        (Diabetes, "rmse", "values", "squared error", True),
    ],
)
def test_the_objective_is_recognised_by_what_it_gives(
    task: type, objective: str, form: str, name: str, root: bool
) -> None:
    made = type("Own", (task,), {"objective": objective})()
    judge = judge_of(made, form)
    found = judge.recognised
    assert (found.form.name, found.root) == (name, root)
    for one in judge.sample:
        cost = float(found.form.totals(found.form.reduced(one[None].numpy()), None)[0])
        assert found.cost(cost) == pytest.approx(judge.cost(one), rel=1e-4, abs=1e-6)


def test_probabilities_that_underflow_hide_no_log_loss() -> None:
    """The task takes 1e-300 for what it is, the library for the smallest number of float32."""
    targets = torch.arange(40) % 2
    sure = torch.stack([1.0 - targets, targets.double()], dim=1).clamp(1e-300, 1.0).expand(3, 40, 2).clone()
    sure[0, :3] = sure[0, :3].flip(1)  # wrong, and as sure of it
    sure[1:, :20] = torch.tensor([0.7, 0.3], dtype=torch.float64)
    assert Judge(BreastCancer(), targets, sure).recognised.form.name == "log-loss"


class Percentage(BreastCancer):
    """Log-loss by another name, in other units, to be maximised."""

    objective = "skill"
    directions = {"skill": Direction.MAXIMIZE}

    def score(self, predictions: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
        return {"skill": 100 * (1 - super().score(predictions, targets)["loss"] / 0.69)}


def test_gains_are_in_the_units_of_the_objective() -> None:
    judge = judge_of(Percentage(), "classes")
    form: Objective = judge.recognised.form
    assert form.name == "log-loss"
    gain, error = judge.gain(judge.sample[0], judge.sample[1])
    scores = [judge.task.score(judge.sample[n], judge.targets)["skill"] for n in (0, 1)]
    assert gain == pytest.approx(scores[1] - scores[0])
    right = [s.gather(1, judge.targets[:, None]).log().flatten() for s in judge.sample[:2]]
    assert error == pytest.approx(float((right[0] - right[1]).std()) / 40**0.5 * 100 / 0.69, rel=1e-4)
    squared = judge_of(type("Root", (Diabetes,), {"objective": "rmse"})(), "values")
    gain, error = squared.gain(squared.sample[0], squared.sample[1])
    assert gain == pytest.approx(squared.cost(squared.sample[0]) - squared.cost(squared.sample[1]))
    assert error > 0
