"""What the study knows about a trial, as an immutable value."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from orchestrator.types import Configuration, Direction, MemoryUse, Reason, TrialState


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial of the sweep."""

    number: int
    """Optuna's trial number."""
    stage: str
    configuration: Configuration
    seed: int
    epochs: int
    """Budget in epochs."""
    state: TrialState
    curve: Mapping[int, float]
    """Epoch (from 1) to the objective reported after it."""
    value: float | None = None
    """The objective of a finished feasible trial: the best of its curve."""
    reason: Reason | None = None
    detail: str = ""
    seconds: float = 0.0
    """Wall time from start to end."""
    parent: int | None = None
    """The trial that this one continues (a stopped one; in a promotion to the finalists a complete one); its curve
    is part of this one's."""
    inherited: int = 0
    """Epochs of the curve that the parent trained and paid for."""
    repeats: int | None = None
    """The trial whose configuration this one trains with another seed, to measure seed noise; of a finalist also
    with the same seed, for longer."""
    audited: int | None = None
    """The epoch at which it was due to be stopped, had it not been let through to its end."""
    restarts: int = 0
    """How often it went on elsewhere because its worker had died."""
    memory: tuple[MemoryUse, ...] = ()
    """The most that it held at a time; empty: it was not measured."""
    round: int = 0
    """With ``deterministic=true``: which round of the stage the trial was proposed in, from 0."""
    schedule_epochs: int | None = None
    """Of a finalist: epochs that its learning-rate schedule covers, after which the rate stays; None: the trial
    belongs to the search, and the schedule covers its budget."""

    @property
    def feasible(self) -> bool:
        """Whether the trial has a value that a stage may choose by."""
        return self.state is TrialState.COMPLETE and self.value is not None

    @property
    def finalist(self) -> bool:
        """Whether it trains a finalist: longer than the search does, so that no search learns from it."""
        return self.schedule_epochs is not None

    @property
    def epochs_run(self) -> int:
        """Epochs reported so far, inherited ones included."""
        return max(self.curve, default=0)

    @property
    def epochs_paid(self) -> int:
        """Epochs that this trial trained itself; at least 1 once it ended, because a start costs too."""
        return max(self.epochs_run - self.inherited, int(self.state.finished))


def searched(records: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Those of the search: all but the finalists'."""
    return [record for record in records if not record.finalist]


def incumbent(records: Iterable[TrialRecord], direction: Direction) -> TrialRecord | None:
    """The best complete trial, the earliest of equals; None where there is none.

    A repeat never is: with more seeds anything gets better.
    """
    feasible = [record for record in records if record.feasible and record.repeats is None]
    return min(feasible, key=lambda r: (direction.cost(_value(r)), r.number), default=None)


def ranked(records: Iterable[TrialRecord], direction: Direction) -> Sequence[TrialRecord]:
    """Complete trials, best first, the earlier of equals first."""
    feasible = [record for record in records if record.feasible]
    return sorted(feasible, key=lambda r: (direction.cost(_value(r)), r.number))


def _value(record: TrialRecord) -> float:
    assert record.value is not None
    return record.value
