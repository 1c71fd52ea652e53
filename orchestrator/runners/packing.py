"""How many trials share a card, or a machine's memory: as many as fit by what they were seen to take.

With ``runner.pack=auto`` a runner puts a :class:`Packing` between itself and the controller. The largest footprint
of any trial so far counts, because the next one may be as large. A trial that runs out of memory while others hold a
part of it says nothing of its configuration: it is told as ``shared``, and goes on with the memory to itself. Only
there it is infeasible.
"""

import logging
import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from orchestrator.runners.base import Controller
from orchestrator.types import NO_TRIAL, Decision, EpochResult, MemoryUse, Outcome, TrialSpec

log = logging.getLogger("orchestrator.files")

HEADROOM = 1.1
"""How much more than the largest footprint each trial is given: our guess."""
GRID = 0.25
"""Steps of what is asked of Ray for a trial, in powers of two, so that workers need not be changed all the time."""


class Footprints:
    """What trials were seen to take, by where: ``host``, ``gpu``. It lasts as long as a runner.

    Args:
        first: trials at a time before anything is measured.
        host_bytes: memory of this machine that trials may take; None: it is not this machine that they run on.
    """

    def __init__(self, first: int, host_bytes: int | None = None) -> None:
        self._first = first
        self._totals = {} if host_bytes is None else {"host": host_bytes}
        self._largest: dict[str, int] = {}
        self._blind = False
        self._told: int | None = first

    def note(self, uses: Iterable[MemoryUse]) -> None:
        """Take in what a trial has measured."""
        for use in uses:
            if use.where == "gpu":
                # The smallest card, where they differ.
                total = use.limit_bytes + use.held_bytes
                self._totals["gpu"] = min(total, self._totals.get("gpu", total))
            before = self._largest.get(use.where, 0)
            if use.footprint > before:
                self._largest[use.where] = use.footprint
                if (fit := self.at_once()) != self._told:
                    log.info("a trial takes %.3g GB, %s; at a time fit: %s", use.footprint / 1e9, use.where, fit)
                    self._told = fit

    def ended(self) -> None:
        """A trial has ended. If none has measured anything by then, nothing can be measured here."""
        self._blind = not self._largest

    def need(self, where: str) -> int | None:
        """Bytes for a trial there; None: unknown."""
        largest = self._largest.get(where)
        return None if largest is None else int(HEADROOM * largest)

    def at_once(self) -> int | None:
        """How many trials fit on a card and in this machine's memory; None: any number, for all that is known."""
        if self._blind:
            return None
        if not self._largest:
            return self._first
        fit = [total // need for where, total in self._totals.items() if (need := self.need(where))]
        return max(1, min(fit)) if fit else None


class Packing:
    """Measures trials, and says which ran out of memory because of others; see
    :class:`~orchestrator.runners.base.Controller`.
    """

    def __init__(self, controller: Controller, footprints: Footprints) -> None:
        self._controller = controller
        self._footprints = footprints
        self.running: set[int] = set()
        self.alone: set[int] = set()
        """Trials that have run out of memory with others, and go on without."""
        self._together: set[int] = set()
        """Trials that run, and have run with others."""

    def ask(self) -> TrialSpec | None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        spec = self._controller.ask()
        if spec is not None:
            self._begin(spec.number)
        return spec

    def _begin(self, number: int) -> None:
        self.running.add(number)
        if len(self.running) > 1 and self._footprints.at_once() != 1:
            self._together |= self.running - self.alone

    def report(self, number: int, result: EpochResult) -> Decision:
        """See :class:`~orchestrator.runners.base.Controller`."""
        self._footprints.note(result.memory)
        return self._controller.report(number, result)

    def tell(self, number: int, outcome: Outcome) -> None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        self.running.discard(number)
        of_memory = outcome.reason is not None and outcome.reason.of_memory
        if of_memory and number in self._together:
            self.alone.add(number)
            detail = f"memory ran out of which others held a part: {outcome.detail}"
            outcome = replace(outcome, shared=True, detail=detail)
        self._together.discard(number)
        if number != NO_TRIAL:
            self._footprints.ended()
        self._controller.tell(number, outcome)

    def commit(self) -> None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        self._controller.commit()


class OneMachine(Packing):
    """The same for a runner that leaves places to us: trials wait here until they fit beside those that run."""

    def __init__(self, controller: Controller, footprints: Footprints) -> None:
        super().__init__(controller, footprints)
        self._waiting: TrialSpec | None = None

    def ask(self) -> TrialSpec | None:
        """The next trial, if there is one that fits now."""
        most = self._footprints.at_once()
        if self.running & self.alone or (most is not None and len(self.running) >= most):
            return None
        spec = self._waiting or self._controller.ask()
        if spec is not None and spec.number in self.alone and self.running:
            self._waiting = spec
            return None
        self._waiting = None
        if spec is not None:
            self._begin(spec.number)
        return spec


def grid(need: int) -> int:
    """``need`` bytes rounded up to a step of the grid."""
    return max(need, int(2 ** (math.ceil(math.log2(need) / GRID) * GRID)))


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
