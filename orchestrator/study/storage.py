"""Where the study lives: an Optuna journal file by default, or any database URL.

The journal file is the default because it is fast (``benchmarks/storage.py``) and needs no server. Its
one weakness is mended here: after a kill in the middle of a write its last line is half a line, which
Optuna skips once and then trips over for ever after the next append. Opening it for writing cuts the
half line off and drops the lock that the killed process left. This is safe because the sweep's own
lock admits a single writer.
"""

import json
import os
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.errors import OrchestratorError


def open_journal(path: Path, *, writable: bool) -> BaseStorage:
    """The journal at ``path``; mended first if it is to be written.

    Raises:
        OrchestratorError: a line before the last is unreadable: the file was damaged, not cut short.
    """
    if writable:
        mend_journal(path)
    return JournalStorage(JournalFileBackend(str(path)))


def mend_journal(path: Path) -> int:
    """Cut a half-written last line off ``path``; returns how many bytes went."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stale = path.with_name(path.name + ".lock")
    if stale.is_symlink():
        stale.unlink()
    if not path.exists():
        return 0
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            json.loads(line)
        except ValueError:
            raise OrchestratorError(
                f"{path}: line {number} is damaged; restore the file from a backup, or start anew with "
                "another sweep.name"
            ) from None
    if whole < len(content):
        with path.open("r+b") as handle:
            handle.truncate(whole)
            os.fsync(handle.fileno())
    return len(content) - whole


def quiet_optuna() -> None:
    """Optuna reports every trial on its own; our progress does that."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
