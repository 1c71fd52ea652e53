"""Simulated workers: any number of trials train at once, an epoch takes one unit of time, nothing else takes any.

A method that decides from outside (asks for a trial, is told each epoch) is a :class:`Policy`; :func:`simulate` plays
the part of the program that would run it on real workers.
"""

import heapq
import itertools
from dataclasses import dataclass, field
from typing import Any, Protocol

from search_methods.objective import Config, TimedObjective

MAX_REPEATS = 200  # configurations already trained, proposed in a row, before a method counts as having converged


@dataclass
class Run:
    """A trial on a worker: trained from ``epoch`` (0, or where it was paused) on, at most to epoch ``upto``."""

    config: Config
    upto: int
    epoch: int = 0
    handle: Any = None  # the policy's own


class Policy(Protocol):
    """What proposes trials and decides after each epoch whether one goes on."""

    def next(self) -> Run | None:
        """The next trial for a free worker; None to wait until another trial has reported."""

    def report(self, run: Run, value: float) -> bool:
        """Validation accuracy of ``run`` at ``run.epoch``; whether it goes on. At ``run.upto`` it ends anyway."""


@dataclass
class Cluster:
    """The workers: ``busy`` holds (time at which the epoch ends, order of starting, run)."""

    objective: TimedObjective
    policy: Policy
    now: float = 0.0
    busy: list[tuple[float, int, Run]] = field(default_factory=list)
    order: "itertools.count[int]" = field(default_factory=itertools.count)
    repeats: int = 0

    def go(self) -> None:
        self.fill()
        while self.busy and self.repeats < MAX_REPEATS:
            self.now, _, run = heapq.heappop(self.busy)
            run.epoch += 1
            if self.finish_epoch(run):
                self.start_epoch(run)
            self.fill()

    def fill(self) -> None:
        """Give each free worker a trial, as long as the policy has some."""
        while len(self.busy) < self.objective.workers and self.repeats < MAX_REPEATS:
            run = self.policy.next()
            if run is None:
                return
            self.repeats = self.repeats + 1 if self.objective.is_paid(run.config, run.epoch + 1) else 0
            self.start_epoch(run)

    def start_epoch(self, run: Run) -> None:
        """Occupy a worker for the run's next epoch that was not trained before; known ones take no time."""
        while self.objective.is_paid(run.config, run.epoch + 1):
            run.epoch += 1
            if not self.finish_epoch(run):
                return
        heapq.heappush(self.busy, (self.now + 1, next(self.order), run))

    def finish_epoch(self, run: Run) -> bool:
        value = float(self.objective.run(run.config, run.epoch, started=self.now - 1)[-1])
        return self.policy.report(run, value) and run.epoch < run.upto


def simulate(policy: Policy, objective: TimedObjective) -> None:
    """Run ``policy`` on ``objective.workers`` simulated workers until the budget is spent (which raises)."""
    Cluster(objective, policy).go()
