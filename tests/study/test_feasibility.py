"""Where trials fail."""

from dataclasses import replace

import numpy as np

from orchestrator.config.space import RangeConfig
from orchestrator.study.encoding import Encoding
from orchestrator.study.feasibility import Boundary, Feasibility
from orchestrator.study.records import TrialRecord
from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.types import Configuration, Reason, TrialState

RANGES = {
    "data.batch_size": RangeConfig(type="int", low=16, high=1024, scale="log"),
    "model.depth": RangeConfig(type="int", low=1, high=8),
    "model.stride": RangeConfig(type="int", low=1, high=8),
    "optimizer.lr": RangeConfig(type="float", low=1e-4, high=1.0, scale="log"),
    "optimizer.name": RangeConfig(type="choice", choices=("sgd", "adam")),
}
ENCODING = Encoding(SearchSpace({name: Hyperparameter(name, config) for name, config in RANGES.items()}))
DONE = TrialRecord(
    number=0, stage="lr", configuration={}, seed=0, epochs=1, state=TrialState.COMPLETE, curve={1: 1.0}, value=1.0
)  # fmt: skip


def at(batch_size: int, depth: int, stride: int = 4, lr: float = 0.01, name: str = "sgd") -> Configuration:
    return dict(zip(RANGES, (batch_size, depth, stride, lr, name), strict=True))


def learnt(*trials: tuple[Configuration, Reason | None]) -> Feasibility:
    """From configurations and why they failed, None if they did not."""
    records = [
        DONE if reason is None else replace(DONE, state=TrialState.INFEASIBLE, reason=reason) for _, reason in trials
    ]
    return Feasibility(ENCODING, np.array([ENCODING.place(configuration) for configuration, _ in trials]), records)


def chance(found: Feasibility, configuration: Configuration) -> float:
    return float(found.probability(ENCODING.place(configuration)[None, :])[0])


OOM = Reason.OUT_OF_MEMORY


def test_more_of_a_size_never_takes_less_memory() -> None:
    found = learnt((at(64, 2), None), (at(256, 4), OOM))
    for larger in (at(256, 4), at(512, 4), at(256, 8), at(1024, 8), at(256, 4, lr=1.0)):
        assert chance(found, larger) == 0
    for smaller in (at(64, 2), at(16, 2), at(64, 1), at(64, 2, lr=1e-4)):
        assert chance(found, smaller) == 1
    # What is larger in one and smaller in the other is open, and so is what differs otherwise.
    for open_ in (at(512, 2), at(128, 3), at(256, 4, stride=8), at(64, 2, name="adam")):
        assert 0 < chance(found, open_) < 1


def test_memory_says_nothing_of_learning_rates_and_divergence_much() -> None:
    memory = learnt((at(64, 2, lr=1e-4), None), (at(64, 8, lr=1.0), OOM))
    assert chance(memory, at(64, 4, lr=1e-4)) == chance(memory, at(64, 4, lr=1.0))
    high = [at(64, 2, lr=lr) for lr in (0.5, 0.8, 1.0)]
    low = [at(64, 2, lr=lr) for lr in (1e-4, 1e-3, 0.01, 0.05)]
    diverged = learnt(*[(item, Reason.DIVERGED) for item in high], *[(item, None) for item in low])
    assert chance(diverged, at(64, 4, lr=0.7)) < 0.4
    assert chance(diverged, at(64, 4, lr=0.005)) > 0.7


def test_what_failed_for_its_memory_tells_nothing_of_divergence_and_the_other_way_round() -> None:
    both = learnt((at(64, 2), None), (at(1024, 8), OOM), (at(64, 2, lr=1.0), Reason.NON_FINITE))
    assert chance(both, at(64, 2, lr=1.0)) < 0.5 < chance(both, at(64, 2, lr=1e-3))
    assert chance(both, at(1024, 8)) == 0


def test_it_does_not_matter_whether_a_size_is_searched_on_a_log_scale() -> None:
    """Memory runs out beyond 512 = batch size times depth."""
    rng = np.random.default_rng(1)
    drawn = [at(int(16 * 2 ** rng.uniform(0, 6)), int(rng.integers(1, 9))) for _ in range(40)]
    fits = [item["data.batch_size"] * item["model.depth"] <= 512 for item in drawn]
    found = learnt(*[(item, None if good else OOM) for item, good in zip(drawn[:20], fits[:20], strict=True)])
    right = [(chance(found, item) > 0.5) == good for item, good in zip(drawn[20:], fits[20:], strict=True)]
    assert sum(right) >= 18


def test_nothing_failed_yet_or_everything_did() -> None:
    assert chance(learnt((at(64, 2), None)), at(1024, 8)) == 1
    found = learnt((at(64, 2), Reason.USER_ERROR), (at(32, 1), Reason.USER_ERROR))
    assert 0 < chance(found, at(64, 2)) < 0.5


def test_one_trial_that_fails_against_every_rule_does_not_bar_its_place() -> None:
    """A node died."""
    near = [(at(60 + i, 2, lr=0.01 * (1 + i / 10)), None) for i in range(8)]
    found = learnt(*near, (at(64, 2), Reason.WORKER_DIED))
    assert chance(found, at(64, 2)) > 0.5


def test_a_memory_limit_is_learnt_from_a_few_failures() -> None:
    """Memory runs out beyond a plane in log batch size and log width."""
    rng = np.random.default_rng(0)
    tried, asked = rng.random((30, 3)), rng.random((500, 3))
    fits = lambda x: x[:, 0] + x[:, 1] < 1.2  # noqa: E731
    found = Boundary(tried, fits(tried), np.zeros(3)).probability(asked)
    assert ((found > 0.5) == fits(asked)).mean() > 0.9
    clear = np.abs(asked[:, 0] + asked[:, 1] - 1.2) > 0.3
    assert found[clear & fits(asked)].min() > 0.5 > found[clear & ~fits(asked)].max()


def test_it_is_rather_sure_where_it_was_tried() -> None:
    tried = np.array([[0.1], [0.9]])
    found = Boundary(tried, np.array([True, False]), np.zeros(1)).probability(np.array([[0.1], [0.5], [0.9]]))
    assert found[0] > 0.8
    assert 0.3 < found[1] < 0.7
    assert found[2] < 0.3


def test_repeated_failures_at_one_place_do_no_harm() -> None:
    tried = np.repeat(np.array([[0.9, 0.9], [0.2, 0.2]]), 50, axis=0)
    found = Boundary(tried, np.repeat([False, True], 50), np.zeros(2)).probability(tried[[0, -1]])
    assert found[0] < 0.05
    assert found[1] > 0.95
