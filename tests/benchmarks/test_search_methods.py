"""Simulated workers, and every method on them."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from search_methods import METHODS, load, simulation
from search_methods.objective import TimedObjective, at, load_lcbench, part_of
from search_methods.simulation import Run, simulate

FAKE = Path(__file__).parent / "fake_lcbench"
STARTED_WHERE = {"ray_optuna_asha": "ray", "ray_random_asha": "ray", "bohb": "syne_tune"}


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    return load_lcbench(FAKE)


def spend(bench: ModuleType, name: str, start: dict[str, Any] | None, seed: int = 1, workers: int = 1) -> Any:
    """The objective after method ``name`` has spent two full trainings on it."""
    objective = TimedObjective(bench, "one", 2, seed=seed, workers=workers)
    with pytest.raises(bench.BudgetSpent):
        load(name)(objective, seed, start)
    return objective


class Fixed:
    """A policy of given trials that notes (epoch, value) of each."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs: Iterator[Run] = iter(runs)
        self.seen: list[Run] = []

    def next(self) -> Run | None:
        return next(self.runs, None)

    def report(self, run: Run, value: float) -> bool:
        self.seen.append(run)
        return True


def configs(bench: ModuleType, count: int) -> list[dict[str, Any]]:
    return [{**bench.DEFAULT, "learning_rate": 1e-3 * (index + 1)} for index in range(count)]


@pytest.mark.parametrize(("workers", "ends"), [(1, 200.0), (2, 100.0), (3, 100.0), (4, 50.0), (8, 50.0)])
def test_workers_train_at_once(bench: ModuleType, workers: int, ends: float) -> None:
    objective = TimedObjective(bench, "one", 100, workers=workers)
    cluster = simulation.Cluster(objective, Fixed([Run(config, 50) for config in configs(bench, 4)]))
    cluster.go()
    assert (cluster.now, objective.spent, objective.trials) == (ends, 200, 4)


def test_a_worker_without_a_trial_waits_until_one_reports(bench: ModuleType) -> None:
    class Waits(Fixed):
        def next(self) -> Run | None:
            return super().next() if len(self.seen) in (0, 3) else None

    objective = TimedObjective(bench, "one", 100, workers=2)
    first, second = (Run(config, 5) for config in configs(bench, 2))
    policy = Waits([first])
    policy.runs = iter([first, None, second])  # type: ignore[list-item]
    cluster = simulation.Cluster(objective, policy)
    cluster.go()
    assert policy.seen == [first] * 3 + [first, second] * 2 + [second] * 3
    assert (cluster.now, objective.spent) == (8.0, 10)


def test_known_epochs_cost_neither_budget_nor_time(bench: ModuleType) -> None:
    objective = TimedObjective(bench, "one", 100)
    policy = Fixed([Run(bench.DEFAULT, 3), Run(bench.DEFAULT, 5), Run(bench.DEFAULT, 6, epoch=5)])
    cluster = simulation.Cluster(objective, policy)
    cluster.go()
    assert (objective.spent, cluster.now, len(policy.seen)) == (6, 6.0, 3 + 5 + 1)


def test_a_method_that_only_repeats_itself_ends(bench: ModuleType) -> None:
    objective = TimedObjective(bench, "one", 100)
    simulate(Fixed([Run(bench.DEFAULT, 1) for _ in range(10_000)]), objective)
    assert objective.spent == 1


def test_the_trace_has_epochs_time_and_regret(bench: ModuleType) -> None:
    objective = TimedObjective(bench, "one", 1)
    objective.run(bench.DEFAULT, 2, started=10.0)
    best = 90 - 64 / 512
    assert objective.trace == [
        (1, 11.0, pytest.approx((90 - best / 2) / 10)),
        (2, 12.0, pytest.approx((90 - best * 2 / 3) / 10)),
    ]
    with pytest.raises(bench.BudgetSpent):
        objective.run(configs(bench, 1)[0], 50)
    assert objective.spent == objective.budget == 50
    assert objective.is_paid(configs(bench, 1)[0], 48)
    assert not objective.is_paid(configs(bench, 1)[0], 49)


def test_a_range_is_shared_out_on_its_scale(bench: ModuleType) -> None:
    assert at(bench.SPACE, "learning_rate", 0.5) == pytest.approx(10**-2.5)
    assert [at(bench.SPACE, "num_layers", part) for part in (0, 0.24, 0.26, 0.74, 0.76, 1)] == [1, 1, 2, 3, 4, 4]
    for name in bench.SPACE:
        for part in (0.0, 0.3, 1.0):
            value = at(bench.SPACE, name, part)
            assert at(bench.SPACE, name, part_of(bench.SPACE, name, value)) == pytest.approx(value)


@pytest.mark.filterwarnings("ignore")  # the peers' own
@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("ours")])
@pytest.mark.parametrize("workers", [1, 3])
def test_a_peer_runs_the_start_first_and_repeats_with_its_seed(bench: ModuleType, name: str, workers: int) -> None:
    pytest.importorskip(STARTED_WHERE.get(name, "optuna"))
    objective = spend(bench, name, bench.DEFAULT, workers=workers)
    assert objective._inner.order[0] == bench.DEFAULT
    assert objective.spent == 100
    assert objective.trials > 1
    assert spend(bench, name, bench.DEFAULT, workers=workers).trace == objective.trace
    free = spend(bench, name, None, workers=workers)
    assert free._inner.order[0] != bench.DEFAULT
    other = spend(bench, name, None, seed=2, workers=workers)
    assert other._inner.order[0] != free._inner.order[0]


def test_one_in_ten_is_trained_in_full(bench: ModuleType) -> None:
    objective = TimedObjective(bench, "one", 10)
    with pytest.raises(bench.BudgetSpent):
        load("one_epoch")(objective, 1, None)
    lengths = sorted(objective._paid.values())
    assert lengths.count(50) == 500 // 59
    assert set(lengths) - {500 - 59 * 8 - 10 + 1} == {1, 50}


def test_naive_staging_changes_one_hyperparameter_at_a_time(bench: ModuleType) -> None:
    objective = TimedObjective(bench, "one", 9)
    with pytest.raises(bench.BudgetSpent):
        load("naive_staging")(objective, 1, bench.DEFAULT)
    rates, batches = objective._inner.order[1:5], objective._inner.order[5:9]
    assert {tuple(c[n] for n in c if n != "learning_rate") for c in rates} == {
        tuple(bench.DEFAULT[n] for n in rates[0] if n != "learning_rate")
    }
    assert len({c["learning_rate"] for c in batches}) == 1
    assert len({c["batch_size"] for c in batches}) == 4


def test_tune_itself_runs_the_same_trials_for_as_long(bench: ModuleType, tmp_path: Path) -> None:
    count = 14
    command = [sys.executable, str(Path(__file__).with_name("tune_itself.py")), str(count), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=True)
    real = [tuple(trial) for trial in json.loads(done.stdout.splitlines()[-1])]
    objective = TimedObjective(bench, "one", 50)
    with pytest.raises(bench.BudgetSpent):
        load("ray_optuna_asha")(objective, 5, bench.DEFAULT)
    played = [(config, objective._paid[objective._key(config)]) for config in objective._inner.order]
    assert len({length for _, length in real}) > 2
    assert real == played[:count]
