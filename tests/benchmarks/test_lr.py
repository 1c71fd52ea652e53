"""What the benchmark of ``stage=lr`` says of a grid and of a rate."""

import math

import lr
import numpy as np
import pytest

RATES = np.geomspace(1e-3, 1.0, 7)  # a factor of sqrt(10) apart


def grid(*means: float, between_seeds: float = 0.03) -> lr.Grid:
    losses = np.array(means)[:, None] + between_seeds * np.array([-1.0, 0.0, 1.0])
    return lr.Grid(RATES, losses)


def test_the_best_rate_and_the_flat_part_around_it() -> None:
    found = grid(2.0, 0.52, 0.51, 0.5, 0.6, 0.51, math.inf)
    assert found.best == 3
    assert found.deviation == pytest.approx(0.03)
    assert found.flat == pytest.approx((RATES[1], RATES[3]))  # not the one beyond the ridge


def test_a_loss_between_two_rates_lies_on_a_straight_line_of_logarithms() -> None:
    found = grid(2.0, 1.0, 0.5, 1.0, 2.0, 4.0, math.inf)
    assert found.loss(RATES[2]) == pytest.approx(0.5)
    assert found.loss(math.sqrt(RATES[2] * RATES[3])) == pytest.approx(math.sqrt(0.5))
    assert found.loss(1.0) == pytest.approx(4.0)  # where it diverges, the nearest that does not


def test_factors_have_no_side() -> None:
    assert lr.factor(0.1, 0.2) == lr.factor(0.2, 0.1) == pytest.approx(2)
    assert lr.outside(0.15, (0.1, 0.2)) == 1
    assert lr.outside(0.05, (0.1, 0.2)) == pytest.approx(2)
    assert lr.outside(0.4, (0.1, 0.2)) == pytest.approx(2)


def test_a_grid_with_a_hole_is_refused() -> None:
    rows = [{"task": "diabetes", "rate": 0.1, "seed": 0, "loss": 1.0}]
    with pytest.raises(SystemExit, match="diabetes: 1 of 180"):
        lr.grid_of(rows, "diabetes")


def test_where_the_best_rate_lies_is_what_seeds_drawn_anew_say() -> None:
    sure = grid(2.0, 1.0, 0.9, 0.5, 0.9, 1.0, math.inf)
    assert sure.likely == (RATES[3], RATES[3])
    torn = np.array([[9, 9], [1, 4], [3, 3], [3, 3], [4, 1], [9, 9], [9, 9]], dtype=float)
    assert lr.Grid(RATES, torn).likely == (RATES[1], RATES[4])
