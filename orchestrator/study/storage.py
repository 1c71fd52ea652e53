"""Where the study lives by default: an Optuna journal file. (A database server: :mod:`orchestrator.study.server`.)

The journal file is the default because it is fast (``benchmarks/storage.py``) and needs no server. Its
one weakness is mended here: after a kill in the middle of a write its last line is half a line, which
Optuna skips once and then trips over for ever after the next append. Opening it for writing cuts the
half line off and drops the lock that the killed process left. This is safe because the sweep's own
lock admits a single writer.

A single writer also needs no lock file, and need not wait for the disk at each change: what is written
outlives the process at once, and a power cut after :meth:`Journal.commit`.
"""

import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import BaseJournalBackend

from orchestrator.errors import StorageError
from orchestrator.files import cut_half_line, storing, sync

Storage = BaseStorage
"""What a study is kept in."""


def open_journal(path: Path, *, writable: bool) -> BaseStorage:
    """The journal at ``path``: mended first if it is to be written, else as it is now, for reading only.

    Raises:
        StorageError: a line before the last is unreadable: the file was damaged, not cut short.
    """
    if not writable:
        return JournalStorage(Snapshot(path))
    mend_journal(path)
    return Journal(_JournalFile(path))


def commit(storage: Storage) -> None:
    """Make every change so far outlive a power cut. A server has done so already; memory never does.

    Raises:
        StorageError: it cannot be written.
    """
    if isinstance(storage, Journal):
        storage.commit()


def memory_storage() -> BaseStorage:
    """A storage that is gone with the process."""
    return InMemoryStorage()


class _JournalFile(BaseJournalBackend):
    """The file of Optuna's ``JournalFileBackend``, kept open by its only writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with storing(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            weakref.finalize(self, os.close, self._file)
            sync(path.parent)
        self._read = 0
        """Lines read so far, and bytes."""
        self._offset = 0
        self._synced = True

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from that number on."""
        if log_number_from < self._read:
            self._read = self._offset = 0
        content = os.pread(self._file, os.fstat(self._file).st_size - self._offset, self._offset)
        for line in content[: content.rfind(b"\n") + 1].splitlines(keepends=True):
            self._read += 1
            self._offset += len(line)
            if self._read > log_number_from:
                yield json.loads(line)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write: from now on it outlives the process.

        Raises:
            StorageError: it cannot be written; what there is of it is cut off when the sweep is opened again.
        """
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._synced = False
        with storing(self._path):
            while content:
                content = content[os.write(self._file, content) :]

    def sync(self) -> None:
        """From now on what was written outlives a power cut too.

        Raises:
            StorageError: it cannot be written.
        """
        if not self._synced:
            with storing(self._path):
                os.fsync(self._file)
            self._synced = True


class Journal(JournalStorage):
    """Optuna's storage in a journal file, whose changes are made durable many at a time."""

    def __init__(self, file: _JournalFile) -> None:
        super().__init__(file)
        self._file = file

    def commit(self) -> None:
        """See :func:`commit`."""
        self._file.sync()


class Snapshot(BaseJournalBackend):
    """A journal's whole lines as they are now. What is written to it stays in memory.

    To load a study Optuna tries to create it first, and so writes: behind a half line, or beside the driver.
    """

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self._logs = _parse(path, content[: content.rfind(b"\n") + 1])

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from that number on."""
        return iter(self._logs[log_number_from:])

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Keep them here only."""
        self._logs.extend(logs)


def mend_journal(path: Path) -> int:
    """Cut a half-written last line off ``path``; returns how many bytes went."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stale = path.with_name(path.name + ".lock")
    if stale.is_symlink():
        stale.unlink()
    if not path.exists():
        return 0
    content = path.read_bytes()
    _parse(path, content[: content.rfind(b"\n") + 1])
    with storing(path), path.open("rb+") as handle:
        return cut_half_line(handle)


def _parse(path: Path, content: bytes) -> list[dict[str, Any]]:
    logs = []
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            logs.append(json.loads(line))
        except ValueError:
            raise _damaged(path, f"line {number} is damaged") from None
        if not isinstance(logs[-1], dict) or "op_code" not in logs[-1]:
            raise _damaged(path, f"line {number} is no line of a study")
    return logs


def _damaged(path: Path, how: str) -> StorageError:
    return StorageError(f"{path}: {how}; restore the file from a backup, or begin anew: sweep.name=NAME")


def has_trials(path: Path) -> bool:
    """Whether the journal at ``path`` holds a trial. Reads, and writes nothing."""
    return path.exists() and count_trials(open_journal(path, writable=False)) > 0


def count_trials(storage: BaseStorage, name: str | None = None) -> int:
    """How many trials it holds of the study ``name``; None: of all its studies."""
    studies = [study for study in storage.get_all_studies() if name in (None, study.study_name)]
    return sum(storage.get_n_trials(study._study_id) for study in studies)


def quiet_optuna() -> None:
    """Optuna reports every trial on its own; our progress does that."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
