"""Greedy selection against a straightforward reference, on random problems of every form."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.ensemble.greedy import (
    PATIENCE,
    RESOLUTION,
    ROUNDS,
    Library,
    select,
    select_bagged,
    shares_of,
    uniform,
)
from orchestrator.ensemble.objective import ErrorRate, LogLoss, Metric, Objective, SquaredError


def problem(form: str, candidates: int, examples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (candidates, examples, ...), of very different quality, and targets."""
    generator = np.random.default_rng(seed)
    quality = generator.uniform(0.0, 2.0, candidates)
    if form == "values":
        targets = generator.normal(size=(examples, 2))
        noise = generator.normal(size=(candidates, examples, 2))
        return targets + noise * (0.2 + quality)[:, None, None], targets
    if form == "labels":
        targets = generator.integers(0, 2, (examples, 3))
        logits = (2 * targets - 1) * quality[:, None, None] + generator.normal(size=(candidates, examples, 3))
        return 1 / (1 + np.exp(-logits)), targets
    targets = generator.integers(0, 4, examples)
    logits = np.eye(4)[targets] * 2 * quality[:, None, None] + generator.normal(size=(candidates, examples, 4))
    return np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True), targets


def plain_cost(form: str, average: np.ndarray, targets: np.ndarray) -> float:
    """The textbook's formula, on whole predictions."""
    if form == "values":
        return float(((average - targets) ** 2).mean())
    if form == "labels":
        return float(-(targets * np.log(average) + (1 - targets) * np.log(1 - average)).mean())
    if form == "accuracy":
        return float((average.argmax(axis=1) != targets).mean())
    return float(-np.log(average[np.arange(len(targets)), targets]).mean())


def reference(form: str, predictions: np.ndarray, targets: np.ndarray, limit: int) -> list[int]:
    """Caruana et al. 2004 with sorted initialisation, in the simplest words."""

    def cost(chosen: list[int]) -> float:
        return plain_cost(form, predictions[chosen].mean(axis=0), targets)

    ordered = sorted(range(len(predictions)), key=lambda index: cost([index]))
    beginnings = [ordered[:size] for size in range(1, min(limit, len(ordered)) + 1)]
    chosen = list(min(beginnings, key=cost))
    found = list(chosen)
    while len(chosen) < ROUNDS and len(chosen) - len(found) < PATIENCE:
        offered = range(len(predictions)) if len(set(chosen)) < limit else sorted(set(chosen))
        chosen.append(min(offered, key=lambda index: cost([*chosen, index])))
        if cost(chosen) < cost(found) - RESOLUTION * abs(cost(found)):
            found = list(chosen)
    return found


def objective(form: str, targets: np.ndarray) -> Objective:
    return {
        "classes": lambda: LogLoss(targets, 1),
        "labels": lambda: LogLoss(targets, None),
        "values": lambda: SquaredError(targets),
        "accuracy": lambda: ErrorRate(targets),
    }[form]()


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(["classes", "labels", "values"]),
    candidates=st.integers(1, 12),
    examples=st.integers(2, 40),
    limit=st.integers(1, 6),
    seed=st.integers(0, 2**31),
)
def test_selection_agrees_with_the_reference(
    form: str, candidates: int, examples: int, limit: int, seed: int
) -> None:
    predictions, targets = problem(form, candidates, examples, seed)
    wanted = reference(form, predictions, targets, limit)
    made = objective(form, targets)
    library = Library(made.reduced(predictions), made)
    chosen = select(library, limit=limit)
    at = next((i for i, (a, b) in enumerate(zip(chosen, wanted, strict=False)) if a != b), None)
    if at is not None or len(chosen) != len(wanted):
        # A tie up to the rounding of float32: there both cost the same.
        here, there = (chosen, wanted) if at is None else (chosen[: at + 1], wanted[: at + 1])
        costs = [plain_cost(form, predictions[one].mean(axis=0), targets) for one in (here, there)]
        assert costs[0] == pytest.approx(costs[1], rel=1e-5)
    assert len(set(chosen)) <= limit
    assert library.cost(shares_of(chosen)) <= library.singles().min() * (1 + 1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_accuracy_is_selected_by_whole_predictions(seed: int) -> None:
    predictions, targets = problem("classes", 8, 30, seed)
    made = ErrorRate(targets)
    chosen = select(Library(made.reduced(predictions), made), limit=4)
    assert chosen == reference("accuracy", predictions, targets, 4)


def test_any_other_metric_gives_what_the_same_cost_gives_as_a_form() -> None:
    predictions, targets = problem("values", 6, 25, 3)

    def called(average: np.ndarray, examples: np.ndarray | None) -> float:
        return plain_cost("values", average, targets if examples is None else targets[examples])

    slow, fast = Metric(called), SquaredError(targets)
    half = np.arange(0, 25, 2)
    for examples in (np.arange(25), half):
        here = Library(slow.reduced(predictions), slow).part(examples)
        there = Library(fast.reduced(predictions), fast).part(examples)
        assert select(here, limit=3) == select(there, limit=3)


def test_a_part_of_the_examples_is_judged_by_its_own_targets() -> None:
    predictions, targets = problem("classes", 5, 20, 1)
    for made in (LogLoss(targets, 1), ErrorRate(targets)):
        examples = np.array([3, 17, 4, 9])
        part = Library(made.reduced(predictions), made).part(examples)
        own = type(made)(targets[examples], 1) if isinstance(made, LogLoss) else ErrorRate(targets[examples])
        again = Library(own.reduced(predictions[:, examples]), own)
        assert part.singles() == pytest.approx(again.singles())


def test_bags_agree_on_the_good_candidates_and_shares_sum_to_one() -> None:
    generator = np.random.default_rng(0)
    targets = generator.normal(size=(60, 1))
    noise = np.array([0.3, 0.3, 0.3, 3.0, 3.0, 3.0, 3.0])
    predictions = targets + generator.normal(size=(7, 60, 1)) * noise[:, None, None]
    made = SquaredError(targets)
    shares = select_bagged(Library(made.reduced(predictions), made), limit=3, seed=1)
    assert set(shares) == {0, 1, 2}
    assert math.isclose(sum(shares.values()), 1)
    assert shares == select_bagged(Library(made.reduced(predictions), made), limit=3, seed=1)


def test_the_best_few_have_equal_shares() -> None:
    targets = np.zeros((10, 1))
    predictions = np.array([3.0, 1.0, 2.0, 0.5])[:, None, None] * np.ones((4, 10, 1))
    made = SquaredError(targets)
    assert uniform(Library(made.reduced(predictions), made), count=2) == {1: 0.5, 3: 0.5}
    assert uniform(Library(made.reduced(predictions), made), count=9) == dict.fromkeys(range(4), 0.25)
