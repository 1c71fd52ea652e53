"""Trials that cost no time: curves from a function, on simulated workers with a simulated clock.

For trying settings out before paying for them, and for measuring the search itself: everything but the
training is the product. Events happen in the order of simulated time, so that with several workers decisions
are made with what would be known by then.
"""

import heapq
import itertools
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace

from orchestrator.errors import InfeasibleTrialError
from orchestrator.runners.base import Controller
from orchestrator.trial import failure
from orchestrator.types import (
    Configuration,
    Decision,
    End,
    EpochResult,
    MemoryUse,
    Outcome,
    Reason,
    TrialProgram,
    TrialSpec,
    Work,
)

CurveFunction = Callable[[Configuration, int], Sequence[float]]
"""Configuration and training seed to the objective after each epoch. It may raise
:class:`~orchestrator.errors.InfeasibleTrialError`, and so may a value that is not finite."""


@dataclass(frozen=True)
class CurveProgram:
    """A :class:`~orchestrator.types.TrialProgram` that reads its epochs off a curve.

    Args:
        curve: gives the objective after each epoch; at least as many as a trial's budget.
        inherited: epochs that a promoted trial's parent has trained, by trial number.
        seconds: simulated seconds that an epoch of a configuration takes.
        memory: what a training of a configuration is seen to hold.
    """

    curve: CurveFunction
    inherited: Callable[[int], int]
    seconds: Callable[[Configuration], float] = lambda configuration: 1.0
    memory: Callable[[Configuration], tuple[MemoryUse, ...]] = lambda configuration: ()

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        """Yield after each epoch that the trial pays for."""
        values = self.curve(spec.configuration, spec.seed)
        seconds = self.seconds(spec.configuration)
        for epoch in range(self.inherited(spec.number) + 1, spec.epochs + 1):
            value = float(values[epoch - 1])
            if not abs(value) < float("inf"):
                raise InfeasibleTrialError(Reason.NON_FINITE, f"the curve is {value} at epoch {epoch}")
            memory = self.memory(spec.configuration)
            yield EpochResult(epoch=epoch, value=value, metrics={"seconds": seconds}, memory=memory)


@dataclass
class _Running:
    spec: TrialSpec
    epochs: Iterator[EpochResult]
    result: EpochResult | None = None
    outcome: Outcome | None = None

    def advance(self) -> float:
        """Train the next epoch; returns the simulated seconds it takes."""
        if self.outcome is not None:
            return 0.0
        try:
            result = next(self.epochs)
            self.result = replace(result, work=Work(float(result.metrics.get("seconds", 1.0))))
        except StopIteration:
            self.outcome = Outcome(End.FINISHED)
        except Exception as error:
            self.outcome = failure(error)
        if self.outcome is not None or self.result is None or self.result.work is None:
            return 0.0
        return self.result.work.seconds

    def close(self) -> None:
        """End its program in good order."""
        if isinstance(self.epochs, Generator):
            self.epochs.close()


class SimulationRunner:
    """See :class:`~orchestrator.runners.base.Runner`.

    Args:
        workers: how many trials run at a time.
    """

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers
        self.clock = 0.0
        """Simulated seconds since the runner was made."""

    def run(self, program: TrialProgram, controller: Controller) -> None:
        """See :class:`~orchestrator.runners.base.Runner`."""
        order = itertools.count()
        events: list[tuple[float, int, _Running]] = []

        def schedule(trial: _Running) -> None:
            seconds = trial.advance()
            heapq.heappush(events, (self.clock + seconds, next(order), trial))

        trial: _Running | None = None
        try:
            while True:
                begun: list[TrialSpec] = []
                while len(events) + len(begun) < self.workers and (spec := controller.ask()) is not None:
                    begun.append(spec)
                controller.commit()
                for spec in begun:
                    schedule(_begin(program, spec))
                if not events:
                    return
                self.clock, _, trial = heapq.heappop(events)
                outcome = trial.outcome or _reported(controller, trial)
                if outcome is None:
                    schedule(trial)
                else:
                    trial.close()
                    controller.tell(trial.spec.number, outcome)
        finally:
            for running in (trial, *(event[2] for event in events)):
                if running is not None:
                    running.close()

    def close(self) -> None:
        """Nothing to free."""


def _begin(program: TrialProgram, spec: TrialSpec) -> _Running:
    try:
        return _Running(spec, program(spec))
    except Exception as error:
        return _Running(spec, iter(()), outcome=failure(error))


def _reported(controller: Controller, trial: _Running) -> Outcome | None:
    """How the trial ends with the epoch just trained; None if it goes on."""
    assert trial.result is not None
    decision = controller.report(trial.spec.number, trial.result)
    controller.commit()
    if decision is Decision.CONTINUE:
        return None
    return Outcome(End.STOPPED if decision is Decision.STOP else End.PAUSED)
