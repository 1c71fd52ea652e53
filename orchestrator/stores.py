"""Folders that the driver and all workers reach: on a disk, or in an object store (``s3://BUCKET/PATH``).

An object store is reached through pyarrow's file systems (S3, Google Cloud Storage, Azure, Hadoop), with
credentials from the environment only. What is written is never seen in part: a file is written aside and
renamed, an object appears once it is complete.
"""

import functools
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

from orchestrator.errors import ConfigError, StorageError
from orchestrator.files import replacing, storing
from orchestrator.importing import one_line
from orchestrator.masking import mask
from orchestrator.types import Location

SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs")
"""Kinds of URL that name an object store (those of ``pyarrow.fs.FileSystem.from_uri`` that are not a disk)."""
PATIENCE_S = 60.0
"""How long an object store that does not answer is asked again (our guess: it outlasts a restart of a server)."""

_SECRET = re.compile(r"(?i)secret|token|key|password|sas")
"""Names of options of a URL that hold what none may read."""
_REFUSED = ("ACCESS_DENIED", "NO_SUCH_BUCKET", "INVALID_ACCESS_KEY", "SIGNATURE_DOES_NOT_MATCH")
"""Answers of S3: to ask again gives the same."""

_Result = TypeVar("_Result")


class Store(Protocol):
    """One folder: files by name."""

    def writing(self, name: str, keep_as: str | None = None) -> Any:
        """A context in which a binary file is written; it takes the place of ``name`` at once, at its end.

        Args:
            name: the file.
            keep_as: a name under which the old file, if there is one, is kept.

        Raises:
            StorageError: it cannot be written; the old one stands.
        """
        ...

    def read(self, name: str) -> bytes:
        """All of ``name``.

        Raises:
            StorageError: it is not there, or cannot be read.
        """
        ...

    def size(self, name: str) -> int | None:
        """Bytes of ``name``; None: it is not there."""
        ...

    def sizes(self, name: str) -> dict[str, int]:
        """Folder to bytes of ``name`` in each folder right below this one."""
        ...

    def remove(self, name: str) -> None:
        """Remove ``name``, if it is there."""
        ...


def store_at(location: Location, patience_s: float = PATIENCE_S) -> Store:
    """The store at a folder or a URL; an object store that does not answer is asked again for ``patience_s``.

    Raises:
        ConfigError: the URL cannot be understood.
    """
    return Folder(location) if isinstance(location, Path) else Objects(location, patience_s)


def check_writable(location: Location) -> None:
    """Write a file and remove it.

    Raises:
        StorageError: it cannot be written.
        ConfigError: the URL cannot be understood.
    """
    store = store_at(location, patience_s=0.0)
    with store.writing(".writable") as handle:
        handle.write(b"1")
    store.remove(".writable")


def make(location: Location) -> None:
    """Make the folder, where it is one on a disk: an object store has none.

    Raises:
        StorageError: it cannot be made.
    """
    if isinstance(location, Path):
        with storing(location):
            location.mkdir(parents=True, exist_ok=True)


def check_shared(location: Location) -> None:
    """Refuse a folder below one that :func:`make` has made, but not on a disk that this machine sees.

    Raises:
        StorageError: with what to do.
    """
    if isinstance(location, Path) and not location.parent.is_dir():
        raise StorageError(
            f"{location.parent}: is not there on {socket.gethostname()}, so this node cannot keep checkpoints where "
            "the others find them; name a folder that all share, or an object store: trainer.checkpoint_dir=PLACE"
        )


def below(location: Location, *names: str) -> Location:
    """The folder ``names`` below ``location``."""
    if isinstance(location, Path):
        return location.joinpath(*names)
    address, mark, options = location.partition("?")
    return "/".join([address.rstrip("/"), *names]) + mark + options


