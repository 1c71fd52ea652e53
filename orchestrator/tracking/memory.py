"""Trackers that need no server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.tracking.base import DatasetEntry, ModelEntry, is_trial
from orchestrator.types import Value


class NullTracker:
    """``tracking=none``: forgets everything. See :class:`~orchestrator.tracking.base.Tracker`."""

    def begin(
        self, key: str, parent: str | None, name: str, params: Mapping[str, Value], tags: Mapping[str, str]
    ) -> None:
        """Forget it."""

    def log(self, key: str, step: int, metrics: Mapping[str, float]) -> None:
        """Forget it."""

    def artifact(self, key: str, name: str, text: str) -> None:
        """Forget it."""

    def file(self, key: str, folder: str, path: Path) -> None:
        """Forget it."""

    def dataset(self, key: str, entry: DatasetEntry) -> None:
        """Forget it."""

    def model(self, key: str, entry: ModelEntry) -> None:
        """Forget it."""

    def end(self, key: str, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Forget it."""

    def close(self) -> int:
        """Nothing is left."""
        return 0


@dataclass
class MemoryRun:
    """One run of a :class:`MemoryTracker`."""

    name: str
    parent: str | None
    params: dict[str, Value]
    tags: dict[str, str]
    steps: dict[int, dict[str, float]] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    datasets: dict[str, DatasetEntry] = field(default_factory=dict)
    models: dict[str, ModelEntry] = field(default_factory=dict)
    status: str = "RUNNING"


class MemoryTracker:
    """Keeps the tree in a dictionary, for tests and for looking at it from Python."""

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}

    def begin(
        self, key: str, parent: str | None, name: str, params: Mapping[str, Value], tags: Mapping[str, str]
    ) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        run = self.runs.setdefault(key, MemoryRun(name, parent, dict(params), {}))
        if not self._final(key):
            run.status = "RUNNING"
            run.tags.update(tags)

    def log(self, key: str, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        if not self._final(key):
            self.runs[key].steps.setdefault(step, dict(metrics))

    def artifact(self, key: str, name: str, text: str) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        if not self._final(key):
            self.runs[key].artifacts[name] = text

    def file(self, key: str, folder: str, path: Path) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        if not self._final(key):
            self.runs[key].files[f"{folder}/{path.name}"] = path.read_bytes()

    def dataset(self, key: str, entry: DatasetEntry) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        if not self._final(key):
            self.runs[key].datasets.setdefault(entry.name, entry)

    def model(self, key: str, entry: ModelEntry) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        if not self._final(key):
            self.runs[key].models.setdefault(entry.name, entry)

    def end(self, key: str, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        if not self._final(key):
            run = self.runs[key]
            run.status = status
            run.metrics.update(metrics)
            run.tags.update(tags)

    def _final(self, key: str) -> bool:
        return is_trial(key) and self.runs[key].status != "RUNNING"

    def close(self) -> int:
        """Nothing is left."""
        return 0
