"""Which checkpoints a sweep keeps: those of running trials and of the best finished ones, within a cap."""

import logging
from collections.abc import Collection, Iterable
from pathlib import Path

from orchestrator.study.records import TrialRecord, ranked
from orchestrator.training import checkpoint
from orchestrator.types import Direction, TrialState

log = logging.getLogger("orchestrator.files")


class CheckpointStore:
    """The folders ``trials/NUMBER`` of a sweep."""

    def __init__(self, folder: Path, *, keep: int, disk_gb: float, direction: Direction) -> None:
        self._folder = folder
        self._keep = keep
        self._bytes = disk_gb * 1e9
        self._direction = direction
        self._sizes: dict[int, int] = {
            int(path.parent.name): path.stat().st_size for path in folder.glob(f"*/{checkpoint.NAME}")
        }

    def folder(self, number: int) -> Path:
        """Where trial ``number`` keeps its files."""
        return self._folder / f"{number:06d}"

    def has(self, number: int) -> bool:
        """Whether the checkpoint of ``number`` is there."""
        return number in self._sizes

    def ended(self, record: TrialRecord, records: Iterable[TrialRecord], kept: Collection[int] = ()) -> None:
        """A trial has ended: apply the policy to all. The log says what went and why.

        Args:
            record: the trial.
            records: all of the sweep.
            kept: trials whose checkpoint stays whatever they are worth.
        """
        path = self.folder(record.number) / checkpoint.NAME
        if not path.exists():
            return
        self._sizes[record.number] = path.stat().st_size
        if record.state is TrialState.INFEASIBLE:
            self._remove(record.number, f"trial ended {record.state}")
            return
        if record.parent in self._sizes:
            self._remove(record.parent, f"continued by trial {record.number}")
        self._thin_stopped(records)
        best = [other.number for other in ranked(records, self._direction) if other.number in self._sizes]
        for number in best[self._keep :]:
            if number not in kept:
                self._remove(number, f"not among the best {self._keep}")
        left = best[: self._keep]
        while len(left) > 1 and sum(self._sizes.values()) > self._bytes:
            if (last := left.pop()) not in kept:
                self._remove(last, f"checkpoints exceed trainer.disk_gb={self._bytes / 1e9:g}")

    def _thin_stopped(self, records: Iterable[TrialRecord]) -> None:
        """Of the trials that were stopped and may be continued keep the best."""
        stopped = [r for r in records if r.state is TrialState.PRUNED and r.number in self._sizes]
        costs = {record.number: self._direction.cost(record.value or 0.0) for record in stopped}
        for number in sorted(costs, key=lambda n: (costs[n], n))[self._keep :]:
            self._remove(number, f"not among the best {self._keep} that were stopped")

    def tidy(self, records: Iterable[TrialRecord]) -> None:
        """Remove what a worker wrote after its trial was told: call it when none is left."""
        for record in records:
            path = self.folder(record.number) / checkpoint.NAME
            if record.state.finished and record.number not in self._sizes and path.exists():
                self._sizes[record.number] = path.stat().st_size
                self._remove(record.number, f"written after the trial ended {record.state}")

    def _remove(self, number: int, why: str) -> None:
        (self.folder(number) / checkpoint.NAME).unlink(missing_ok=True)
        del self._sizes[number]
        log.info("removed the checkpoint of trial %d: %s", number, why)
