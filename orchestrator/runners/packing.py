"""Which trials share a card, or a machine's memory: as many as fit by what each is expected to take.

With ``runner.pack=auto`` a runner puts a :class:`Packing` between itself and the controller. A trial begins only
where there is room for all that it may take beside what those that run were given, and waits until there is; none
overtakes it. What it may take, its specification says; where that does not, it is the largest footprint of any trial
so far. A trial that runs out of memory while others hold a part of it says nothing of its configuration: it is told
as ``shared``, and goes on with the memory to itself. Only there it is infeasible.
"""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from orchestrator.runners.base import Controller
from orchestrator.types import NO_TRIAL, Decision, End, EpochResult, MemoryUse, Outcome, TrialSpec

log = logging.getLogger("orchestrator.files")

HEADROOM = 1.1
"""How many times what it is expected to take a trial is given, before any took more than that: our guess."""
GRID = 0.25
"""Steps of what is asked of Ray for a trial, in powers of two, so that workers need not be changed all the time."""


class Footprints:
    """What trials were seen to take, by where: ``host``, ``gpu``. It lasts as long as a runner.

    Args:
        host_bytes: memory of this machine that trials may take; None: it is not this machine that they run on.
    """

    def __init__(self, host_bytes: int | None = None) -> None:
        self.totals = {} if host_bytes is None else {"host": host_bytes}
        """What there is, as far as it is known: for a GPU of one card, the smallest where they differ."""
        self._largest: dict[str, int] = {}
        self._least: dict[str, int] = {}
        self._blind = False
        self._headroom = HEADROOM

    @property
    def known(self) -> bool:
        """Whether anything was measured, or a trial has ended without: then nothing can be measured here."""
        return self._blind or bool(self._largest)

    def note(self, uses: Iterable[MemoryUse], spec: TrialSpec) -> None:
        """Take in what the trial ``spec`` was seen to take since it began."""
        expected = {use.where: use.footprint for use in spec.memory}
        for use in uses:
            if use.where == "gpu":
                # A process's own part of the card, its context, is in the footprint.
                self.totals["gpu"] = min(use.limit_bytes, self.totals.get("gpu", use.limit_bytes))
            if use.footprint > self._headroom * expected.get(use.where, math.inf):
                self._headroom = use.footprint / expected[use.where]
                log.info("a trial takes %.3g times the memory expected: others get as much", self._headroom)
            self._least[use.where] = min(use.footprint, self._least.get(use.where, use.footprint))
            if use.footprint > self._largest.get(use.where, 0):
                self._largest[use.where] = use.footprint
                log.info("a trial takes %.3g GB, %s: the most so far", use.footprint / 1e9, use.where)

    def ended(self) -> None:
        """A trial has ended."""
        self._blind = not self._largest

    def expected(self, spec: TrialSpec | None) -> dict[str, int]:
        """Bytes to give to a trial, by where; empty: nothing is known. None: the least that any may get."""
        if spec is None:
            return {where: int(least) for where, least in self._least.items()}
        found = {**self._largest, **{use.where: use.footprint for use in spec.memory if use.where in self._largest}}
        return {where: int(self._headroom * footprint) for where, footprint in found.items()}


Given = TypeVar("Given")


class Places(Protocol[Given]):
    """Where trials run, and what each of them is given there."""

    footprints: Footprints

    def given(self, spec: TrialSpec | None, alone: bool = False) -> Given:
        """What a trial gets that begins now; None: the least that any may get.

        Args:
            spec: what it is expected to take.
            alone: all memory of a card, or of a machine.
        """
        ...

    def measured(self, given: Given, spec: TrialSpec) -> Given:
        """What a running trial holds that was ``given`` something, and is now seen to take what ``spec`` says."""
        ...

    def fit(self, given: Sequence[Given]) -> bool:
        """Whether trials that are ``given`` so much fit at a time."""
        ...

    def shared(self, given: Given) -> bool:
        """Whether others may hold a part of the memory where a trial is that is ``given`` so much."""
        ...


