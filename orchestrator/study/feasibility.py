"""Where trials fail: the probability that a configuration gives a value, learnt from those that did not.

Memory runs out beyond a plane in log batch size, log width and log depth, and training diverges beyond a
learning rate; so the first guess is a plane, and a Gaussian process bends it where the trials say so. Memory
has a model of its own, where peaks were measured that of :mod:`~orchestrator.study.memory`: it knows nothing of
learning rates, and that more of a size never takes less memory, so what is at least as large as a failure fails,
and what is at most as large as a success fits.

What is learnt is a probability to be trusted near the boundary, where the best configurations often lie: a
probit model with outliers by expectation propagation (Rasmussen & Williams 2006, section 3.6; for planes the
Bayes point machine, Minka 2001, section 5).
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.spatial.distance import cdist
from scipy.stats import norm

from orchestrator.study.encoding import Encoding
from orchestrator.study.memory import REASONS, MemoryModel, Peaks
from orchestrator.study.records import TrialRecord
from orchestrator.study.space import Hyperparameter
from orchestrator.study.surrogate import Array, matern
from orchestrator.types import TrialState

SIZES = ("data.batch_size", "model.width", "model.depth")
"""More of these never takes less memory."""
LIKELY = 0.9
"""Least probability of success of what a stage opens with: benchmarks/memory.py."""
_SURE = 0.95
"""Least probability of success of what is proposed later, as a share of the greatest one there is:
benchmarks/memory.py."""
_LEAST = 1e-12
"""Least probability that a logarithm is taken of."""
_RATHER = 0.5
"""Expected loss of margin over the range of a whole number (a size, mostly), and expected margin in the middle
of all ranges, in standard deviations of a slope: our guess."""
_PRODUCT, _ALIKE = 1.0, 0.5
"""Expected slope of a size whose range is as long as they are on average, and its standard deviation, where memory
runs out: our guess."""
_BEND, _LENGTH = 0.1, 0.5
"""Standard deviation and length scale of what bends the plane, in standard deviations of a slope and in
searched ranges: our guess."""
_BLUR = 0.01
"""Width of the boundary, in standard deviations of a slope: our guess."""
_OUTLIERS = 0.02
"""Share of trials that end against every rule (a node that died): our guess."""
_MOST = 80
"""Trials of each kind, failed or not, that the boundary is drawn from: our guess. The time grows with the cube."""
_STEPS = 24
"""In which a size is made smaller, down to the end of its range: our guess."""
_SWEEPS, _DAMPING, _TOLERANCE = 60, 0.6, 1e-4


class Feasibility:
    """Probability of success.

    Args:
        encoding: of the search space.
        places: what was tried, shape (rows, hyperparameters).
        records: how it went, one per row, in the order in which they began.
    """

    def __init__(self, encoding: Encoding, places: Array, records: Sequence[TrialRecord]) -> None:
        self._encoding = encoding
        kinds = np.array([_kind(record) for record in records])
        inputs = self._inputs(places)
        owners = [encoding.items[position] for position in encoding.owners]
        whole = np.array([item.config.type == "int" for item in owners], dtype=bool)
        drift = np.where(whole, _RATHER, 0.0)
        self._rest: Boundary | None = None
        matters = whole | np.array([item.is_choice for item in owners], dtype=bool)
        sizes = np.array([item.name in SIZES for item in owners], dtype=bool)[matters]
        self._memory: list[_Memory] = []
        reaches = np.where(sizes, [_reach(item) for item, used in zip(owners, matters, strict=True) if used], 0.0)
        for where, reason in REASONS.items():
            peaks = Peaks.of(where, inputs[:, matters], records)
            if peaks is not None:
                model = MemoryModel(peaks, reaches)
                self._memory.append(_Memory(peaks.inputs, ~peaks.failed, matters, sizes, model))
                kinds[[record.reason is reason for record in records]] = "apart"
        lost = kinds == "memory"
        if lost.any():
            self._memory.append(
                _Memory(
                    inputs[:, matters],
                    ~lost,
                    matters,
                    sizes,
                    _Product(reaches, drift[matters], inputs[:, matters], ~lost),
                )
            )
        if (kinds == "other").any():
            apart = (kinds == "other") | (kinds == "none")
            self._rest = Boundary(inputs[apart], kinds[apart] != "other", drift)

    def probability(self, places: Array) -> Array:
        """That each row of ``places`` gives a value, shape (rows,)."""
        inputs = self._inputs(places)
        fits = np.ones(len(places))
        for memory in self._memory:
            fits *= memory.probability(inputs)
        return fits if self._rest is None else fits * self._rest.probability(inputs)

    def smaller(self, places: Array) -> Array:
        """Those that hardly fail and are ``places`` with one size made smaller, by no more than it takes: what is
        larger in one size must be smaller in another where memory is full, and no step in a single one gets there.

        Returns:
            shape (found, hyperparameters); none where memory never ran out.
        """
        sizes = [self._encoding.index[name] for name in SIZES if name in self._encoding.index]
        if not self._memory or not sizes or not len(places):
            return places[:0]
        tried = np.repeat(places[:, None, None, :], len(sizes), axis=1).repeat(_STEPS, axis=2)
        for index, position in enumerate(sizes):
            low = np.minimum(places[:, position], 0.0)[:, None]
            tried[:, index, :, position] += (low - places[:, [position]]) * np.linspace(0, 1, _STEPS + 1)[1:]
        tried = self._encoding.snap(tried.reshape(-1, places.shape[1])).reshape(tried.shape)
        fits = self.probability(tried.reshape(-1, places.shape[1])).reshape(tried.shape[:3]) >= _SURE
        rows, columns = np.nonzero(fits.any(axis=2))
        return np.asarray(tried[rows, columns, fits.argmax(axis=2)[rows, columns]])

    def worth(self, gains: Array, places: Array, sure: bool) -> Array:
        """Gains as they are worth where trials may fail, shape (rows,); all of them as logarithms.

        Args:
            gains: of trials that do not fail, shape (rows,).
            places: shape (rows, hyperparameters).
            sure: take only what hardly fails (a chance constraint, Gelbart et al. 2014); else learning where trials
                fail is worth something too.
        """
        fits = self.probability(places)
        worth = gains + np.log(np.maximum(fits, _LEAST))
        return np.where(fits >= _SURE * fits.max(), worth, -np.inf) if sure else worth

    def _inputs(self, places: Array) -> Array:
        """As the surrogate sees them, with every positive whole number on a log scale."""
        result = self._encoding.inputs(places)
        for column, position in enumerate(self._encoding.owners):
            item = self._encoding.items[position]
            low, high = item.config.low, item.config.high
            if item.config.type == "int" and item.config.scale != "log" and low and high and low > 0:
                value = np.maximum(low + result[:, column] * (high - low), 0.5)
                result[:, column] = np.log(value / low) / math.log(high / low)
        return result


def _kind(record: TrialRecord) -> str:
    if record.state is not TrialState.INFEASIBLE:
        return "none"
    return "memory" if record.reason is not None and record.reason.of_memory else "other"


def _reach(item: Hyperparameter) -> float:
    """Logarithm of the ratio of its range's ends; 0 where there is none."""
    low, high = item.config.low, item.config.high
    return math.log(high / low) if low and high and low > 0 else 0.0


