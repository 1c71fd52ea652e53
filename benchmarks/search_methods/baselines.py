"""Baselines without a library: random search, a cheap screening, and one hyperparameter at a time."""

import math
from dataclasses import dataclass, field

import numpy as np

from search_methods.objective import Config, Space, TimedObjective, at
from search_methods.simulation import Run, simulate

STAGE_ORDER = (  # the order of the recipe (shared design, section 5)
    "learning_rate",
    "batch_size",
    "momentum",
    "max_units",
    "num_layers",
    "weight_decay",
    "max_dropout",
)
STAGE_TRIALS = 4  # values tried for each hyperparameter; our choice: the best at 20 FT of 3, 4 and 5 (DEFAULT first)


@dataclass
class RandomPolicy:
    """Random configurations, each trained in full."""

    objective: TimedObjective
    rng: np.random.Generator
    start: Config | None

    def next(self) -> Run:
        config, self.start = self.start or self.objective.sample(self.rng), None
        return Run(config, self.objective.epochs)

    def report(self, run: Run, value: float) -> bool:
        return True


def random(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """Random search."""
    simulate(RandomPolicy(objective, np.random.default_rng(seed), start), objective)


@dataclass
class OneEpochPolicy:
    """One epoch each; after every tenth, the best after an epoch that is still paused is trained in full.

    The anytime form of "keep the top 10 % after one epoch" (arXiv 2307.15422).
    """

    objective: TimedObjective
    rng: np.random.Generator
    start: Config | None
    paused: list[tuple[float, Config]] = field(default_factory=list)
    seen: int = 0
    promoted: int = 0

    def next(self) -> Run:
        if self.promoted < self.seen // 10:
            self.promoted += 1
            best = max(range(len(self.paused)), key=lambda index: self.paused[index][0])
            return Run(self.paused.pop(best)[1], self.objective.epochs, epoch=1)
        config, self.start = self.start or self.objective.sample(self.rng), None
        return Run(config, 1)

    def report(self, run: Run, value: float) -> bool:
        if run.upto == 1:
            self.seen += 1
            self.paused.append((value, run.config))
        return True


def one_epoch(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """One epoch each, the top 10 % trained in full."""
    simulate(OneEpochPolicy(objective, np.random.default_rng(seed), start), objective)


@dataclass
class NaiveStagingPolicy:
    """One hyperparameter at a time, all others fixed at the best so far, every trial trained in full.

    Each stage tries ``STAGE_TRIALS`` values, one drawn from each equal part of the whole range on its scale; all
    must have ended before the next stage begins. After the last hyperparameter the first comes again.
    """

    space: Space
    epochs: int
    rng: np.random.Generator
    incumbent: Config
    best: float = -math.inf
    stage: int = 0
    running: int = 0
    waiting: list[Config] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waiting = [self.incumbent]

    def next(self) -> Run | None:
        if not self.waiting and not self.running:
            self.waiting = self._candidates(STAGE_ORDER[self.stage % len(STAGE_ORDER)])
            self.stage += 1
        if not self.waiting:
            return None
        self.running += 1
        return Run(self.waiting.pop(0), self.epochs)

    def report(self, run: Run, value: float) -> bool:
        if value > self.best:
            self.best, self.incumbent = value, run.config
        if run.epoch == run.upto:
            self.running -= 1
        return True

    def _candidates(self, name: str) -> list[Config]:
        parts = (np.arange(STAGE_TRIALS) + self.rng.random(STAGE_TRIALS)) / STAGE_TRIALS
        return [{**self.incumbent, name: at(self.space, name, float(part))} for part in parts]


def naive_staging(objective: TimedObjective, seed: int, start: Config | None = None) -> None:
    """One hyperparameter at a time; without a start it begins with a random configuration."""
    rng = np.random.default_rng(seed)
    simulate(NaiveStagingPolicy(objective.space, objective.epochs, rng, start or objective.sample(rng)), objective)
