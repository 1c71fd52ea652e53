"""The Gaussian process over hyperparameters and epochs."""

import math

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from orchestrator.study.surrogate import (
    Observations,
    Scales,
    Surrogate,
    _negative_log_likelihood,
    _squared_by_owner,
    matern,
    prior_mean,
)

OWNERS = [0, 1, 1, 2]


def seen(rows: int = 14, seed: int = 0) -> Observations:
    rng = np.random.default_rng(seed)
    inputs, times = rng.random((rows, len(OWNERS))), rng.choice([0.0, 0.5, 1.0], rows)
    costs = np.sin(3 * inputs[:, 0]) + inputs[:, 1] - times + 0.1 * rng.normal(size=rows)
    return Observations(inputs, times, rng.integers(0, rows // 2, rows), costs)


@pytest.mark.parametrize("seed", range(4))
def test_the_gradient_of_the_likelihood_is_that_of_finite_differences(seed: int) -> None:
    data = seen(seed=seed)
    squared = _squared_by_owner(data.inputs, np.array(OWNERS), 3)
    vector = prior_mean(3).vector() + np.random.default_rng(seed).normal(size=9) * 0.5
    _, gradient = _negative_log_likelihood(vector, squared, data)
    expected = approx_fprime(vector, lambda v: _negative_log_likelihood(v, squared, data)[0], 1e-6)
    np.testing.assert_allclose(gradient, expected, rtol=2e-3, atol=2e-4)


def test_the_likelihood_is_that_of_the_kernel_it_predicts_with() -> None:
    """Both write the covariance down; they must be the same one."""
    data, model = seen(), Surrogate(OWNERS)
    covariance = model._kernel(data, data, model.likeness)
    covariance[np.diag_indices_from(covariance)] += np.exp(2 * model.scales.noise) + 1e-6
    expected = 0.5 * data.costs @ np.linalg.solve(covariance, data.costs) + 0.5 * np.linalg.slogdet(covariance)[1]
    squared = _squared_by_owner(data.inputs, np.array(OWNERS), 3)
    assert _negative_log_likelihood(model.scales.vector(), squared, data)[0] == pytest.approx(expected)


def test_scales_survive_being_a_vector() -> None:
    vector = np.arange(9.0)
    np.testing.assert_array_equal(Scales.of(vector).vector(), vector)


def test_the_kernel_is_one_at_nothing_and_falls() -> None:
    values = matern(np.linspace(0, 9, 20) ** 2)
    assert values[0] == 1
    assert (np.diff(values) < 0).all()
    assert 0 < values[-1] < 1e-3


def test_tuning_raises_the_posterior_and_finds_what_matters() -> None:
    rng = np.random.default_rng(1)
    inputs = rng.random((40, 2))
    data = Observations(inputs, np.ones(40), np.arange(40), np.sin(6 * inputs[:, 0]))
    model = Surrogate([0, 1])
    squared = _squared_by_owner(inputs, np.array([0, 1]), 2)
    before, _ = _negative_log_likelihood(model.scales.vector(), squared, data)
    model.tune(data)
    after, _ = _negative_log_likelihood(model.scales.vector(), squared, data)
    assert after < before
    assert model.scales.lengths[0] < model.scales.lengths[1]


def predicted(model: Surrogate, x: float, time: float = 1.0, training: int = -1) -> tuple[float, float]:
    mean, deviation = model.predict(np.array([[x]]), np.array([time]), np.array([training]))
    return float(mean[0]), float(deviation[0])


def test_predictions_are_sure_where_something_was_seen_and_not_elsewhere() -> None:
    model = Surrogate([0])
    model.condition(Observations(np.array([[0.2], [0.3]]), np.ones(2), np.arange(2), np.array([-1.0, -0.8])))
    near, far = predicted(model, 0.2), predicted(model, 3.0)
    assert near[0] == pytest.approx(-1, abs=0.2)
    assert abs(far[0]) < 0.3
    assert near[1] < far[1] / 2


def test_a_cheap_epoch_speaks_for_an_expensive_one_but_less_surely() -> None:
    model = Surrogate([0])
    model.condition(Observations(np.array([[0.5]]), np.array([0.0]), np.array([0]), np.array([-1.0])))
    early, late = predicted(model, 0.5, 0.0), predicted(model, 0.5, 1.0)
    assert early[0] < late[0] < 0
    assert early[1] < late[1]


def test_a_training_keeps_its_own_luck() -> None:
    """Two trainings of one configuration: what continues the lucky one is expected to be better."""
    model = Surrogate([0])
    model.condition(
        Observations(np.array([[0.5], [0.5]]), np.array([0.5, 0.5]), np.array([0, 1]), np.array([-0.3, 0.3]))
    )
    lucky, new, unlucky = (predicted(model, 0.5, 1.0, training)[0] for training in (0, -1, 1))
    assert lucky < new < unlucky
    assert model.seed_noise > 0


def test_without_hyperparameters_there_are_only_epochs() -> None:
    model = Surrogate([])
    data = Observations(
        np.empty((3, 0)), np.array([0.0, 0.5, 1.0]), np.zeros(3, dtype=int), np.array([1.0, 0.0, -1.0])
    )
    model.tune(data)
    model.condition(data)
    mean, _ = model.predict(np.empty((1, 0)), np.array([1.0]), np.array([0]))
    assert mean[0] < 0


def test_what_is_under_way_leaves_means_as_they_are_and_makes_its_surroundings_less_uncertain() -> None:
    """As if each had ended as was expected of it, whatever is kept from one time to the next."""
    rng = np.random.default_rng(3)
    inputs, end = rng.random((30, 2)), np.ones(1)
    seen = Observations(
        inputs[:10].repeat(2, axis=0), np.tile([0.0, 1.0], 10), np.repeat(np.arange(10), 2), rng.normal(size=20)
    )
    pending = Observations(inputs[20:], np.ones(10), np.arange(10, 20), np.full(10, math.nan))
    model = Surrogate([0, 1])
    for count in (10, 4, 7):
        model.condition(seen)
        some = Observations(pending.inputs[:count], pending.times[:count], pending.trainings[:count], np.zeros(count))
        expected, _ = model.predict(some.inputs, some.times, some.trainings)
        model.expect(some)
        mean, deviation = model.predict(inputs[20:], np.ones(10), np.full(10, -1))
        believing = Surrogate([0, 1])
        believing.condition(
            Observations(
                np.concatenate([seen.inputs, some.inputs]),
                np.concatenate([seen.times, some.times]),
                np.concatenate([seen.trainings, some.trainings]),
                np.concatenate([seen.costs, expected]),
            )
        )
        wanted = believing.predict(inputs[20:], np.ones(10), np.full(10, -1))
        assert np.allclose(mean, wanted[0])
        assert np.allclose(deviation, wanted[1])
        known = model.predict(seen.inputs[:2], end.repeat(2), seen.trainings[:2])
        assert np.allclose(known, believing.predict(seen.inputs[:2], end.repeat(2), seen.trainings[:2]))
        assert np.allclose(model.mean(inputs[20:], np.ones(10), np.full(10, -1)), mean)
    model.expect(None)
    assert (model.predict(inputs[20:], np.ones(10), np.full(10, -1))[1] > deviation - 1e-12).all()
