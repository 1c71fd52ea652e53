"""How much a training may better what is known: expected improvement, as a logarithm.

Far from the best the improvement itself is 0 to the last bit, for good and for bad places alike; whoever compared it
would take them in their order. As a logarithm it tells them apart (Ament et al. 2023, arXiv 2310.20708, section 4).
"""

import math

import numpy as np
from scipy.special import erfcx, ndtr

from orchestrator.study.surrogate import Array

_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)
_ROOT_HALF_PI = math.sqrt(math.pi / 2)
_FAR = -1e5
"""Below so many deviations the first term of the asymptotic series holds to 1e-9 (the next is 3 / z^2 of it)."""


def log_expected_improvement(mean: Array, deviation: Array, best: float) -> Array:
    """Natural logarithm of E[max(best - cost, 0)] of normal costs (less is better), shape (rows,).

    Args:
        mean: of the costs, shape (rows,).
        deviation: of the costs, positive, shape (rows,).
        best: what is to be bettered.
    """
    z = (best - mean) / deviation
    return np.asarray(np.log(deviation) + _log_of_unit(z))


def _log_of_unit(z: Array) -> Array:
    """log(phi(z) + z Phi(z)), with phi and Phi of the standard normal distribution."""
    density = -0.5 * z * z - _LOG_ROOT_TWO_PI
    near, low, far = np.maximum(z, -1.0), np.clip(z, _FAR, -1.0), np.minimum(z, _FAR)
    above = np.log(np.exp(-0.5 * near * near - _LOG_ROOT_TWO_PI) + near * ndtr(near))
    # Phi / phi as a scaled complementary error function, which does not underflow.
    below = density + np.log1p(low * _ROOT_HALF_PI * erfcx(-low / math.sqrt(2)))
    asymptotic = density - 2 * np.log(-far)
    return np.asarray(np.where(z > -1, above, np.where(z > _FAR, below, asymptotic)))
