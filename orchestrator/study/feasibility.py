"""Where trials fail: the probability that a configuration is feasible, learnt from those that were not.

A Gaussian process on labels (1 feasible, 0 not) with a linear and a Matern part. Memory runs out beyond a
plane in log batch size, log width and depth, and training diverges beyond a learning rate, so a plane is the
first guess; the other part bends it. Labels as values: Rasmussen & Williams 2006, section 6.5.
"""

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.spatial.distance import cdist
from scipy.stats import norm

from orchestrator.study.surrogate import Array, matern

_LINEAR, _LENGTH, _BEND, _NOISE = 1.0, 0.5, 0.3, 0.1
"""Standard deviation of the plane's slopes, length scale and deviation of the bend, noise of a label: our
guess."""


class Feasibility:
    """Probability of success.

    Args:
        inputs: what was tried, shape (rows, columns).
        feasible: whether it gave a value, shape (rows,).
    """

    def __init__(self, inputs: Array, feasible: Array) -> None:
        self._inputs = inputs
        covariance = _kernel(inputs, inputs)
        covariance[np.diag_indices_from(covariance)] += _NOISE**2
        self._factor = cholesky(covariance, lower=True, check_finite=False)
        self._weights = cho_solve((self._factor, True), feasible - 0.5, check_finite=False)

    def probability(self, inputs: Array) -> Array:
        """That each row of ``inputs`` is feasible, shape (rows,)."""
        cross = _kernel(self._inputs, inputs)
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        variance = np.maximum(_prior(inputs) - np.einsum("ij,ij->j", half, half), 1e-6)
        return np.asarray(norm.cdf((cross.T @ self._weights) / np.sqrt(variance + _NOISE**2)))


def _kernel(a: Array, b: Array) -> Array:
    squared = cdist(a, b, "sqeuclidean")
    return np.asarray(1 + _LINEAR**2 * (a - 0.5) @ (b - 0.5).T + _BEND**2 * matern(squared / _LENGTH**2))


def _prior(a: Array) -> Array:
    return np.asarray(1 + _LINEAR**2 * ((a - 0.5) ** 2).sum(1) + _BEND**2)
