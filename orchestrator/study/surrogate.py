"""One model of everything a sweep has seen: a Gaussian process over hyperparameters and epochs.

The cost of configuration ``x`` after a share ``t`` of its budget (on a log scale) is modelled as the sum of

- a learning curve that all configurations share, ``a0^2 k(t, t')``;
- what the configuration does, ``a1^2 M(x, x') (s + (1 - s) k(t, t'))``: partly the same at all epochs,
  partly not, which is what lets cheap epochs speak for expensive ones;
- an offset of each training, ``a2^2 [same training]``: seed noise, as the study sees it;
- white noise.

``M`` and ``k`` are Matern kernels of smoothness 5/2 (Rasmussen & Williams 2006, eq. 4.17), ``M`` with a
length scale per hyperparameter. The scales are the maximum of the posterior (section 5.4.1; gradients by eq.
5.9) under log-normal priors. The product form over log epochs is the one that carried the gain in our
prototypes (search.md, "what carried the gain", 6); freeze-thaw kernels: Swersky et al. 2014 (arXiv 1406.3896).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

Array = NDArray[np.float64]

_ROOT5 = math.sqrt(5.0)
_JITTER = 1e-6
"""Added to the diagonal, in units of the standardised cost's variance."""
_KEPT = 3
"""How many times as many covariances are kept as are asked for: our guess."""


@dataclass(frozen=True)
class Observations:
    """What was seen: one row for each epoch of a training that the model is told about."""

    inputs: Array
    """Encoded configurations, shape (rows, columns)."""
    times: Array
    """Log of the epoch over log of the budget, in [0, 1], shape (rows,)."""
    trainings: NDArray[np.int64]
    """Which training a row belongs to, shape (rows,)."""
    costs: Array
    """Less is better, standardised, shape (rows,)."""

    def __len__(self) -> int:
        return len(self.times)

    def __getitem__(self, rows: NDArray[np.int64]) -> "Observations":
        return Observations(self.inputs[rows], self.times[rows], self.trainings[rows], self.costs[rows])


@dataclass(frozen=True)
class Scales:
    """The model's hyperparameters, as logarithms (``share`` as a logit)."""

    lengths: Array
    """Log length scale of each hyperparameter, in units of its searched range."""
    effect: float
    share: float
    time: float
    trend: float
    offset: float
    noise: float

    def vector(self) -> Array:
        """As the optimiser sees them."""
        rest = [self.effect, self.share, self.time, self.trend, self.offset, self.noise]
        return np.concatenate([self.lengths, rest])

    @classmethod
    def of(cls, vector: Array) -> "Scales":
        """The inverse of :meth:`vector`."""
        return cls(vector[:-6], *(float(value) for value in vector[-6:]))


_REST_MEAN = np.array([0.0, 0.0, math.log(0.7), math.log(0.5), math.log(0.1), math.log(0.05)])
_REST_SD = np.array([0.7, 1.0, 0.7, 0.7, 1.0, 1.0])
"""Priors of the last six: our guess, wide; chosen on half of the instances of benchmarks/search.py."""
_LENGTH_SD = 0.8
_LENGTH_MEAN = math.log(0.7)


def prior_mean(hyperparameters: int) -> Scales:
    """The scales before anything is seen. Length scales grow with the root of the number of
    hyperparameters (Hvarfner et al. 2024, arXiv 2402.02229)."""
    lengths = np.full(hyperparameters, _LENGTH_MEAN + 0.5 * math.log(max(hyperparameters, 3) / 3))
    return Scales.of(np.concatenate([lengths, _REST_MEAN]))


