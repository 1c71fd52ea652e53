"""Optuna by its ask-and-tell interface, with its default settings.

A trial trained in full is told its best epoch, which is what the benchmark scores. The pruners see every epoch; their
rungs start at epoch 1 and end at the last (``min_resource='auto'`` would wait for the first finished trial).
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import TrialState

from search_methods.objective import Config, Space, TimedObjective
from search_methods.simulation import Run, simulate

Distributions = dict[str, BaseDistribution]


def distributions(space: Space) -> Distributions:
    """The search space in Optuna's terms."""

    def distribution(kind: str, low: float, high: float, log: bool) -> BaseDistribution:
        if kind == "int":
            return IntDistribution(int(low), int(high), log=log)
        return FloatDistribution(low, high, log=log)

    return {name: distribution(*row) for name, row in space.items()}


@dataclass
class StudyPolicy:
    """A study's trials; a handle is the Optuna trial and its best value so far."""

    study: optuna.Study
    space: Distributions
    epochs: int

    def next(self) -> Run:
        trial = self.study.ask(self.space)
        return Run(dict(trial.params), self.epochs, handle=[trial, -math.inf])

    def report(self, run: Run, value: float) -> bool:
        trial, best = run.handle
        run.handle[1] = max(best, value)
        if run.epoch == run.upto:
            self.study.tell(trial, run.handle[1])
            return False
        if isinstance(self.study.pruner, NopPruner):
            return True
        trial.report(value, run.epoch)
        if trial.should_prune():
            self.study.tell(trial, state=TrialState.PRUNED)
            return False
        return True


def search(objective: TimedObjective, seed: int, start: Config | None, **parts: Any) -> None:
    """Run a study made of the given sampler and pruner; ``start`` is enqueued as its first trial."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    # Hyperband deals brackets by the study's name: unnamed, it would not repeat.
    study = optuna.create_study(study_name=f"seed {seed}", direction="maximize", **parts)
    if start is not None:
        study.enqueue_trial(start)
    simulate(StudyPolicy(study, distributions(objective.space), objective.epochs), objective)


def _tpe(objective: TimedObjective, seed: int, start: Config | None, pruner: BasePruner) -> None:
    sampler: BaseSampler = TPESampler(seed=seed)
    search(objective, seed, start, sampler=sampler, pruner=pruner)


def tpe(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """TPE, every trial trained in full."""
    _tpe(objective, seed, start, NopPruner())


def tpe_hyperband(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """TPE with the Hyperband pruner (reduction factor 3, its default)."""
    _tpe(objective, seed, start, HyperbandPruner(min_resource=1, max_resource=objective.epochs))


def tpe_halving(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """TPE with the successive-halving pruner (reduction factor 4, its default)."""
    _tpe(objective, seed, start, SuccessiveHalvingPruner(min_resource=1))


def gp(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """Optuna's Gaussian process, every trial trained in full; told that the objective repeats when it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        sampler = GPSampler(seed=seed, deterministic_objective=objective.noise == 0)
    search(objective, seed, start, sampler=sampler, pruner=NopPruner())
