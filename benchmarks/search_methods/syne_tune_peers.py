"""Syne Tune's BOHB (asynchronous halving with kernel densities) on simulated workers.

Real is the whole scheduler with its searcher; what is played is the order of calls of Syne Tune 0.16's ``Tuner``:
``suggest`` and ``on_trial_add`` when a worker is free, ``on_trial_result`` after each epoch, ``on_trial_remove`` when
the scheduler stops a trial (which it also does at the last epoch).

Two settings are not the defaults, both in BOHB's favour. It searches the unit cube and we scale its proposals: its
densities ignore log scales, and give integers outside their range. ``num_min_data_points`` is one more than the
hyperparameters, as in BOHB's paper (arXiv 1807.01774); by default the model waits for some fifty trials here.
"""

import datetime
import itertools
import logging
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from syne_tune.backend.trial_status import Trial
from syne_tune.config_space import uniform
from syne_tune.optimizer.baselines import BOHB
from syne_tune.optimizer.scheduler import SchedulerDecision, TrialScheduler

from search_methods.objective import Config, Space, TimedObjective, at, part_of
from search_methods.simulation import Run, simulate

METRIC, EPOCH = "accuracy", "epoch"


@dataclass
class SyneTunePolicy:
    """Syne Tune's event loop; a handle is its trial, whose configuration lies in the unit cube."""

    scheduler: TrialScheduler
    space: Space
    epochs: int
    start: Config | None
    ids: "itertools.count[int]" = field(default_factory=itertools.count)

    def next(self) -> Run | None:
        suggestion = self.scheduler.suggest()
        if suggestion is None:
            return None
        trial = Trial(next(self.ids), suggestion.config, datetime.datetime.now())
        self.scheduler.on_trial_add(trial)
        scaled = {name: at(self.space, name, part) for name, part in suggestion.config.items()}
        config, self.start = self.start or scaled, None
        return Run(config, self.epochs, handle=trial)

    def report(self, run: Run, value: float) -> bool:
        decision = self.scheduler.on_trial_result(run.handle, {METRIC: value, EPOCH: run.epoch})
        if decision == SchedulerDecision.CONTINUE:
            return True
        self.scheduler.on_trial_remove(run.handle)
        return False


def bohb(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """BOHB."""
    space = objective.space
    points: list[dict[str, Any]] = [] if start is None else [{n: part_of(space, n, start[n]) for n in space}]
    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    np.random.seed(seed)  # its random proposals come from NumPy's global generator, whatever random_seed says
    scheduler = BOHB(
        {name: uniform(0.0, 1.0) for name in space},
        metric=METRIC,
        time_attr=EPOCH,
        max_t=objective.epochs,
        do_minimize=False,
        random_seed=seed,
        num_min_data_points=len(space) + 1,
        points_to_evaluate=points,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # statsmodels' on how it will seed one day
        simulate(SyneTunePolicy(scheduler, space, objective.epochs, start), objective)
