"""What the workers' time went into, from what a controller sees: trials begun, epochs reported, trials told.

Every second of every worker is in exactly one :class:`Use`, whatever the runner: what a worker did between two
events it says itself (:class:`~orchestrator.types.Work`), and the rest of that time it waited.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.progress import duration
from orchestrator.types import EpochResult, Outcome, Reason


class Use(StrEnum):
    """What a worker's time goes into."""

    BUSY = "busy"
    """Training, evaluating, reading and writing checkpoints."""
    START_UP = "start_up"
    """The runner and the worker start: processes, imports."""
    PROPOSAL = "proposal"
    """It is free, and the driver works out what to try."""
    DRIVER = "driver"
    """It has answered, or is free, and the driver is at something else: another worker's report, the study, files."""
    RESTARTS = "restarts"
    """Work that was lost with its worker or ended at a time limit, another worker's start for it, and epochs trained
    once more."""
    IDLE = "idle"
    """There is nothing to begin: others must end first."""


LOST = (Reason.WORKER_DIED, Reason.HANG, Reason.TRIAL_TIMEOUT)
"""Ends of a trial by which its last work is lost with its worker."""


WORDS = {
    Use.START_UP: "start-up",
    Use.PROPOSAL: "waiting for a proposal",
    Use.DRIVER: "waiting for the driver",
    Use.RESTARTS: "restarts",
    Use.IDLE: "nothing to begin",
}
"""What is said of the uses that are no work."""


def shares(spent: Mapping[str, float]) -> dict[str, float]:
    """Shares of the workers' time by use, from 0 to 1, in the order of :class:`Use`; empty without any time.

    Args:
        spent: seconds by use.
    """
    total = sum(spent.values())
    return {use.value: spent.get(use.value, 0.0) / total for use in Use} if total > 0 else {}


def describe(workers: Sequence[Mapping[str, float]], seconds: float) -> str:
    """One line on the time of ``workers`` (seconds by use, each) during ``seconds``; empty without any."""
    part = shares(added(workers))
    if not part:
        return ""
    lost = ", ".join(f"{words} {part[use]:.1%}" for use, words in WORDS.items() if part[use] >= 0.0005)
    each = [shares(worker).get(Use.BUSY, 0.0) for worker in workers]
    spread = f"; each {min(each):.0%} to {max(each):.0%}" if len(each) > 1 else ""
    count = f"{len(workers)} workers" if len(workers) > 1 else "1 worker"
    return f"{count} for {duration(seconds)}: busy {part[Use.BUSY]:.1%}{spread}" + (f" ({lost})" if lost else "")


def added(workers: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Seconds by use, summed over the workers."""
    return {use.value: sum(worker.get(use.value, 0.0) for worker in workers) for use in Use}


@dataclass
class _Slot:
    """A place for one trial at a time; the process behind it may change."""

    since: float
    """Up to when its time is accounted for."""
    use: Use = Use.START_UP
    """What it is in meanwhile, while it is free."""
    number: int | None = None
    """Its trial."""
    spent: dict[Use, float] = field(default_factory=lambda: dict.fromkeys(Use, 0.0))

    def account(self, use: Use, now: float) -> None:
        self.spent[use] += now - self.since
        self.since = now


class Utilisation:
    """A meter that a controller keeps.

    Args:
        workers: how many trials run at a time; more are counted as they appear.
        clock: seconds, of the runner's trials.
        began: when the runner began to start; None: now.
    """

    def __init__(self, workers: int, clock: Callable[[], float] = time.monotonic, began: float | None = None) -> None:
        self._clock = clock
        self.began = clock() if began is None else began
        self._slots = [_Slot(self.began) for _ in range(workers)]
        self._of: dict[int, _Slot] = {}
        self._reached: dict[int, int] = {}
        self._lost: set[int] = set()

    @contextmanager
    def proposing(self) -> Iterator[None]:
        """Around the search for a trial to begin: the free workers wait for it."""
        free = [slot for slot in self._slots if slot.number is None]
        now = self._clock()
        for slot in free:
            slot.account(slot.use, now)
        try:
            yield
        finally:
            now = self._clock()
            for slot in free:
                slot.account(Use.PROPOSAL, now)

    def nothing_to_begin(self) -> None:
        """The search gave nothing."""
        self._leave_free(Use.IDLE)

    def begin(self, number: int) -> None:
        """Trial ``number`` takes a free worker."""
        slot = next((slot for slot in self._slots if slot.number is None), None)
        if slot is None:
            slot = _Slot(self._clock())
            self._slots.append(slot)
        slot.number = number
        self._of[number] = slot
        self._leave_free(Use.DRIVER)

    def _leave_free(self, use: Use) -> None:
        for slot in self._slots:
            if slot.number is None:
                slot.use = use

    @contextmanager
    def reporting(self, number: int, result: EpochResult) -> Iterator[None]:
        """Around the driver's work on a report of trial ``number``."""
        slot, again = self._of[number], result.epoch <= self._reached.get(number, 0)
        self._reached[number] = max(result.epoch, self._reached.get(number, 0))
        seconds, fresh = (None, False) if result.work is None else (result.work.seconds, result.work.fresh)
        self._worked(slot, seconds, fresh, Use.RESTARTS if again and number in self._lost else Use.BUSY)
        if not again:
            self._lost.discard(number)
        try:
            yield
        finally:
            slot.account(Use.DRIVER, self._clock())

    @contextmanager
    def ending(self, number: int, outcome: Outcome) -> Iterator[None]:
        """Around the driver's work on the end of trial ``number``; its worker is free."""
        slot = self._of.pop(number)
        lost = outcome.reason in LOST or outcome.shared
        if lost:
            self._lost.add(number)
        else:
            self._lost.discard(number)
            self._reached.pop(number, None)
        seconds, fresh = (None, False) if outcome.work is None else (outcome.work.seconds, outcome.work.fresh)
        self._worked(slot, seconds, fresh, Use.RESTARTS if lost else Use.BUSY)
        slot.number, slot.use = None, Use.DRIVER
        try:
            yield
        finally:
            slot.account(Use.DRIVER, self._clock())

    def _worked(self, slot: _Slot, seconds: float | None, fresh: bool, use: Use) -> None:
        """Divide the time up to now between the worker's own work and its wait before or behind it."""
        now = self._clock()
        waited = 0.0 if seconds is None else max(0.0, now - slot.since - seconds)
        again = slot.number in self._lost
        before = (Use.RESTARTS if again else Use.START_UP) if fresh else Use.DRIVER
        slot.account(before, slot.since + waited)
        slot.account(use, now)

    @property
    def seconds(self) -> float:
        """Since the runner began to start."""
        return self._clock() - self.began

    @property
    def workers(self) -> Sequence[Mapping[str, float]]:
        """Seconds by use that each worker has spent, up to its last event."""
        return [{use.value: spent for use, spent in slot.spent.items()} for slot in self._slots]

    def settle(self) -> None:
        """Account for the time of the free workers up to now."""
        now = self._clock()
        for slot in self._slots:
            if slot.number is None:
                slot.account(slot.use, now)
