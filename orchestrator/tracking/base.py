"""The door to where results are reviewed. Calls return at once; nothing here may stop a trial."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from orchestrator.types import Value

SWEEP = "sweep"
"""Key of the run at the top of the tree."""


def stage_key(stage: str) -> str:
    """Key of a stage's run."""
    return f"stage:{stage}"


def trial_key(number: int) -> str:
    """Key of a trial's run."""
    return f"trial:{number}"


def is_trial(key: str) -> bool:
    """Whether ``key`` is a trial's. A trial that has ended never changes; a stage or a sweep may go on."""
    return key.startswith("trial:")


class Tracker(Protocol):
    """A tree of runs, addressed by keys that are the same after a restart.

    Every call may be repeated: what is already written is not written again. A parent begins before
    its children.
    """

    def begin(
        self, key: str, parent: str | None, name: str, params: Mapping[str, Value], tags: Mapping[str, str]
    ) -> None:
        """A run has started, or goes on."""
        ...

    def log(self, key: str, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of ``step`` (an epoch, from 1); steps of a run rise."""
        ...

    def artifact(self, key: str, name: str, text: str) -> None:
        """A text file of a run."""
        ...

    def file(self, key: str, folder: str, path: Path) -> None:
        """The file ``path``, as it is when it is written, for the folder ``folder`` of a run's artifacts."""
        ...

    def end(self, key: str, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """A run has ended: ``FINISHED``, ``FAILED`` or ``KILLED``; ``metrics`` sum it up."""
        ...

    def close(self) -> int:
        """Write what is left; returns how many events could not be written."""
        ...
