"""A controller that raises must not leave workers behind: its first error is kept until they are at rest."""

from collections.abc import Callable
from typing import TypeVar

from orchestrator.runners.base import Controller
from orchestrator.types import Decision, EpochResult, Outcome, TrialSpec

T = TypeVar("T")


class Guarded:
    """See :class:`~orchestrator.runners.base.Controller`. After the first error of the one behind it, which is asked
    nothing any more, no trial begins and those that run are paused; the runner raises ``error`` in the end.

    An interrupt (``KeyboardInterrupt``) is no error of the controller, and passes through at once.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.error: Exception | None = None

    def ask(self) -> TrialSpec | None:
        """The next trial; None after an error."""
        return self._first(self._controller.ask, None)

    def report(self, number: int, result: EpochResult) -> Decision:
        """What becomes of the trial; it pauses after an error."""
        return self._first(lambda: self._controller.report(number, result), Decision.PAUSE)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Without effect after an error: the trial stays as running, and the next command goes on with it."""
        self._first(lambda: self._controller.tell(number, outcome), None)

    def commit(self) -> None:
        """After an error nothing that was put off for it may be done, but for ending trials."""
        self._first(self._controller.commit, None)

    def _first(self, act: Callable[[], T], after: T) -> T:
        """What ``act`` returns; ``after`` where it raises, or something did before."""
        if self.error is None:
            try:
                return act()
            except Exception as error:
                self.error = error
        return after
