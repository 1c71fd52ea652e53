"""What the adapters of Ray Tune share: one door from Tune's trials to our controller."""

from dataclasses import replace

from orchestrator.runners.base import Controller
from orchestrator.runners.guard import Guarded
from orchestrator.types import Decision, End, EpochResult, Outcome, TrialSpec, Work


class Bridge:
    """Which Tune trial is which of ours, and how it ended."""

    def __init__(self, controller: Controller) -> None:
        self.controller = Guarded(controller)
        """Tune would bury in a log what it raises."""
        self.workers = 0
        """How many trials run at a time."""
        self.done = False
        """Whether there is no trial now, and none runs that could change that."""
        self.draining: set[str] = set()
        """Trials that wait for a card or a node to themselves: no other begins before them."""
        self._numbers: dict[str, int] = {}
        self._ends: dict[str, Outcome] = {}

    @property
    def error(self) -> Exception | None:
        """What ended the run before its time."""
        return self.controller.error

    def ask(self, trial_id: str) -> TrialSpec | None:
        """What Tune's trial ``trial_id`` is to run; None: nothing now."""
        crowded = self.draining or len(self._numbers) >= self.workers
        if crowded and self.error is None:
            return None
        spec = self.controller.ask()
        if spec is not None:
            self._numbers[trial_id] = spec.number
        self.done = not self._numbers
        return spec

    def report(self, trial_id: str, result: EpochResult) -> bool:
        """Whether the trial goes on."""
        decision = self.controller.report(self._numbers[trial_id], result)
        if decision is not Decision.CONTINUE:
            self._ends[trial_id] = Outcome(End.STOPPED if decision is Decision.STOP else End.PAUSED)
        return decision is Decision.CONTINUE

    def commit(self) -> bool:
        """Make durable what the controller knows; False: that failed, now or before, and trials only end."""
        self.controller.commit()
        return self.error is None

    def ended(self, trial_id: str, outcome: Outcome) -> None:
        """Note how the trial has ended, where it was not decided before that it should."""
        self._ends.setdefault(trial_id, outcome)

    def worked(self, trial_id: str, work: Work) -> None:
        """Note what it cost to end the trial early; without effect where nobody decided that it should."""
        if trial_id in self._ends:
            self._ends[trial_id] = replace(self._ends[trial_id], work=work)

    def tell(self, trial_id: str, outcome: Outcome) -> None:
        """The trial has ended; how, was decided before, or is ``outcome``."""
        self.draining.discard(trial_id)
        number = self._numbers.pop(trial_id, None)
        if number is not None:
            self.controller.tell(number, self._ends.pop(trial_id, outcome))
