"""Ways of choosing an ensemble, judged on examples that did not choose, and the one that is taken.

What greedy selection gains on the examples that it looks at is partly luck. Here the validation split is cut into
folds, every fold is predicted by an ensemble that the other folds chose, and this several times over: the cost of
these predictions is an honest estimate for each way of choosing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from orchestrator.ensemble.greedy import Library, Shares, select, select_bagged, shares_of, uniform
from orchestrator.ensemble.objective import Costs, Floats
from orchestrator.ensemble.record import Kind
from orchestrator.seeds import derive_seed

KINDS: Sequence[Kind] = ("single", "uniform", "greedy", "bagged")
"""The simplest first."""
PREFERRED: Sequence[Kind] = ("bagged", "uniform", "greedy", "single")
"""What to believe in before looking (test loss to the best single's, geometric mean over 4 tasks, 2 to 3 sweeps each
and 8 divisions of validation and test: bagged 0.870, uniform 0.875, greedy 0.897)."""
DOUBT = 2.0
"""Standard errors by which a way must cost more than the cheapest to be dropped (in the same runs: 0.874 with 2, 0.880
with 1, 0.896 where the cheapest is always taken)."""
RESAMPLES = 100
"""Bootstrap resamples of the examples for the standard error of a score without a cost for each example."""


@dataclass(frozen=True)
class Way:
    """How an ensemble is chosen."""

    kind: Kind
    members: int
    """Most different ones."""
    seed: int
    plain: Sequence[int]
    """Candidates that are trials as they were trained: the references know only them."""

    def choose(self, library: Library) -> Shares:
        """The ensemble that the library's examples choose."""
        if self.kind == "single":
            return uniform(library, count=1, among=self.plain)
        if self.kind == "uniform":
            return uniform(library, count=self.members, among=self.plain)
        if self.kind == "greedy":
            return shares_of(select(library, limit=self.members))
        return select_bagged(library, limit=self.members, seed=self.seed)


@dataclass(frozen=True)
class Crossed:
    """A way of choosing, on examples that did not choose."""

    parts: Sequence[Sequence[tuple[NDArray[np.intp], Shares]]]
    """For each repetition, for each fold: its examples, and what the other folds chose."""
    averages: Sequence[Floats]
    """For each repetition, the predictions of all examples, reduced: shape (examples, parts)."""
    cost: float
    """Mean over the repetitions."""
    examples: Costs | None
    """The cost of each example, mean over the repetitions; None where the objective has none."""


def folds(examples: int, count: int, seed: int) -> Sequence[NDArray[np.intp]]:
    """All examples in so many parts, at random; each part in rising order."""
    order = np.random.default_rng(seed).permutation(examples)
    return [np.sort(part) for part in np.array_split(order, min(count, examples))]


def cross(library: Library, way: Way, *, count: int, repeats: int) -> Crossed:
    """Judge ``way`` by ``repeats`` divisions into ``count`` folds."""
    total = library.values.shape[1]
    parts, averages = [], []
    for repeat in range(repeats):
        divided, average = [], np.empty(library.values.shape[1:], dtype=np.float32)
        for held in folds(total, count, derive_seed(way.seed, "folds", repeat)):
            others = np.setdiff1d(np.arange(total), held)
            shares = way.choose(library.part(others))
            divided.append((held, shares))
            average[held] = Library(library.values[:, held], library.objective).average(shares)
        parts.append(divided)
        averages.append(average)
    objective = library.objective
    cost = float(np.mean([objective.totals(one[None].copy(), library.examples)[0] for one in averages]))
    each = None
    if objective.per_example:
        each = np.mean([objective.example_costs(one, library.examples) for one in averages], axis=0)
    return Crossed(parts, averages, cost, each)


def gap(library: Library, one: Crossed, other: Crossed) -> tuple[float, float]:
    """By how much ``one`` costs more than ``other``, and its standard error, paired over examples."""
    difference = one.cost - other.cost
    total = len(one.averages[0])
    if one.examples is not None and other.examples is not None:
        return difference, float(np.std(one.examples - other.examples, ddof=1) / np.sqrt(total)) if total > 1 else 0.0
    generator = np.random.default_rng(0)
    found = []
    for _ in range(RESAMPLES):
        drawn = generator.integers(0, total, total)
        pair = [library.objective.totals(which.averages[0][drawn][None].copy(), drawn)[0] for which in (one, other)]
        found.append(pair[0] - pair[1])
    return difference, float(np.std(found))


def decide(library: Library, crossed: Mapping[Kind, Crossed], chosen: Mapping[Kind, Shares]) -> Kind:
    """The way that is taken: the first of ``PREFERRED`` that examples which did not choose do not speak against.

    They do where it costs more than the cheapest way by more than ``DOUBT`` standard errors. And a choice that costs
    more than the best single on the very examples that chose it is taken only if they say that it costs less.
    """
    own = {kind: library.cost(shares) for kind, shares in chosen.items()}
    cheapest = min(crossed, key=lambda kind: crossed[kind].cost)
    for kind in PREFERRED:
        worse, error = gap(library, crossed[kind], crossed[cheapest])
        sound = own[kind] <= own["single"] or crossed[kind].cost < crossed["single"].cost
        if worse <= DOUBT * error and sound:
            return kind
    return cheapest
