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
"""What to believe in before looking. Test loss to the best single's, geometric mean over 20 small sweeps of the
shipped tasks, and over 80 random divisions of their validation and test: bagged 0.862 and 0.877, uniform 0.862 and
0.887, greedy 0.919 and 0.898."""
DOUBT = 2.0
"""Standard errors by which a way must cost more than the best single to be dropped. In the same runs 0.880 and 0.886
with 2, 0.888 and 0.892 with 1: validation has chosen epochs and configurations before, so it is kind to what fits it
best, and small splits often speak against ensembles that pay. In 12 later sweeps (60 divisions) 0.869 with 2, 0.872
with 1, 0.873 with 0, and 0.945 where an ensemble must be better by one: a gain that is believed only where a hundred
examples show it is a gain forgone."""
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
    best: Sequence[int]
    """Of each run the best candidate, as it was trained or with averaged weights: selection chooses from these."""

    def choose(self, library: Library) -> Shares:
        """The ensemble that the library's examples choose."""
        if self.kind == "single":
            return uniform(library, count=1, among=self.plain)
        if self.kind == "uniform":
            return uniform(library, count=self.members, among=self.plain)
        if self.kind == "greedy":
            return shares_of(select(library, limit=self.members, among=self.best))
        return select_bagged(library, limit=self.members, seed=self.seed, among=self.best)


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


def decide(library: Library, crossed: Mapping[Kind, Crossed]) -> Kind:
    """The way that is taken: the first of ``PREFERRED`` that examples which did not choose do not speak against.

    They do where it costs more than the best single by more than ``DOUBT`` standard errors, paired over examples.
    What it costs on the examples that chose it says nothing: there the best single is the luckiest of many.
    """

    def dropped(kind: Kind) -> bool:
        worse, error = gap(library, crossed[kind], crossed["single"])
        return worse > DOUBT * error

    return next((kind for kind in PREFERRED if not dropped(kind)), "single")