def parse_location(text: str, where: str) -> Location:
    """A folder, or the URL of one in an object store, that the setting ``where`` names.

    Raises:
        ConfigError: no such kind of URL, no bucket, or a secret in it.
    """
    place = f"{where}={mask(text)}"
    scheme, mark, rest = text.partition("://")
    if not mark:
        return Path(text).expanduser().resolve()
    if scheme not in SCHEMES:
        known = ", ".join(f"{known}://" for known in SCHEMES)
        raise ConfigError(f"{place}: must be a folder, or begin with one of {known}")
    path, _, options = rest.partition("?")
    if ("@" in path and not scheme.startswith("abfs")) or ":" in path.rpartition("@")[0] or _SECRET.search(options):
        raise ConfigError(
            f"{place}: holds a secret; give it in the environment of the command and of the workers, for example "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    if not path.strip("/"):
        raise ConfigError(f"{place}: names no bucket; for example {scheme}://BUCKET/checkpoints")
    return text


class Folder:
    """A folder on a disk of this machine, or on a network file system. See :class:`Store`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def writing(self, name: str, keep_as: str | None = None) -> Iterator[IO[bytes]]:
        """See :class:`Store`. A kill at its end may leave the old file only, under the name that it is kept as."""
        with replacing(self._path / name, keep_as) as aside, aside.open("wb", buffering=0) as handle:
            yield handle

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""
        try:
            return (self._path / name).read_bytes()
        except OSError as error:
            raise StorageError(f"{self._path / name}: cannot be read: {error.strerror}") from None

    def size(self, name: str) -> int | None:
        """See :class:`Store`."""
        try:
            return (self._path / name).stat().st_size
        except FileNotFoundError:
            return None

    def sizes(self, name: str) -> dict[str, int]:
        """See :class:`Store`."""
        return {path.parent.name: path.stat().st_size for path in self._path.glob(f"*/{name}")}

    def remove(self, name: str) -> None:
        """See :class:`Store`."""
        (self._path / name).unlink(missing_ok=True)


class Objects:
    """A folder in an object store. See :class:`Store`. An object is held in memory while it is written or read."""

    def __init__(self, url: str, patience_s: float) -> None:
        self._patience_s = patience_s
        self._url = url.partition("?")[0]
        self._system, self._path = _connect(url)

    @contextmanager
    def writing(self, name: str, keep_as: str | None = None) -> Iterator[IO[bytes]]:
        """See :class:`Store`."""
        content = BytesIO()
        yield content
        if keep_as is not None and self.size(name) is not None:
            places = f"{self._path}/{name}", f"{self._path}/{keep_as}"
            self._patiently(keep_as, "written", lambda: self._system.copy_file(*places))
        self._patiently(name, "written", lambda: self._put(name, content))

    def _put(self, name: str, content: BytesIO) -> None:
        stream = self._system.open_output_stream(f"{self._path}/{name}")
        # In one call, because to close the stream after a part makes an object of that part. After a part that
        # could not be sent it makes none.
        stream.write(content.getbuffer())
        stream.close()

    def read(self, name: str) -> bytes:
        """See :class:`Store`."""

        def get() -> bytes:
            with self._system.open_input_stream(f"{self._path}/{name}") as stream:
                content: bytes = stream.read()
            return content

        return self._patiently(name, "read", get)

    def size(self, name: str) -> int | None:
        """See :class:`Store`."""
        found = self._patiently(name, "looked up", lambda: self._system.get_file_info(f"{self._path}/{name}"))
        return found.size if found.is_file else None

    def sizes(self, name: str) -> dict[str, int]:
        """See :class:`Store`."""
        from pyarrow.fs import FileSelector

        # Of all below: one request for a thousand objects.
        wanted = FileSelector(self._path, allow_not_found=True, recursive=True)
        found = self._patiently("", "listed", lambda: self._system.get_file_info(wanted))
        parts = {tuple(entry.path.removeprefix(f"{self._path}/").split("/")): entry for entry in found}
        return {path[0]: entry.size for path, entry in parts.items() if len(path) == 2 and path[1] == name}

    def remove(self, name: str) -> None:
        """See :class:`Store`."""
        if self.size(name) is not None:
            self._patiently(name, "removed", lambda: self._system.delete_file(f"{self._path}/{name}"))

    def _patiently(self, name: str, what: str, request: Callable[[], _Result]) -> _Result:
        """What ``request`` returns, asked again while the store does not answer.

        Raises:
            StorageError: it is not there, or the store has not answered for too long.
        """
        begun, wait = time.monotonic(), 0.5
        while True:
            try:
                return request()
            except FileNotFoundError:
                raise StorageError(f"{self._url}/{name}: is not there") from None
            except (OSError, ValueError) as error:
                if time.monotonic() - begun + wait > self._patience_s or any(
                    answer in str(error) for answer in _REFUSED
                ):
                    raise StorageError(
                        f"{self._url}/{name}: cannot be {what}: {mask(one_line(error))}; mend it, and run the same "
                        "command again: it goes on from here"
                    ) from None
            time.sleep(wait)
            wait = min(2 * wait, 10.0)


@functools.cache
def _connect(url: str) -> tuple[Any, str]:
    # Here: it takes a second that those with a local folder need not pay.
    from pyarrow.fs import FileSystem

    try:
        system, path = FileSystem.from_uri(url)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{mask(url)}: {mask(one_line(error))}") from None
    return system, path.rstrip("/")