class Packing(Generic[Given]):
    """Holds back what does not fit, measures trials, and says which ran out of memory because of others; see
    :class:`~orchestrator.runners.base.Controller`.
    """

    def __init__(self, controller: Controller, places: Places[Given]) -> None:
        self._controller = controller
        self._places = places
        self.running: dict[int, Given] = {}
        """What each trial is given that runs."""
        self._specs: dict[int, TrialSpec] = {}
        self._alone: set[int] = set()
        """Trials that have run out of memory with others, and go on without."""
        self._together: set[int] = set()
        """Trials that run, and have run with others."""
        self._waiting: TrialSpec | None = None
        self._pausing = False

    def ask(self) -> TrialSpec | None:
        """The next trial, if it fits beside those that run. None is asked for where not even a small one would."""
        if self._waiting is None and not self._fits(self._places.given(None)):
            return None
        spec, self._waiting = self._waiting or self._controller.ask(), None
        if spec is None:
            return None
        given = self._places.given(spec, spec.number in self._alone)
        if not self._fits(given):
            self._waiting = spec
            return None
        if self._pausing:
            self._controller.tell(spec.number, Outcome(End.PAUSED))
            return None
        self.running[spec.number], self._specs[spec.number] = given, spec
        if len(self.running) > 1:
            self._together |= {number for number, other in self.running.items() if self._places.shared(other)}
        return spec

    def _fits(self, given: Given) -> bool:
        # What is larger than all there is is tried by itself: it may fit all the same.
        return not self.running or self._places.fit([*self.running.values(), given])

    def report(self, number: int, result: EpochResult) -> Decision:
        """See :class:`~orchestrator.runners.base.Controller`."""
        if result.memory:
            spec = self._specs[number]
            self._places.footprints.note(result.memory, spec)
            self._specs[number] = spec = replace(spec, memory=_larger(spec.memory, result.memory))
            if number not in self._alone:
                self.running[number] = self._places.measured(self.running[number], spec)
        decision = self._controller.report(number, result)
        self._pausing |= decision is Decision.PAUSE
        return decision

    def tell(self, number: int, outcome: Outcome) -> None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        del self.running[number], self._specs[number]
        of_memory = outcome.reason is not None and outcome.reason.of_memory
        if of_memory and number in self._together and number not in self._alone:
            self._alone.add(number)
            detail = f"memory ran out of which others held a part: {outcome.detail}"
            outcome = replace(outcome, shared=True, detail=detail)
        self._together.discard(number)
        if number != NO_TRIAL:
            self._places.footprints.ended()
        self._controller.tell(number, outcome)

    def commit(self) -> None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        self._controller.commit()


def _larger(expected: Iterable[MemoryUse], seen: Iterable[MemoryUse]) -> tuple[MemoryUse, ...]:
    """In each place the larger of both."""
    found: dict[str, MemoryUse] = {}
    for use in (*expected, *seen):
        found[use.where] = max(use, found.get(use.where, use), key=lambda each: each.footprint)
    return tuple(found.values())


class Machine:
    """See :class:`Places`: one machine, with one card at most that all trials see.

    Args:
        host_bytes: its memory for trials.
    """

    def __init__(self, host_bytes: int) -> None:
        self.footprints = Footprints(host_bytes)

    def given(self, spec: TrialSpec | None, alone: bool = False) -> Mapping[str, int] | None:
        """See :class:`Places`. Bytes by where; None: everything, also as long as nothing is known."""
        return None if alone or not self.footprints.known else self.footprints.expected(spec)

    def measured(self, given: Mapping[str, int] | None, spec: TrialSpec) -> Mapping[str, int] | None:
        """See :class:`Places`."""
        return self.given(spec)

    def fit(self, given: Sequence[Mapping[str, int] | None]) -> bool:
        """See :class:`Places`."""
        totals = self.footprints.totals.items()
        parts = [each for each in given if each is not None]
        if len(parts) < len(given):
            return len(given) == 1
        return all(sum(part.get(where, 0) for part in parts) <= total for where, total in totals)

    def shared(self, given: Mapping[str, int] | None) -> bool:
        """See :class:`Places`."""
        return given is not None


def grid(need: int) -> int:
    """``need`` bytes rounded up to a step of the grid."""
    return max(need, int(2 ** (math.ceil(math.log2(need) / GRID) * GRID)))


SHARES = 24
"""A card is divided into so many parts, or into equal ones: our guess."""


def share(part: float) -> float:
    """A share of a card, rounded up so that there are few kinds of workers, and a card holds as many equal ones."""
    found = min(math.ceil(SHARES * part) / SHARES, 1 / max(1, math.floor(1 / max(part, 1e-4) + 1e-9)))
    # Ray counts in steps of 1/10,000, and three times a third must not be more than a card.
    return math.floor(1e4 * found + 1e-6) / 1e4


def free_memory() -> int:
    """Bytes of this machine, or of what its container may use, that are free."""
    free = 1024 * int(_read(Path("/proc/meminfo"))["MemAvailable:"])
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        # Files that the kernel may forget; Kubernetes counts the same.
        used -= int(_read(group / "memory.stat")["inactive_file"])
    except OSError:
        # No control group limits us.
        return free
    return min(free, int(limit) - used) if limit.isdigit() else free


def _read(path: Path) -> dict[str, str]:
    """The first value of each name in a table of the kernel's."""
    lines = (line.split() for line in path.read_text(encoding="ascii").splitlines())
    return {words[0]: words[1] for words in lines}
