"""Trials in this process, one after another: a breakpoint works, and a hanging trial hangs the command."""

from orchestrator.runners.base import Controller
from orchestrator.trial import failure
from orchestrator.types import Decision, End, Outcome, TrialProgram, TrialSpec


class InlineRunner:
    """See :class:`~orchestrator.runners.base.Runner`."""

    workers = 1

    def run(self, program: TrialProgram, controller: Controller) -> None:
        """See :class:`~orchestrator.runners.base.Runner`."""
        while (spec := controller.ask()) is not None:
            controller.commit()
            controller.tell(spec.number, self._execute(program, spec, controller))
            controller.commit()

    def _execute(self, program: TrialProgram, spec: TrialSpec, controller: Controller) -> Outcome:
        try:
            epochs = program(spec)
        except Exception as error:
            return failure(error)
        try:
            while True:
                try:
                    result = next(epochs)
                except StopIteration:
                    return Outcome(End.FINISHED)
                except Exception as error:
                    return failure(error)
                decision = controller.report(spec.number, result)
                controller.commit()
                if decision is not Decision.CONTINUE:
                    return Outcome(End.STOPPED if decision is Decision.STOP else End.PAUSED)
        finally:
            # Also when the controller raised: the trial is checkpointed.
            epochs.close()  # type: ignore[attr-defined]

    def close(self) -> None:
        """Nothing to free."""