class _Chances(Protocol):
    def probability(self, inputs: Array) -> Array: ...


class _Memory:
    """What fits into memory.

    Args:
        seen: what was tried, shape (rows, columns that memory depends on).
        fits: whether memory sufficed, shape (rows,).
        matters: which of all columns memory depends on.
        sizes: of those, which it never takes less of when there is more.
        model: what is expected beyond that.
    """

    def __init__(
        self,
        seen: Array,
        fits: NDArray[np.bool_],
        matters: NDArray[np.bool_],
        sizes: NDArray[np.bool_],
        model: _Chances,
    ) -> None:
        self._matters, self._sizes, self._model = matters, sizes, model
        self._good, self._bad = seen[fits], seen[~fits]

    def probability(self, inputs: Array) -> Array:
        asked = inputs[:, self._matters]
        found = self._model.probability(asked)
        found[self._beyond(asked, self._bad)] = 0.0
        found[self._beyond(asked, self._good, sign=-1.0)] = 1.0
        return found

    def _beyond(self, asked: Array, seen: Array, sign: float = 1.0) -> NDArray[np.bool_]:
        """Which rows are at least as large (``sign`` -1: at most) as one that was seen, the rest being equal."""
        far = sign * (asked[:, None, :] - seen[None, :, :])
        beyond: NDArray[np.bool_] = np.where(self._sizes, far > -1e-9, np.abs(far) < 1e-9)
        return np.asarray(np.any(np.all(beyond, axis=2), axis=1))


class _Product:
    """The boundary where memory runs out when nothing was measured: most likely at some product of the sizes.

    Args:
        reaches: of each column that is a size, the logarithm of its range's ends' ratio; 0 for any other.
        drift: of the others: see :class:`Boundary`.
        inputs, fits: see :class:`_Memory`.
    """

    def __init__(self, reaches: Array, drift: Array, inputs: Array, fits: NDArray[np.bool_]) -> None:
        sizes = reaches > 0
        mean = reaches[sizes].mean() if sizes.any() else 1.0
        self._scale = np.where(sizes, reaches / mean, 1.0)
        self._boundary = Boundary(self._scaled(inputs), fits, np.where(sizes, _PRODUCT, drift), _ALIKE)

    def _scaled(self, inputs: Array) -> Array:
        return np.asarray(0.5 + (inputs - 0.5) * self._scale)

    def probability(self, inputs: Array) -> Array:
        return self._boundary.probability(self._scaled(inputs))


