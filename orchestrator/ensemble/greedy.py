"""Greedy ensemble selection with replacement, and its bagged form.

Caruana et al. 2004, "Ensemble selection from libraries of models"; 2006, "Getting the most out of
ensemble selection" (bagging: section 2.3).
"""

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

Cost = Callable[[Tensor], float]
"""Cost of averaged predictions (less is better)."""

BAGS = 15
BAG_SHARE = 0.5
"""Number of bags, and each one's share of the candidates (the share: Caruana et al. 2006)."""


PATIENCE = 4
"""Rounds without a lower cost after which a selection ends (our guess)."""


def select(predictions: Sequence[Tensor], cost: Cost, *, rounds: int = 25) -> list[int]:
    """Indices of the chosen candidates, with repetition; how often one appears is its weight.

    Begins with the best single candidate and adds, round by round, the one whose inclusion in the
    average costs least. The answer is the shortest prefix with the least cost, so it never costs more
    than the best single candidate does.

    Args:
        predictions: per candidate, shape (examples, ...): what is averaged.
        cost: of averaged predictions of all examples.
        rounds: longest selection.
    """
    chosen: list[int] = []
    costs: list[float] = []
    total: Tensor | None = None
    for size in range(1, rounds + 1):
        trials = [cost(p if total is None else (total + p) / size) for p in predictions]
        best = int(np.argmin(trials))
        total = predictions[best] if total is None else total + predictions[best]
        chosen.append(best)
        costs.append(trials[best])
        if size - 1 - costs.index(min(costs)) >= PATIENCE:
            break
    return chosen[: costs.index(min(costs)) + 1]


def select_bagged(predictions: Sequence[Tensor], cost: Cost, *, members: int, seed: int) -> dict[int, float]:
    """Weights (summing to 1) of at most ``members`` candidates, averaged over bags of the candidates.

    Greedy selection on a small validation split picks what fits its noise; each bag sees a random part
    of the candidates only, and what many bags choose is what stays.

    Args:
        predictions: per candidate, shape (examples, ...).
        cost: of averaged predictions.
        members: largest number of different candidates.
        seed: of the bags.
    """
    generator = np.random.default_rng(seed)
    size = max(1, round(len(predictions) * BAG_SHARE))
    votes: dict[int, float] = {}
    for _ in range(BAGS):
        bag = sorted(int(index) for index in generator.choice(len(predictions), size, replace=False))
        chosen = select([predictions[index] for index in bag], cost)
        for position in chosen:
            votes[bag[position]] = votes.get(bag[position], 0.0) + 1 / len(chosen)
    strongest = sorted(votes, key=lambda index: (-votes[index], index))[:members]
    total = sum(votes[index] for index in strongest)
    return {index: votes[index] / total for index in sorted(strongest)}
