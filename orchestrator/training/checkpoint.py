"""The loop state of a trial in a file: one dictionary of tensors and plain values."""

import hashlib
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch

from orchestrator.errors import DamagedError
from orchestrator.importing import one_line
from orchestrator.stores import below, store_at
from orchestrator.types import Location

NAME = "checkpoint.pt"
PREVIOUS = "checkpoint.previous.pt"
"""The one before, as long as the trial runs."""


def save(folder: Location, state: dict[str, Any], *, keep_old: bool = True) -> None:
    """Write ``state`` durably; a reader finds the old file or the new one.

    Args:
        folder: of the trial.
        state: tensors and plain values.
        keep_old: whether the old file is kept as :data:`PREVIOUS`.

    Raises:
        StorageError: it cannot be written; the old file stands.
    """
    with store_at(folder).writing(NAME, PREVIOUS if keep_old else None) as handle:
        watched = _Watched(handle)
        try:
            torch.save(state, watched)  # type: ignore[arg-type]
        except RuntimeError:
            if watched.error is None:
                raise
            raise watched.error from None


class _Watched:
    """A file that remembers why it could not be written: PyTorch makes a RuntimeError without the reason of it."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """All of ``data``."""
        left = memoryview(data).cast("B")
        try:
            while left:
                left = left[self._handle.write(left) or 0 :]
        except OSError as error:
            self.error = error
            raise
        return memoryview(data).nbytes

    def flush(self) -> None:
        """Nothing is held back."""


def exists(folder: Location, name: str = NAME) -> bool:
    """Whether ``folder`` holds a checkpoint of that name."""
    return store_at(folder).size(name) is not None


def remove(folder: Location) -> None:
    """Remove the checkpoint and the one before it, where they are there."""
    for name in (NAME, PREVIOUS):
        store_at(folder).remove(name)


def digest(folder: Location) -> str:
    """Of what the checkpoint holds: made of the checksums in its directory, so that on a disk no tensor is read.

    Raises:
        DamagedError: the file is damaged.
        StorageError: it cannot be read.
    """
    place = folder / NAME if isinstance(folder, Path) else BytesIO(store_at(folder).read(NAME))
    try:
        with zipfile.ZipFile(place) as parts:
            known = [f"{part.filename} {part.CRC} {part.file_size}" for part in parts.infolist()]
    except zipfile.BadZipFile as error:
        raise DamagedError(_damaged(folder, NAME, error)) from None
    return hashlib.sha256("\n".join(known).encode()).hexdigest()[:16]


def load(folder: Location, name: str = NAME) -> dict[str, Any]:
    """The state saved last, on the CPU. No code in it is executed (``weights_only``).

    Raises:
        DamagedError: the file is damaged.
        StorageError: it cannot be read.
    """
    content = store_at(folder).read(name)
    try:
        # PyTorch does not look at the checksums of its own files.
        with zipfile.ZipFile(BytesIO(content)) as parts:
            if (damaged := parts.testzip()) is not None:
                raise zipfile.BadZipFile(f"bad checksum of {damaged}")
        state: dict[str, Any] = torch.load(BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise DamagedError(_damaged(folder, name, error)) from None
    return state


def _damaged(folder: Location, name: str, error: Exception) -> str:
    return (
        f"{below(folder, name)}: is damaged ({one_line(error)}); restore it from a backup, or remove it to train "
        "from the start what continues it, and run the same command again"
    )
