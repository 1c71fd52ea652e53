"""Expected improvement, as a logarithm."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from orchestrator.study.acquisition import log_expected_improvement


def found(mean: float, deviation: float, best: float) -> float:
    return float(log_expected_improvement(np.array([mean]), np.array([deviation]), best)[0])


@pytest.mark.parametrize(("mean", "deviation"), [(0.0, 1.0), (1.0, 0.5), (-2.0, 0.1), (1.2, 0.2), (0.7, 0.499)])
def test_it_is_what_is_expected(mean: float, deviation: float) -> None:
    def gain(cost: float) -> float:
        return float((0.2 - cost) * norm.pdf(cost, mean, deviation))

    expected, _ = quad(gain, min(mean, 0.2) - 12 * deviation, 0.2, points=[mean] if mean < 0.2 else None)
    assert found(mean, deviation, 0.2) == pytest.approx(np.log(expected), rel=1e-6)


def test_far_away_too_less_far_is_better() -> None:
    z = -np.geomspace(0.1, 1e7, 400)
    values = log_expected_improvement(-z, np.ones_like(z), 0.0)
    assert np.isfinite(values).all()
    assert (np.diff(values) < 0).all()
    # Where one formula takes over from another nothing jumps.
    for edge in (-1.0, -1e5):
        left, right = found(-edge * (1 + 1e-9), 1.0, 0.0), found(-edge * (1 - 1e-9), 1.0, 0.0)
        assert left == pytest.approx(right, rel=1e-6)
