"""Greedy ensemble selection with replacement (Caruana et al. 2004, "Ensemble selection from libraries of models")."""

from collections.abc import Callable, Sequence

from torch import Tensor

Cost = Callable[[Tensor], float]
"""Cost of averaged predictions (less is better)."""


def select(predictions: Sequence[Tensor], cost: Cost, *, members: int, rounds: int = 25) -> list[int]:
    """Indices of the chosen candidates, with repetition; how often one appears is its weight.

    Begins with the best single candidate and adds, round by round, the one whose inclusion in the
    average costs least, of at most ``members`` different ones. The answer is the shortest prefix with
    the least cost, so it never costs more than the best single candidate does.

    Args:
        predictions: per candidate, shape (examples, ...), what is averaged.
        cost: of averaged predictions of all examples.
        members: largest number of different candidates.
        rounds: longest selection.
    """
    chosen: list[int] = []
    costs: list[float] = []
    total: Tensor | None = None
    for size in range(1, rounds + 1):
        allowed = range(len(predictions)) if len(set(chosen)) < members else sorted(set(chosen))
        trials = {i: cost(predictions[i] if total is None else (total + predictions[i]) / size) for i in allowed}
        best = min(trials, key=lambda index: (trials[index], index))
        total = predictions[best] if total is None else total + predictions[best]
        chosen.append(best)
        costs.append(trials[best])
    return chosen[: costs.index(min(costs)) + 1]
