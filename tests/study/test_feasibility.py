"""Where trials fail."""

import numpy as np

from orchestrator.study.feasibility import Boundary


def test_a_memory_limit_is_learnt_from_a_few_failures() -> None:
    """Memory runs out beyond a plane in log batch size and log width."""
    rng = np.random.default_rng(0)
    tried, asked = rng.random((30, 3)), rng.random((500, 3))
    fits = lambda x: x[:, 0] + x[:, 1] < 1.2  # noqa: E731
    found = Boundary(tried, fits(tried), np.zeros(3)).probability(asked)
    assert ((found > 0.5) == fits(asked)).mean() > 0.9
    clear = np.abs(asked[:, 0] + asked[:, 1] - 1.2) > 0.3
    assert found[clear & fits(asked)].min() > 0.5 > found[clear & ~fits(asked)].max()


def test_it_is_sure_where_it_was_tried() -> None:
    tried = np.array([[0.1], [0.9]])
    found = Boundary(tried, np.array([True, False]), np.zeros(1)).probability(np.array([[0.1], [0.5], [0.9]]))
    assert found[0] > 0.9
    assert 0.3 < found[1] < 0.7
    assert found[2] < 0.1


def test_repeated_failures_at_one_place_do_no_harm() -> None:
    tried = np.repeat(np.array([[0.9, 0.9], [0.2, 0.2]]), 50, axis=0)
    found = Boundary(tried, np.repeat([False, True], 50), np.zeros(2)).probability(tried[[0, -1]])
    assert found[0] < 0.05
    assert found[1] > 0.95
