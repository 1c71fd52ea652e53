"""Which checkpoints a sweep keeps: those of running trials and of the best finished ones, within a cap."""

import logging
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from orchestrator.stores import below, make, store_at
from orchestrator.study.records import TrialRecord, ranked
from orchestrator.training import checkpoint
from orchestrator.types import Direction, Location, TrialState

log = logging.getLogger("orchestrator.files")


class CheckpointStore:
    """The checkpoints of a sweep, in a folder for each trial. The one door to them for whoever reads one."""

    def __init__(self, location: Location, *, keep: int, disk_gb: float, direction: Direction) -> None:
        make(location)
        self._location = location
        self._keep = keep
        self._bytes = disk_gb * 1e9
        self._direction = direction
        self._sizes: dict[int, int] = {
            int(folder): size for folder, size in store_at(location).sizes(checkpoint.NAME).items()
        }
        self._needless: list[tuple[int, str]] = []
        self._ended: list[int] = []
        """Trials that need only their last checkpoint from now on."""

    def location(self, number: int) -> Location:
        """Where trial ``number`` keeps its checkpoint."""
        return below(self._location, f"{number:06d}")

    def load(self, number: int) -> dict[str, Any]:
        """The state that trial ``number`` saved last, on the CPU; see :func:`orchestrator.training.checkpoint.load`.

        Raises:
            StorageError: it is damaged, or cannot be read.
        """
        return checkpoint.load(self.location(number))

    def has(self, number: int) -> bool:
        """Whether the checkpoint of ``number`` is there."""
        return number in self._sizes

    def ended(self, record: TrialRecord, records: Sequence[TrialRecord], kept: Collection[int] = ()) -> None:
        """A trial has ended: apply the policy to all; :meth:`remove_needless` makes it so.

        Args:
            record: the trial.
            records: all of the sweep, in the order of their numbers.
            kept: trials whose checkpoint stays whatever they are worth.
        """
        self._ended.append(record.number)
        size = store_at(self.location(record.number)).size(checkpoint.NAME)
        if size is None:
            return
        self._sizes[record.number] = size
        if record.state is TrialState.INFEASIBLE:
            self._remove(record.number, f"trial ended {record.state}")
            return
        if record.parent in self._sizes:
            self._remove(record.parent, f"continued by trial {record.number}")
        self._thin_stopped([records[number] for number in self._sizes])
        best = [other.number for other in ranked((records[n] for n in self._sizes), self._direction)]
        for number in best[self._keep :]:
            if number not in kept:
                self._remove(number, f"not among the best {self._keep}")
        left = best[: self._keep]
        while len(left) > 1 and sum(self._sizes.values()) > self._bytes:
            if (last := left.pop()) not in kept:
                self._remove(last, f"checkpoints exceed trainer.disk_gb={self._bytes / 1e9:g}")

    def _thin_stopped(self, records: Iterable[TrialRecord]) -> None:
        """Of the trials that were stopped and may be continued keep the best."""
        stopped = [r for r in records if r.state is TrialState.PRUNED]
        costs = {record.number: self._direction.cost(record.value or 0.0) for record in stopped}
        for number in sorted(costs, key=lambda n: (costs[n], n))[self._keep :]:
            self._remove(number, f"not among the best {self._keep} that were stopped")

    def tidy(self, records: Iterable[TrialRecord]) -> None:
        """Remove what a worker wrote after its trial was told: call it when none is left."""
        found = {int(folder): size for folder, size in store_at(self._location).sizes(checkpoint.NAME).items()}
        for record in records:
            if record.state.finished and record.number not in self._sizes and record.number in found:
                self._sizes[record.number] = found[record.number]
                self._remove(record.number, f"written after the trial ended {record.state}")
        self.remove_needless()

    def _remove(self, number: int, why: str) -> None:
        del self._sizes[number]
        self._needless.append((number, why))

    def remove_needless(self) -> None:
        """Remove what is not kept: once the ends of the trials that decided so cannot be lost. The log says what went
        and why."""
        ended, self._ended = self._ended, []
        for number in ended:
            store_at(self.location(number)).remove(checkpoint.PREVIOUS)
        needless, self._needless = self._needless, []
        for number, why in needless:
            checkpoint.remove(self.location(number))
            log.info("removed the checkpoint of trial %d: %s", number, why)
