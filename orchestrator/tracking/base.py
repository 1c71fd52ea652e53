"""The door to where results are reviewed. Calls return at once; nothing here may stop a trial."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from orchestrator.types import Value

SWEEP = "sweep"
"""Key of the run at the top of the tree."""
NOTE = "mlflow.note.content"
"""The tag that MLflow shows as a run's description, in Markdown."""

_LINK = re.compile(r"\[([^\]]*)\]\(run:([^)\s]+)\)")


def link(key: str, text: str) -> str:
    """A Markdown link to the run ``key``, for a tag; the tracker puts in the address when it knows it."""
    return f"[{text}](run:{key})"


def has_link(text: str) -> bool:
    """Whether ``text`` holds a :func:`link`."""
    return _LINK.search(text) is not None


def resolve_links(text: str, address: Callable[[str], str | None]) -> str:
    """``text`` with every :func:`link` led to ``address(key)``; where that is None only the words stay."""

    def resolved(found: re.Match[str]) -> str:
        where = address(found[2])
        return found[1] if where is None else f"[{found[1]}]({where})"

    return _LINK.sub(resolved, text)


@dataclass(frozen=True)
class DatasetEntry:
    """A data set that a run used."""

    name: str
    digest: str
    """Changes when the data does; at most 36 characters (MLflow's limit)."""
    source: str
    """Where it comes from: the import path of the task that makes it."""
    context: str
    """What it was used for: training, validation, test."""
    profile: Mapping[str, Value] = field(default_factory=dict)
    """Facts for people: how many examples, which shapes."""


@dataclass(frozen=True)
class ModelEntry:
    """A trained model that came of a run."""

    name: str
    """Unique within the run: a model of that name is written once."""
    params: Mapping[str, Value]
    tags: Mapping[str, str]
    files: tuple[Path, ...]
    """Weights and configuration, as they are when they are written."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    package: Path | None = None
    """Folder from which it can be loaded elsewhere (see orchestrator/serving/package.py); None: files only."""
    registered: str = ""
    """Name in the registry of models, of which this becomes a version; empty: not registered."""


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
    its children. Tags may hold links to other runs (:func:`link`).
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

    def dataset(self, key: str, entry: DatasetEntry) -> None:
        """A data set of a run."""
        ...

    def model(self, key: str, entry: ModelEntry) -> None:
        """A model that came of a run."""
        ...

    def end(self, key: str, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """A run has ended: ``FINISHED``, ``FAILED`` or ``KILLED``; ``metrics`` sum it up."""
        ...

    def close(self) -> int:
        """Write what is left; returns how many events could not be written."""
        ...
