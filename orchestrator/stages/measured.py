"""What was measured after each epoch of each trial: a file of lines for each trial, beside its checkpoint."""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

from orchestrator.files import Lines
from orchestrator.types import EpochResult

log = logging.getLogger("orchestrator.files")

METRICS_FILE = "metrics.jsonl"


class MeasuredEpochs:
    """The files of a sweep.

    A line is durable once a checkpoint of its epoch is, after the next :meth:`commit`, and so are those before it: a
    power loss takes only what the trial reports again when it goes on. That is one fsync for each checkpoint instead
    of one for each epoch.

    Args:
        folder: with a folder for each trial.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lines = Lines()
        self._loose: set[int] = set()
        """Trials with lines that are not durable yet."""

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}" / METRICS_FILE

    def add(self, number: int, result: EpochResult) -> None:
        """Append an epoch of trial ``number``.

        Raises:
            StorageError: it cannot be written.
        """
        line = json.dumps({"epoch": result.epoch, **result.metrics})
        self._lines.append(self._path(number), line, due=result.saved)
        (self._loose.discard if result.saved else self._loose.add)(number)

    def keep(self, number: int) -> None:
        """The next :meth:`commit` makes durable all that was added of trial ``number``."""
        if number in self._loose:
            self._lines.due(self._path(number))
            self._loose.remove(number)

    def commit(self) -> None:
        """Make durable what is to be.

        Raises:
            StorageError: it cannot be written.
        """
        self._lines.sync()

    def epochs(self, number: int) -> Iterator[tuple[int, Mapping[str, float]]]:
        """Epoch and metrics of trial ``number``, in the order in which they were added.

        Half a line at the end is not there yet; a damaged one is left out, and the log says so: the objective of
        every epoch is in the study, and the other metrics decide nothing.
        """
        path = self._path(number)
        if not path.exists():
            return
        content = path.read_bytes()
        for at, line in enumerate(content[: content.rfind(b"\n") + 1].splitlines(), start=1):
            try:
                values = json.loads(line)
                epoch = values.pop("epoch")
            except (ValueError, KeyError, AttributeError, TypeError):
                log.warning("%s: line %d is damaged and left out", path, at)
                continue
            yield epoch, values

    def has(self, number: int, epoch: int) -> bool:
        """Whether that epoch of trial ``number`` is there."""
        return any(at == epoch for at, _ in self.epochs(number))