class Surrogate:
    """The Gaussian process.

    Args:
        owners: for each column of the inputs, the index of its hyperparameter (a choice has several).
    """

    def __init__(self, owners: Sequence[int]) -> None:
        self._owners = np.asarray(owners, dtype=np.int64)
        self._count = int(self._owners.max()) + 1 if len(self._owners) else 0
        self.scales = prior_mean(self._count)
        self._seen: Observations | None = None
        self._believed: Observations | None = None
        """What was seen, and what is expected."""
        self._factor: Array | None = None
        self._forget()

    def _forget(self) -> None:
        """What was computed with other scales."""
        self._kept = _Kept(lambda a, b: self._kernel(a, b, self._likeness_of_each))

    def tune(self, seen: Observations, iterations: int = 25) -> None:
        """Set the scales to the maximum of their posterior given ``seen``, from where they stand."""
        squared = _squared_by_owner(seen.inputs, self._owners, self._count)
        centre = prior_mean(self._count).vector()
        spread = np.concatenate([np.full(self._count, _LENGTH_SD), _REST_SD])

        def objective(vector: Array) -> tuple[float, Array]:
            value, gradient = _negative_log_likelihood(vector, squared, seen)
            off = (vector - centre) / spread
            return value + 0.5 * float(off @ off), gradient + off / spread

        start = self.scales.vector()
        bounds = list(zip(centre - 4 * spread, centre + 4 * spread, strict=True))
        found = minimize(
            objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": iterations}
        )
        self.scales = Scales.of(np.asarray(found.x))
        self._forget()

    def condition(self, seen: Observations) -> None:
        """Take ``seen`` as everything that is known, with the scales as they are, and nothing as under way."""
        self._seen = self._believed = seen
        self._factor = self._factor_of_seen = self._factored(seen)
        self._weights = cho_solve((self._factor, True), seen.costs, check_finite=False)

    def expect(self, pending: Observations | None) -> None:
        """Take each of ``pending``, which is under way, to end as is expected of it ("kriging believer", Ginsbourger
        et al. 2010): that leaves all means as they are, and makes less uncertain what is near it. Their costs do not
        count. None: nothing is under way."""
        assert self._seen is not None
        self._believed = self._seen if pending is None else _joined(self._seen, pending)
        self._factor = self._factor_of_seen if pending is None else None

    def _factored(self, rows: Observations) -> Array:
        covariance = self._kept.of(rows, rows)
        covariance[np.diag_indices_from(covariance)] += math.exp(2 * self.scales.noise) + _JITTER
        return np.asarray(cholesky(covariance, lower=True, check_finite=False))

    def predict(self, inputs: Array, times: Array, trainings: NDArray[np.int64]) -> tuple[Array, Array]:
        """Mean and standard deviation of the noise-free cost, each of shape (rows,).

        Args:
            inputs: encoded configurations, shape (rows, columns).
            times: as in :class:`Observations`, shape (rows,).
            trainings: which training each row continues; -1 for one that has not begun.
        """
        assert self._believed is not None
        if self._factor is None:
            self._factor = self._factored(self._believed)
        cross = self._cross(self._believed, Observations(inputs, times, trainings, times))
        mean = cross[: len(self._weights)].T @ self._weights
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        s = self.scales
        before = math.exp(2 * s.effect) + math.exp(2 * s.trend) + math.exp(2 * s.offset) * (trainings >= 0)
        variance = before - np.einsum("ij,ij->j", half, half)
        return mean, np.sqrt(np.maximum(variance, 1e-10))

    def mean(self, inputs: Array, times: Array, trainings: NDArray[np.int64]) -> Array:
        """The mean alone, see :meth:`predict`, which takes far longer where much is under way."""
        assert self._seen is not None
        cross = self._cross(self._seen, Observations(inputs, times, trainings, times))
        return np.asarray(cross.T @ self._weights)

    def _cross(self, known: Observations, asked: Observations) -> Array:
        if (asked.trainings >= 0).all():
            return self._kept.of(known, asked)
        return self._kernel(known, asked, self.likeness)

    @property
    def seed_noise(self) -> float:
        """Standard deviation of a training's offset, in units of the standardised cost."""
        return math.exp(self.scales.offset)

    def likeness(self, a: Array, b: Array) -> Array:
        """Correlation of what configurations do, ``M`` above, in (0, 1].

        Args:
            a: encoded configurations, shape (rows, columns).
            b: others, shape (others, columns).

        Returns:
            Shape (rows, others).
        """
        left, right = a / self._lengths, b / self._lengths
        squared = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
        return matern(np.maximum(squared, 0.0))

    def _likeness_of_each(self, a: Array, b: Array) -> Array:
        """The same, slower, where no element's last digit depends on which others are asked for."""
        return matern(cdist(a / self._lengths, b / self._lengths, "sqeuclidean"))

    @property
    def _lengths(self) -> Array:
        return np.asarray(np.exp(self.scales.lengths)[self._owners])

    def _kernel(self, a: Observations, b: Observations, likeness: Callable[[Array, Array], Array]) -> Array:
        s = self.scales
        of_x = likeness(a.inputs, b.inputs)
        # There are a few different times only.
        (first, at_a), (second, at_b) = (np.unique(rows.times, return_inverse=True) for rows in (a, b))
        of_t = matern(((first[:, None] - second[None, :]) / math.exp(s.time)) ** 2)
        share = _sigmoid(s.share)
        trend, rest = math.exp(2 * s.trend) * of_t, math.exp(2 * s.effect) * (share + (1 - share) * of_t)
        total = of_x * rest[at_a[:, None], at_b] + trend[at_a[:, None], at_b]
        same = (a.trainings[:, None] == b.trainings[None, :]) & (a.trainings[:, None] >= 0)
        total[same] += math.exp(2 * s.offset)
        return np.asarray(total)


