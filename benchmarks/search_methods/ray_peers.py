"""Ray Tune's own searchers, limiter and ASHA scheduler, on simulated workers.

Real are ``OptunaSearch`` in ``ConcurrencyLimiter`` in ``SearchGenerator`` (what ``Tuner`` builds from
``TuneConfig(search_alg=OptunaSearch(...), max_concurrent_trials=workers)``), ``BasicVariantGenerator`` (Tune's
random search), ``Trial`` and ``ASHAScheduler``. What is played is the event loop alone, in the order of Ray 2.60's
``TuneController``: a new trial comes from ``next_trial`` when a worker is free and is added to the scheduler; a
result goes to the scheduler first and to the searcher only if the trial goes on; a trial that stops, for whatever
reason, is reported as complete to the scheduler, then to the searcher with its last result. So nothing here needs a
Ray cluster, and the searcher learns what it learns under Tune: a test runs Tune itself and finds the same trials.
Default settings, but for the budget (``max_t``).
"""

import tempfile
from dataclasses import dataclass
from typing import Any

import optuna
from ray import tune
from ray.tune.experiment import Experiment
from ray.tune.schedulers import ASHAScheduler, TrialScheduler
from ray.tune.search import BasicVariantGenerator, ConcurrencyLimiter, SearchAlgorithm, SearchGenerator
from ray.tune.search.optuna import OptunaSearch

from search_methods.objective import Config, Space, TimedObjective
from search_methods.simulation import Run, simulate

METRIC = "accuracy"
NUM_SAMPLES = 100_000  # more than any budget reaches


def tune_space(space: Space) -> dict[str, Any]:
    """The search space in Tune's terms (upper bounds of integers are exclusive there)."""

    def domain(kind: str, low: float, high: float, log: bool) -> Any:
        if kind == "int":
            return (tune.lograndint if log else tune.randint)(int(low), int(high) + 1)
        return (tune.loguniform if log else tune.uniform)(low, high)

    return {name: domain(*row) for name, row in space.items()}


@dataclass
class TunePolicy:
    """Tune's event loop for one experiment; a handle is the Ray trial."""

    searcher: SearchAlgorithm
    scheduler: TrialScheduler
    epochs: int

    def next(self) -> Run | None:
        trial = self.searcher.next_trial()
        if trial is None:
            return None
        self.scheduler.on_trial_add(None, trial)
        return Run(dict(trial.config), self.epochs, handle=trial)

    def report(self, run: Run, value: float) -> bool:
        trial = run.handle
        result = {METRIC: value, "training_iteration": run.epoch, "trial_id": trial.trial_id}
        if self.scheduler.on_trial_result(None, trial, result) != TrialScheduler.STOP:
            self.searcher.on_trial_result(trial.trial_id, result)
            return True
        self.scheduler.on_trial_complete(None, trial, result)
        self.searcher.on_trial_complete(trial.trial_id, result)
        return False


def _trainable(config: dict[str, Any]) -> None:
    raise AssertionError("the simulation trains, not Ray")


def search(objective: TimedObjective, searcher: SearchAlgorithm, config: dict[str, Any]) -> None:
    """Run ``searcher`` with ASHA; ``config`` is the experiment's own search space."""
    scheduler = ASHAScheduler(max_t=objective.epochs, metric=METRIC, mode="max")
    with tempfile.TemporaryDirectory() as folder:
        experiment = Experiment("search", run=_trainable, config=config, num_samples=NUM_SAMPLES, storage_path=folder)
        searcher.add_configurations([experiment])
        simulate(TunePolicy(searcher, scheduler, objective.epochs), objective)


def optuna_asha(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """Tune's OptunaSearch (TPE) with ASHA."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    inner = OptunaSearch(seed=seed, points_to_evaluate=None if start is None else [start])
    searcher = SearchGenerator(ConcurrencyLimiter(inner, max_concurrent=objective.workers))
    searcher.set_search_properties(METRIC, "max", tune_space(objective.space))
    search(objective, searcher, {})


def random_asha(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """Tune's random search with ASHA."""
    searcher = BasicVariantGenerator(
        points_to_evaluate=None if start is None else [start],
        max_concurrent=objective.workers,
        random_state=seed,
    )
    search(objective, searcher, tune_space(objective.space))
