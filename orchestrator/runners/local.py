"""Trials in this process, one after another: no Ray, a breakpoint works."""

from collections.abc import Iterator

from orchestrator.runners.base import Controller
from orchestrator.trial import failure
from orchestrator.types import Decision, End, EpochResult, Outcome, TrialProgram


class LocalRunner:
    """See :class:`~orchestrator.runners.base.Runner`."""

    workers = 1

    def run(self, program: TrialProgram, controller: Controller) -> None:
        """See :class:`~orchestrator.runners.base.Runner`."""
        while (spec := controller.ask()) is not None:
            controller.tell(spec.number, self._execute(program(spec), spec.number, controller))

    def _execute(self, epochs: Iterator[EpochResult], number: int, controller: Controller) -> Outcome:
        while True:
            try:
                result = next(epochs)
            except StopIteration:
                return Outcome(End.FINISHED)
            except Exception as error:
                return failure(error)
            decision = controller.report(number, result)
            if decision is not Decision.CONTINUE:
                epochs.close()  # type: ignore[attr-defined]
                return Outcome(End.STOPPED if decision is Decision.STOP else End.PAUSED)

    def close(self) -> None:
        """Nothing to free."""
