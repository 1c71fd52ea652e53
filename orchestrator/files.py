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


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is missing above it, durably: without its entry a file is lost with all it holds."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


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
def replacing(path: Path, keep_as: str | None = None) -> Iterator[Path]:
    """Yield a path to write to; on success it durably takes the place of ``path`` in one step.

    Args:
        path: the file.
        keep_as: a name for the old file, if there is one. Then it takes two steps, between which there is only the
            old file, with its new name.

    Raises:
        StorageError: it cannot be written; the old file stands.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storing(path):
        make_folder(path.parent)
        try:
            yield aside
            sync(aside)
            if keep_as is not None and path.exists():
                os.replace(path, path.with_name(keep_as))
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
    """Lines appended to files, and made durable many at a time."""

    def __init__(self) -> None:
        self._due: dict[Path, None] = {}

    def append(self, path: Path, text: str, *, due: bool = True) -> None:
        """Append ``text`` as a line. Half a line at the end, of a write that was cut short, goes first.

        Args:
            path: the file.
            text: the line, without its end.
            due: whether a power loss takes neither it nor the lines before it, after the next :meth:`sync`; else one
                may, until a later line is due, or the file.

        Raises:
            StorageError: it cannot be written.
        """
        with storing(path):
            if not path.exists():
                missing = [folder for folder in path.parents if not folder.exists()]
                path.parent.mkdir(parents=True, exist_ok=True)
                # Without its entry a file is lost with all it holds.
                self._due |= dict.fromkeys([path.parent, *(folder.parent for folder in missing)])
            with path.open("ab+") as handle:
                cut_half_line(handle)
                handle.write(text.encode() + b"\n")
        if due:
            self.due(path)

    def due(self, path: Path) -> None:
        """The next :meth:`sync` makes the whole file durable."""
        self._due[path] = None

    def sync(self) -> None:
        """Make durable what is due, side by side.

        Raises:
            StorageError: it cannot be written.
        """

        def sync_one(path: Path) -> None:
            with storing(path):
                sync(path)

        due, self._due = list(self._due), {}
        if len(due) == 1:
            sync_one(due[0])
        elif due:
            with ThreadPoolExecutor(min(SYNCS, len(due))) as pool:
                list(pool.map(sync_one, due))


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