class _Kept:
    """Covariances between observations of trainings, kept from one decision to the next: most are asked for again.

    Args:
        kernel: computes them, each by itself, so that none depends on what was asked for before.
    """

    def __init__(self, kernel: Callable[[Observations, Observations], Array]) -> None:
        self._kernel = kernel
        self._at: dict[tuple[int, float], int] = {}
        self._rows: Observations | None = None
        self._matrix = np.empty((0, 0))

    def of(self, a: Observations, b: Observations) -> Array:
        """Shape (rows of ``a``, rows of ``b``)."""
        both = a if a is b else _joined(a, b)
        keys = list(zip(both.trainings.tolist(), both.times.tolist(), strict=True))
        first = dict(zip(reversed(keys), reversed(range(len(keys))), strict=True))
        new = [row for key, row in first.items() if key not in self._at]
        if len(self._at) + len(new) > _KEPT * len(first) + 64:
            self._at, self._rows, new = {}, None, list(first.values())
        if new:
            self._add(both[np.array(new)], [keys[row] for row in new])
        at = np.array([self._at[key] for key in keys], dtype=np.int64)
        return self._matrix[at[: len(a), None], at if a is b else at[len(a) :]]

    def _add(self, new: Observations, keys: list[tuple[int, float]]) -> None:
        before = len(self._at)
        self._rows = new if self._rows is None else _joined(self._rows, new)
        count = len(self._rows)
        if count > len(self._matrix):
            grown = np.empty((count + count // 4, count + count // 4))
            grown[:before, :before] = self._matrix[:before, :before]
            self._matrix = grown
        found = self._kernel(new, self._rows)
        self._matrix[before:count, :count] = found
        self._matrix[:count, before:count] = found.T
        self._at |= {key: before + index for index, key in enumerate(keys)}


def _joined(seen: Observations, more: Observations) -> Observations:
    return Observations(
        np.concatenate([seen.inputs, more.inputs]),
        np.concatenate([seen.times, more.times]),
        np.concatenate([seen.trainings, more.trainings]),
        np.concatenate([seen.costs, more.costs]),
    )


def matern(squared: Array) -> Array:
    """Matern kernel of smoothness 5/2 at the squared distance, in length scales."""
    scaled = _ROOT5 * np.sqrt(squared)
    return (1 + scaled + scaled * scaled / 3) * np.exp(-scaled)


def _matern_slope(squared: Array) -> Array:
    """Derivative of :func:`matern` with respect to the squared distance."""
    scaled = _ROOT5 * np.sqrt(squared)
    return -5 / 6 * (1 + scaled) * np.exp(-scaled)


def _sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def _squared_by_owner(inputs: Array, owners: NDArray[np.int64], count: int) -> Array:
    """Squared distances along each hyperparameter, shape (hyperparameters, rows, rows)."""
    squared = np.zeros((count, len(inputs), len(inputs)))
    for column, owner in enumerate(owners):
        squared[owner] += (inputs[:, None, column] - inputs[None, :, column]) ** 2
    return squared


def _negative_log_likelihood(vector: Array, squared: Array, seen: Observations) -> tuple[float, Array]:
    """Of the scales in ``vector``, up to a constant, and its gradient."""
    s = Scales.of(vector)
    inverse = np.exp(-2 * s.lengths)
    distance = np.tensordot(inverse, squared, axes=1)
    of_x = matern(distance)
    gaps = ((seen.times[:, None] - seen.times[None, :]) / math.exp(s.time)) ** 2
    of_t = matern(gaps)
    share = _sigmoid(s.share)
    mixed = share + (1 - share) * of_t
    effect, trend = math.exp(2 * s.effect), math.exp(2 * s.trend)
    same = (seen.trainings[:, None] == seen.trainings[None, :]).astype(float)
    offset, noise = math.exp(2 * s.offset), math.exp(2 * s.noise)
    covariance = trend * of_t + effect * of_x * mixed + offset * same
    covariance[np.diag_indices_from(covariance)] += noise + _JITTER
    try:
        factor = cholesky(covariance, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        return 1e10, np.zeros_like(vector)
    identity = np.eye(len(seen.costs))
    precision = cho_solve((factor, True), identity, check_finite=False)
    weights = precision @ seen.costs
    value = 0.5 * float(seen.costs @ weights) + float(np.log(np.diag(factor)).sum())
    outer = precision - np.outer(weights, weights)  # twice the derivative by the covariance
    slope = outer * (effect * _matern_slope(distance) * mixed)
    by_length = -np.tensordot(squared, slope, axes=([1, 2], [0, 1])) * inverse
    time_slope = _matern_slope(gaps) * gaps * -2
    rest = [
        float((outer * of_x * mixed).sum()) * effect,
        0.5 * float((outer * of_x * (1 - of_t)).sum()) * effect * share * (1 - share),
        0.5 * float((outer * time_slope * (trend + effect * of_x * (1 - share))).sum()),
        float((outer * of_t).sum()) * trend,
        float((outer * same).sum()) * offset,
        float(np.trace(outer)) * noise,
    ]
    return value, np.concatenate([by_length, rest])
