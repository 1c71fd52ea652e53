"""Files that survive a kill at any moment, and the data folders that ship with the package."""

import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from orchestrator.errors import ConfigError, StorageError, SweepLockedError

_TROUBLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ENOLCK, errno.ESTALE),
)
"""What the operating system says when a place cannot be written to."""
SYNCS = 8
"""Files that are synced side by side: a disk then makes many durable in the time of a few (64 files here in 5 ms
instead of 100; more at a time gained nothing)."""


def data_folder(name: str) -> Path:
    """The folder ``conf`` or ``search_spaces``: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).parent
    for folder in (package / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise ConfigError(f"the folder {name}/ is missing beside {package}: the installation is broken")


def sync(path: Path) -> None:
    """Make durable what was written to the file ``path``; of a folder, its renames and new names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Writing to ``path``.

    Raises:
        StorageError: the disk is full, the folder read-only, and so on.
    """
    try:
        yield
    except OSError as error:
        if not is_storage_trouble(error):
            raise
        raise StorageError(storage_trouble(path, error)) from None


def is_storage_trouble(error: OSError) -> bool:
    """Whether it says that a place cannot be written to: the disk is full, the folder read-only, and so on."""
    return error.errno in _TROUBLE


def storage_trouble(path: Path | str, error: OSError) -> str:
    """The same in one line, with what to do."""
    return (
        f"{path}: cannot be written: {error.strerror}; make room or mend it, and run the same command again: it goes "
        "on from here"
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write to; on success it durably takes the place of ``path`` in one step.

    Raises:
        StorageError: it cannot be written; the old file stands.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield aside
            with aside.open("rb") as written:
                os.fsync(written.fileno())
            os.replace(aside, path)
            sync(path.parent)
        finally:
            aside.unlink(missing_ok=True)


def append_line(path: Path, text: str) -> None:
    """Append ``text`` as a line, durably. Half a line at the end, of a write that was cut short, goes first.

    Raises:
        StorageError: it cannot be written.
    """
    lines = Lines()
    lines.append(path, text)
    lines.sync()


class Lines:
    """Lines appended to files at once, and made durable together."""

    def __init__(self) -> None:
        self._unsynced: dict[Path, None] = {}

    def append(self, path: Path, text: str) -> None:
        """Append ``text`` as a line: a killed process does not lose it, a power cut may. Half a line at the end, of a
        write that was cut short, goes first.

        Raises:
            StorageError: it cannot be written.
        """
        with storing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                # The name of the file, and that of its folder.
                self._unsynced |= dict.fromkeys((path.parent, path.parent.parent))
            with path.open("ab+") as handle:
                cut_half_line(handle)
                handle.write(text.encode() + b"\n")
        self._unsynced[path] = None

    def sync(self) -> None:
        """Make durable what was appended.

        Raises:
            StorageError: it cannot be written.
        """
        paths, self._unsynced = list(self._unsynced), {}
        _sync_all(paths)


def _sync_all(paths: list[Path]) -> None:
    def sync_one(path: Path) -> None:
        with storing(path):
            sync(path)

    if len(paths) < 2:
        for path in paths:
            sync_one(path)
        return
    with ThreadPoolExecutor(min(SYNCS, len(paths))) as pool:
        list(pool.map(sync_one, paths))


def cut_half_line(handle: IO[bytes]) -> int:
    """Cut off what follows the last line break of a file opened for reading and writing; returns how many bytes."""
    end = handle.seek(0, os.SEEK_END)
    whole, block = end, b""
    while whole and b"\n" not in block:
        start = max(0, whole - 65536)
        handle.seek(start)
        block = handle.read(whole - start)
        whole = start
    whole += block.rfind(b"\n") + 1
    if whole < end:
        handle.truncate(whole)
        handle.flush()
        os.fsync(handle.fileno())
    handle.seek(0, os.SEEK_END)
    return end - whole


def write_text(path: Path, text: str) -> None:
    """Write ``text`` so that a reader sees the old file or the new one, never a half."""
    with replacing(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2) + "\n")


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold ``path`` as a lock of this process; the kernel frees it when the process ends, however it ends.

    Raises:
        SweepLockedError: another live process holds it; its host and process are named.
        ConfigError: there can be no file: the place is read-only, no folder, full.
    """
    with _lock_file(path) as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "an unknown process"
            raise SweepLockedError(
                f"sweep {path.parent.name} is being driven by {holder}; wait for it, stop it, or give "
                "this one a name of its own: sweep.name=NAME"
            ) from None
        handle.truncate(0)
        handle.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        handle.flush()
        yield


def _lock_file(path: Path) -> IO[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        if not is_storage_trouble(error):
            raise
        raise ConfigError(
            f"{path.parent}: cannot be written: {error.strerror}; give a folder that can be: sweep.dir=FOLDER"
        ) from None
