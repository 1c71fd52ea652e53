"""Typed values that cross layers. This module imports nothing of the package."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

Value = bool | int | float | str
"""The value of one hyperparameter."""

NO_TRIAL = -1
"""The number of what a runner executes that is no trial of the study."""

Configuration = Mapping[str, Value]
"""One value for every hyperparameter, by dotted name (``optimizer.lr``), varied or fixed."""

Location = Path | str
"""A folder on a disk, or as a text the URL of one in an object store: :mod:`orchestrator.stores`."""


class Direction(StrEnum):
    """Which way the objective is better."""

    MINIMIZE = "minimize"
    MAXIMIZE = "maximize"

    @property
    def worst(self) -> float:
        """The value that every finite value beats."""
        return math.inf if self is Direction.MINIMIZE else -math.inf

    def better(self, value: float, than: float) -> bool:
        """Whether ``value`` is strictly better than ``than``; NaN never is."""
        return value < than if self is Direction.MINIMIZE else value > than

    def cost(self, value: float) -> float:
        """``value`` turned so that less is better."""
        return value if self is Direction.MINIMIZE else -value

    def best(self, values: Sequence[float]) -> float:
        """The best of ``values``; ``worst`` when there is none."""
        return min(values, key=self.cost, default=self.worst)


class TrialState(StrEnum):
    """Where a trial stands. A trial leaves RUNNING once and never changes again."""

    RUNNING = "running"
    COMPLETE = "complete"
    PRUNED = "pruned"
    INFEASIBLE = "infeasible"

    @property
    def finished(self) -> bool:
        """Whether the trial has ended."""
        return self is not TrialState.RUNNING


class Reason(StrEnum):
    """Why a trial is infeasible, or why it was stopped."""

    NON_FINITE = "non_finite"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out_of_memory"
    """Of the GPU."""
    HOST_OUT_OF_MEMORY = "host_out_of_memory"
    USER_ERROR = "user_error"
    WORKER_DIED = "worker_died"
    """More often than ``failure.max_restarts`` allows."""
    HANG = "hang"
    """No epoch finished for ``failure.heartbeat_s``."""
    TRIAL_TIMEOUT = "trial_timeout"
    """Longer than ``failure.trial_timeout_s``."""
    RUNG = "rung"
    TIMEOUT = "timeout"
    STORAGE = "storage"
    """Not the trial's fault: its checkpoint cannot be written or read. It stays as it was."""

    @property
    def of_memory(self) -> bool:
        """Whether memory ran out, the GPU's or the machine's."""
        return self in (Reason.OUT_OF_MEMORY, Reason.HOST_OUT_OF_MEMORY)


class Decision(StrEnum):
    """What a runner does with a trial that has just reported."""

    CONTINUE = "continue"
    STOP = "stop"
    PAUSE = "pause"
    """End it here without a verdict: the command is stopping and the next one resumes the trial."""


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """The most memory that a trial held at a time, beyond what its worker held before it."""

    where: str
    """``host`` or ``gpu``."""
    peak_bytes: int
    limit_bytes: int
    """What there is for all trials there."""
    held_bytes: int = 0
    """What the worker takes there beside it: what it held before (libraries, data, the GPU's context), and what its
    allocator keeps."""

    @property
    def footprint(self) -> int:
        """What the trial and its worker take together, in bytes."""
        return self.peak_bytes + self.held_bytes


@dataclass(frozen=True, slots=True)
class TrialSpec:
    """All that a worker needs to know to run one trial."""

    number: int
    """Optuna's trial number, counted from 0 over the whole sweep."""
    stage: str
    configuration: Configuration
    seed: int
    """Seed of everything random in the trial."""
    epochs: int
    """Budget: passes over the training split."""
    directory: Location
    """Where the trial keeps its checkpoint: a place that driver and workers reach."""
    save_at: tuple[int, ...] = ()
    """Epochs (from 1) after which the loop state is written; the last epoch always is."""
    keep: bool = True
    """False: write no files at all."""
    resume_from: Location | None = None
    """The same of the trial whose checkpoint this one continues, where it has none of its own."""
    timeout_s: float | None = None
    """Seconds that it may run on one worker; None: any."""
    heartbeat_s: float | None = None
    """Seconds that it may take to finish an epoch; None: any."""
    schedule_epochs: int | None = None
    """Epochs that the learning-rate schedule covers, after which the rate stays; None: the budget."""
    reported: int = 0
    """Epochs, from the first one on, that the driver has noted for good: they need not be reported again."""
    memory: tuple[MemoryUse, ...] = ()
    """The most that it is expected to take, in each place where that is known; see ``runner.pack``."""


@dataclass(frozen=True, slots=True)
class Work:
    """What an answer of a worker cost, by the worker's own clock."""

    seconds: float
    """Since it was asked."""
    fresh: bool = False
    """Whether it is the first answer of a new worker."""


@dataclass(frozen=True, slots=True)
class EpochResult:
    """What a trial reports after each epoch."""

    epoch: int
    """Epochs finished so far, from 1."""
    value: float
    """The objective on the validation split after this epoch."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Everything measured, by name (``train/loss``, ``val/accuracy``, ``seconds``)."""
    saved: bool = field(default=False, compare=False)
    """Whether a checkpoint of this epoch is durable: what was reported up to here will not be reported again."""
    note: str = field(default="", compare=False)
    """A line for the user, about how the trial was resumed; empty: nothing to say."""
    memory: tuple[MemoryUse, ...] = field(default=(), compare=False)
    """Measured since the trial began on this worker; empty: it cannot be."""
    work: Work | None = field(default=None, compare=False)
    """Filled in by the runner; None: unknown."""


class End(StrEnum):
    """How the execution of a trial ended, as a runner saw it."""

    FINISHED = "finished"
    STOPPED = "stopped"
    PAUSED = "paused"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a trial's execution."""

    end: End
    reason: Reason | None = None
    detail: str = ""
    """For FAILED: one line, then the traceback."""
    shared: bool = False
    """Memory ran out that other trials held a part of: nothing is known of the configuration."""
    work: Work | None = field(default=None, compare=False)
    """Filled in by the runner: what the answer with which it ended cost; None: unknown."""


class TrialProgram(Protocol):
    """What a runner executes: one trial as an iterator of epochs.

    It must be picklable. Closing the iterator early (``close()``) ends the trial in good order: its
    state is checkpointed. It raises :class:`~orchestrator.errors.InfeasibleTrialError` for a failure it
    can name; anything else it raises counts as the user's error.
    """

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        """Run the trial described by ``spec``, from its checkpoint if there is one."""
        ...