class Boundary:
    """A plane, bent a little, between what succeeded and what failed.

    The margin at ``x`` is ``b + w (x - 0.5) + bend(x)``; a trial succeeds if it is above 0, blurred, outliers apart.

    Args:
        inputs: what was tried, shape (rows, columns).
        feasible: whether it succeeded, shape (rows,).
        drift: expected slope of each column downwards, shape (columns,).
        spread: standard deviation of the slopes.
    """

    def __init__(self, inputs: Array, feasible: NDArray[np.bool_], drift: Array, spread: float = 1.0) -> None:
        near = _nearest(inputs, feasible)
        self._spread = spread
        self._inputs, self._drift = inputs[near], drift
        signs = np.where(feasible[near], 1.0, -1.0)
        covariance = _kernel(self._inputs, self._inputs, self._spread)
        before = self._margin(self._inputs)
        count = len(near)
        precision, shift = np.zeros(count), np.zeros(count)
        mean, variance = before, covariance.diagonal().copy()
        for _ in range(_SWEEPS):
            new_precision, new_shift = _matched(signs, mean, variance, precision, shift)
            moved = np.abs(new_precision - precision) / (1 + precision)
            precision = precision + _DAMPING * (new_precision - precision)
            shift = shift + _DAMPING * (new_shift - shift)
            root = np.sqrt(precision)
            inner = np.eye(count) + root[:, None] * covariance * root[None, :]
            self._factor = cholesky(inner, lower=True, check_finite=False)
            half = solve_triangular(self._factor, root[:, None] * covariance, lower=True, check_finite=False)
            pull = shift - precision * before
            mean = before + covariance @ pull - half.T @ (half @ pull)
            variance = covariance.diagonal() - np.einsum("ij,ij->j", half, half)
            if moved.max() < _TOLERANCE:
                break
        self._root = root
        solved = cho_solve((self._factor, True), root * (covariance @ pull), check_finite=False)
        self._weights = pull - root * solved

    def probability(self, inputs: Array) -> Array:
        """That each row of ``inputs`` succeeds, shape (rows,)."""
        cross = _kernel(self._inputs, inputs, self._spread)
        mean = self._margin(inputs) + cross.T @ self._weights
        half = solve_triangular(self._factor, self._root[:, None] * cross, lower=True, check_finite=False)
        variance = np.maximum(_prior(inputs, self._spread) - np.einsum("ij,ij->j", half, half), 0.0)
        return np.asarray(norm.cdf(mean / np.sqrt(_BLUR**2 + variance)))

    def _margin(self, inputs: Array) -> Array:
        """Expected before anything was tried."""
        return np.asarray(_RATHER - (inputs - 0.5) @ self._drift)


def _matched(signs: Array, mean: Array, variance: Array, precision: Array, shift: Array) -> tuple[Array, Array]:
    """Precision and precision times mean of each trial's site, from the moments of its tilted distribution."""
    cavity = np.maximum(1 / variance - precision, 1e-10)
    centre, spread = (mean / variance - shift) / cavity, 1 / cavity
    total = spread + _BLUR**2
    z = signs * centre / np.sqrt(total)
    right = 1 - 2 * _OUTLIERS
    slope = signs * right * norm.pdf(z) / ((_OUTLIERS + right * norm.cdf(z)) * np.sqrt(total))
    curvature = slope**2 + slope * centre / total
    # An outlier's site would be negative: then it says nothing.
    curvature = np.clip(curvature, 1e-10, (1 - 1e-6) * cavity)
    found = curvature / (1 - spread * curvature)
    return found, found * (centre + slope / curvature)


def _nearest(inputs: Array, feasible: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The trials to learn from: of each kind those that lie nearest to the other kind."""
    good, bad = np.flatnonzero(feasible), np.flatnonzero(~feasible)
    if not len(good) or not len(bad):
        return np.arange(len(inputs))[-_MOST:]
    far = cdist(inputs[good], inputs[bad], "sqeuclidean")
    kept = [
        good[np.argsort(far.min(axis=1), kind="stable")[:_MOST]],
        bad[np.argsort(far.min(axis=0), kind="stable")[:_MOST]],
    ]
    return np.sort(np.concatenate(kept))


def _kernel(a: Array, b: Array, spread: float) -> Array:
    squared = cdist(a, b, "sqeuclidean")
    return np.asarray(1 + spread**2 * (a - 0.5) @ (b - 0.5).T + _BEND**2 * matern(squared / _LENGTH**2))


def _prior(a: Array, spread: float) -> Array:
    return np.asarray(1 + spread**2 * ((a - 0.5) ** 2).sum(1) + _BEND**2)
