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
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

Array = NDArray[np.float64]

_ROOT5 = math.sqrt(5.0)
_JITTER = 1e-6
"""Added to the diagonal, in units of the standardised cost's variance."""


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

    def condition(self, seen: Observations) -> None:
        """Take ``seen`` as everything that is known, with the scales as they are."""
        self._seen = seen
        covariance = self._kernel(seen, seen)
        covariance[np.diag_indices_from(covariance)] += math.exp(2 * self.scales.noise) + _JITTER
        self._factor = cholesky(covariance, lower=True, check_finite=False)
        self._weights = cho_solve((self._factor, True), seen.costs, check_finite=False)

    def predict(self, inputs: Array, times: Array, trainings: NDArray[np.int64]) -> tuple[Array, Array]:
        """Mean and standard deviation of the noise-free cost, each of shape (rows,).

        Args:
            inputs: encoded configurations, shape (rows, columns).
            times: as in :class:`Observations`, shape (rows,).
            trainings: which training each row continues; -1 for one that has not begun.
        """
        assert self._seen is not None
        asked = Observations(inputs, times, trainings, np.empty(0))
        cross = self._kernel(self._seen, asked)
        mean = cross.T @ self._weights
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        s = self.scales
        before = math.exp(2 * s.effect) + math.exp(2 * s.trend) + math.exp(2 * s.offset) * (trainings >= 0)
        variance = before - np.einsum("ij,ij->j", half, half)
        return mean, np.sqrt(np.maximum(variance, 1e-10))

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
        lengths = np.exp(self.scales.lengths)[self._owners]
        left, right = a / lengths, b / lengths
        squared = (left**2).sum(1)[:, None] + (right**2).sum(1)[None, :] - 2 * left @ right.T
        return matern(np.maximum(squared, 0.0))

    def _kernel(self, a: Observations, b: Observations) -> Array:
        s = self.scales
        of_x = self.likeness(a.inputs, b.inputs)
        of_t = matern(((a.times[:, None] - b.times[None, :]) / math.exp(s.time)) ** 2)
        share = _sigmoid(s.share)
        total = math.exp(2 * s.trend) * of_t + math.exp(2 * s.effect) * of_x * (share + (1 - share) * of_t)
        same = (a.trainings[:, None] == b.trainings[None, :]) & (a.trainings[:, None] >= 0)
        total[same] += math.exp(2 * s.offset)
        return np.asarray(total)


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
