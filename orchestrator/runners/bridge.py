"""What the adapters of Ray Tune share: one door from Tune's trials to our controller."""

from dataclasses import replace

from orchestrator.runners.base import Controller
from orchestrator.types import Decision, End, EpochResult, Outcome, TrialSpec, Work


class Bridge:
    """Which Tune trial is which of ours, and how it ended."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self.workers = 0
        """How many trials run at a time."""
        self.done = False
        """Whether there is no trial now, and none runs that could change that."""
        self._numbers: dict[str, int] = {}
        self._ends: dict[str, Outcome] = {}
        self.error: BaseException | None = None
        """What the controller raised. Tune would bury it in a log."""

    def ask(self, trial_id: str) -> TrialSpec | None:
        """What Tune's trial ``trial_id`` is to run; None: nothing now."""
        spec = None
        if self.error is None:
            if len(self._numbers) >= self.workers:
                return None
            try:
                spec = self._controller.ask()
            except BaseException as error:
                self.error = error
        if spec is not None:
            self._numbers[trial_id] = spec.number
        self.done = not self._numbers
        return spec

    def report(self, trial_id: str, result: EpochResult) -> bool:
        """Whether the trial goes on."""
        if self.error is not None:
            return False
        try:
            decision = self._controller.report(self._numbers[trial_id], result)
        except BaseException as error:
            self.error = error
            return False
        if decision is not Decision.CONTINUE:
            self._ends[trial_id] = Outcome(End.STOPPED if decision is Decision.STOP else End.PAUSED)
        return decision is Decision.CONTINUE

    def commit(self) -> None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        if self.error is None:
            try:
                self._controller.commit()
            except BaseException as error:
                self.error = error

    def ended(self, trial_id: str, outcome: Outcome) -> None:
        """Note how the trial has ended, where it was not decided before that it should."""
        self._ends.setdefault(trial_id, outcome)

    def worked(self, trial_id: str, work: Work) -> None:
        """Note what it cost to end the trial early; without effect where the controller's error ended it."""
        if trial_id in self._ends:
            self._ends[trial_id] = replace(self._ends[trial_id], work=work)

    def tell(self, trial_id: str, outcome: Outcome) -> None:
        """The trial has ended; how, was decided before, or is ``outcome``."""
        number = self._numbers.pop(trial_id, None)
        if number is None or self.error is not None:
            return
        try:
            self._controller.tell(number, self._ends.pop(trial_id, outcome))
        except BaseException as error:
            self.error = error
