"""Greedy ensemble selection with replacement, from sorted beginnings, and its bagged form.

Caruana et al. 2004, "Ensemble selection from libraries of models" (selection with replacement: section 2.1; sorted
initialisation: 2.2; bags: 2.3); Caruana, Munson and Niculescu-Mizil 2006, "Getting the most out of ensemble
selection".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.objective import BLOCK_BYTES, Costs, Floats, Objective

BAGS = 15
BAG_SHARE = 0.5
"""Number of bags, and each one's share of the candidates (the share: Caruana et al. 2004, section 2.3)."""
EQUAL = 0.5
"""What equal shares of the best count for in bagged selection. Test loss to that of the best single, 20 small sweeps
of the shipped tasks: 0.862 with 0.5, 0.874 with 0, 0.862 with equal shares alone; and on 200 random divisions of
their validation and test: 0.863, 0.864, 0.869."""
ROUNDS = 25
"""Longest selection: shares are multiples of 1/25 then (our guess)."""
PATIENCE = 4
"""Rounds without a lower cost after which a selection ends (our guess)."""
RESOLUTION = 1e-6
"""What counts as a lower cost, relatively: beyond the rounding of float32 (6e-8, several times over)."""

Shares = Mapping[int, float]
"""Index of a candidate to its share of the average; they sum to 1."""


@dataclass(frozen=True)
class Library:
    """Candidates on the examples that choose among them."""

    values: Floats
    """See :meth:`Objective.reduced`; shape (candidates, examples, parts)."""
    objective: Objective
    examples: NDArray[np.intp] | None = None
    """Which examples of the objective's these are; None: all."""

    def part(self, examples: NDArray[np.intp]) -> "Library":
        """The same candidates on some of the examples."""
        chosen = examples if self.examples is None else self.examples[examples]
        return Library(np.ascontiguousarray(self.values[:, examples]), self.objective, chosen)

    def singles(self) -> Costs:
        """The cost of each candidate by itself."""
        return self.adding(None, 0, np.arange(len(self.values)))

    def adding(self, total: Floats | None, count: int, among: NDArray[np.intp]) -> Costs:
        """The cost of the average of ``count`` members with the sum ``total`` and one more, for each of ``among``."""
        each = self.values[0].nbytes
        step = max(1, BLOCK_BYTES // max(each, 1))
        scale = np.float32(1 / (count + 1))
        costs = np.empty(len(among))
        for first in range(0, len(among), step):
            block = self.values[among[first : first + step]]
            if total is not None:
                block += total
            block *= scale
            costs[first : first + step] = self.objective.totals(block, self.examples)
        return costs

    def average(self, shares: Shares) -> Floats:
        """The weighted average, shape (examples, parts)."""
        total: Floats = np.zeros_like(self.values[0])
        for index, share in shares.items():
            np.add(total, np.float32(share) * self.values[index], out=total)
        return total

    def cost(self, shares: Shares) -> float:
        """Of the weighted average."""
        return float(self.objective.totals(self.average(shares)[None].copy(), self.examples)[0])


def select(library: Library, *, limit: int, among: Sequence[int] | None = None) -> list[int]:
    """Indices of the chosen candidates, with repetition; how often one appears is its weight.

    Begins with the best few candidates, as many (at most ``limit``) as cost least together, and adds, round by round,
    the one whose inclusion in the average costs least. Of equal ones the first is taken. The answer is the shortest
    beginning with the least cost, so it never costs more here than the best single candidate does.

    Args:
        library: candidates on the examples that choose.
        limit: most different candidates.
        among: indices to choose from; None: all.
    """
    pool = np.arange(len(library.values)) if among is None else np.array(sorted(among), dtype=np.intp)
    singles = library.adding(None, 0, pool)
    chosen, costs, total = _beginning(library, pool[np.argsort(singles, kind="stable")][:limit])
    least, best = costs, len(chosen)
    while len(chosen) < ROUNDS and len(chosen) - best < PATIENCE:
        open_ = pool if len(set(chosen)) < limit else np.unique(chosen)
        found = library.adding(total, len(chosen), open_)
        added = int(open_[found.argmin()])
        chosen.append(added)
        total = total + library.values[added]
        if found.min() < least - RESOLUTION * abs(least):
            least, best = float(found.min()), len(chosen)
    return chosen[:best]


def _beginning(library: Library, ordered: NDArray[np.intp]) -> tuple[list[int], float, Floats]:
    """The best few of ``ordered`` (best first) that cost least together: which, their cost, their sum."""
    total = np.zeros_like(library.values[0])
    costs = []
    for size, index in enumerate(ordered, start=1):
        total = total + library.values[index]
        average = (total * np.float32(1 / size))[None]
        costs.append(float(library.objective.totals(average, library.examples)[0]))
    count = int(np.argmin(costs)) + 1
    chosen = [int(index) for index in ordered[:count]]
    begun: Floats = library.values[chosen].sum(axis=0)
    return chosen, costs[count - 1], begun


def shares_of(chosen: Sequence[int]) -> Shares:
    """How often each appears, as a share."""
    return {index: chosen.count(index) / len(chosen) for index in sorted(set(chosen))}


def select_bagged(library: Library, *, limit: int, seed: int, among: Sequence[int] | None = None) -> Shares:
    """Shares of at most ``limit`` candidates that selections from many bags of the candidates agree on.

    Greedy selection on a small split picks what fits its noise; each bag offers a random half of the candidates, and
    what many bags choose is what stays. Equal shares of the best ``limit`` candidates count for ``EQUAL`` of it all,
    which holds it where the split is so small that the bags disagree.

    Args:
        library: candidates on the examples that choose.
        limit: most different candidates.
        seed: of the bags.
        among: indices to choose from; None: all.
    """
    generator = np.random.default_rng(seed)
    pool = np.arange(len(library.values)) if among is None else np.array(among, dtype=np.intp)
    size = max(1, round(len(pool) * BAG_SHARE))
    votes = np.zeros(len(library.values))
    for _ in range(BAGS):
        chosen = select(library, limit=limit, among=generator.choice(pool, size, replace=False).tolist())
        np.add.at(votes, chosen, (1 - EQUAL) / (BAGS * len(chosen)))
    for index, share in uniform(library, count=limit, among=pool.tolist()).items():
        votes[index] += EQUAL * share
    strongest = [int(index) for index in np.argsort(-votes, kind="stable")[:limit] if votes[index] > 0]
    total = float(votes[strongest].sum())
    return {index: float(votes[index]) / total for index in sorted(strongest)}


def uniform(library: Library, *, count: int, among: Sequence[int] | None = None) -> Shares:
    """The best ``count`` candidates (of ``among``; None: of all) with equal shares."""
    pool = np.arange(len(library.values)) if among is None else np.array(among, dtype=np.intp)
    best = pool[np.argsort(library.adding(None, 0, pool), kind="stable")[:count]]
    return {int(index): 1 / len(best) for index in sorted(best)}
