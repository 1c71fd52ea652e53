"""What is counted: every epoch that is trained, by whatever method, seen from inside the task.

A method cannot forget an epoch, count one twice, or train what it does not report: the task itself notes
how many examples it was trained on and what validation gave.
"""

import json
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.importing import import_target
from orchestrator.tasks.base import Task


def recorded(target: str, log: str, **args: Any) -> Task:
    """The task ``target(**args)``, whose trainings are appended to the file ``log``."""
    kind = import_target(target, "target")
    assert isinstance(kind, type), f"{target} is not a class"
    task: Task = type(f"Recorded{kind.__name__}", (_Recorded, kind), {"log": log})(**args)
    return task


class _Recorded(Task):
    """Counts the examples of training batches; writes a line at each validation that follows some."""

    log: str
    _examples = 0

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if torch.is_grad_enabled():
            self._examples += len(targets)
        loss: Tensor = super().loss(outputs, targets, label_smoothing)  # type: ignore[safe-super]
        return loss

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        scores: dict[str, float] = super().score(predictions, targets)  # type: ignore[safe-super]
        if self._examples:
            line = {"time": time.time(), "examples": self._examples, "loss": scores[self.objective]}
            self._examples = 0
            _append(self.log, json.dumps(line) + "\n")
        return scores


def _append(path: str, line: str) -> None:
    """In one write, so that two processes do not mix their lines."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Note:
    """A line of the log."""

    time: float
    """Seconds since 1970."""
    examples: int
    """Training examples since the process's line before."""
    loss: float
    """The objective on validation; not finite if the training has diverged."""


class LogReader:
    """Reads a log that is being written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def new(self) -> Iterator[Note]:
        """The whole lines written since the last call."""
        if not self._path.exists():
            return
        with self._path.open("rb") as handle:
            handle.seek(self._offset)
            content = handle.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            yield Note(**json.loads(line))
