"""Configurations that were trained with the same seeds: which are obvious losers, and how sure the winner is."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class Paired:
    """Two configurations over the seeds that both were trained with."""

    pairs: int
    better: int
    """Pairs in which the first was better."""
    difference: float
    """Mean of the second's cost less the first's: above 0 where the first is better."""
    error: float | None
    """Standard error of the difference; None with fewer than two pairs."""
    p_value: float | None
    """Two-sided paired t-test; None with fewer than two pairs."""


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """Compare costs (less is better) seed by seed; both of shape (pairs,), at least one."""
    differences = [b - a for a, b in zip(first, second, strict=True)]
    count, mean = len(differences), statistics.mean(differences)
    better = sum(difference > 0 for difference in differences)
    if count < 2:
        return Paired(count, better, mean, None, None)
    error = statistics.stdev(differences) / math.sqrt(count)
    if error == 0:
        return Paired(count, better, mean, 0.0, 0.0 if mean else 1.0)
    return Paired(count, better, mean, error, float(2 * student.sf(abs(mean) / error, count - 1)))


def losers(costs: Mapping[int, Sequence[float]], level: float) -> set[int]:
    """Those whose mean cost is clearly above the least one, by a one-sided t-test at ``level``.

    All costs are seen as configuration + seed + noise, and the noise is what is left of them, so that few seeds of
    several configurations give enough degrees of freedom: (configurations - 1) (seeds - 1). Racing with a t-test
    that is not corrected for the number of rivals: Lopez-Ibanez et al. 2016 (irace), section 2.2.

    Args:
        costs: less is better; configuration to one cost for each seed, the same seeds for all, at least two.
        level: of the test.
    """
    names = list(costs)
    if len(names) < 2:
        return set()
    table = np.array([costs[name] for name in names])
    rows, columns = table.shape
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0, keepdims=True) + table.mean()
    freedom = (rows - 1) * (columns - 1)
    noise = math.sqrt(float((left**2).sum()) / freedom)
    means = table.mean(axis=1)
    margin = float(student.isf(level, freedom)) * noise * math.sqrt(2 / columns)
    return {name for name, mean in zip(names, means, strict=True) if mean > means.min() + margin}
