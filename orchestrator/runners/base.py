"""The door between deciding and executing: a runner executes what a controller decides."""

from typing import Protocol

from orchestrator.types import Decision, EpochResult, Outcome, TrialProgram, TrialSpec


class Controller(Protocol):
    """Decides what to try and when to stop it. Called from one thread, in the driver."""

    def ask(self) -> TrialSpec | None:
        """The next trial to run, or None if there is none now; asked again after each ``tell``."""
        ...

    def report(self, number: int, result: EpochResult) -> Decision:
        """Take in an epoch of trial ``number`` and say whether it goes on."""
        ...

    def tell(self, number: int, outcome: Outcome) -> None:
        """Take in the end of trial ``number``; called exactly once per trial asked for."""
        ...

    def commit(self) -> None:
        """Make durable what was asked, reported and told so far. A runner calls it before a worker begins a trial or
        goes on with one, for all results that have arrived together."""
        ...


class Runner(Protocol):
    """Executes trials somewhere."""

    @property
    def workers(self) -> int:
        """How many trials run at a time."""
        ...

    def run(self, program: TrialProgram, controller: Controller) -> None:
        """Run trials until ``controller`` has none and all are told.

        A free worker gets its next trial at once. A trial is stopped between two epochs when
        ``report`` says so. Exceptions of a trial become outcomes; exceptions of the controller pass
        through, with every worker stopped.
        """
        ...

    def close(self) -> None:
        """Free all workers."""
        ...
