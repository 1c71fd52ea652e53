"""Events on their way to the tracker's writer: the oldest in memory, what does not fit there in a file."""

import json
import os
import tempfile
import threading
from collections import deque
from pathlib import Path
from typing import IO, Any

Event = list[Any]
"""A kind, the key of a run, and plain values."""
IN_MEMORY = 10_000
"""Events kept in memory, about a kilobyte each: our guess."""

BLOCK_BYTES = 4 * 1024**2
"""Read from the file at once."""


class Backlog:
    """First in, first out, between two threads.

    The file has no name, so that nothing is left of it however the process ends: what a process leaves unwritten
    the next one has from the study.
    """

    def __init__(self, folder: Path | None = None, limit: int = IN_MEMORY) -> None:
        """Begin empty.

        Args:
            folder: where the file is made, when it is needed; None: where temporary files are.
            limit: events in memory.
        """
        self._folder = folder
        self._limit = limit
        self._memory: deque[Event] = deque()
        self._file: IO[bytes] | None = None
        self._spilled = 0
        self._read_to = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._memory) + self._spilled

    @property
    def in_memory(self) -> int:
        """How many of them are in memory."""
        return len(self._memory)

    def put(self, event: Event) -> None:
        """Take an event in.

        Raises:
            OSError: memory and disk are full; the event is not taken, and all before it are kept.
        """
        with self._lock:
            if not self._spilled and len(self._memory) < self._limit:
                self._memory.append(event)
                return
            if self._file is None:
                self._file = tempfile.TemporaryFile(dir=self._folder, buffering=0)  # noqa: SIM115
            self._append(self._file, json.dumps(event).encode() + b"\n")
            self._spilled += 1

    @staticmethod
    def _append(file: IO[bytes], line: bytes) -> None:
        end = file.seek(0, os.SEEK_END)
        try:
            while line:
                line = line[file.write(line) :]
        except OSError:
            file.truncate(end)
            raise

    def take(self) -> list[Event]:
        """The oldest events, at most as many as fit in memory; empty if there are none."""
        with self._lock:
            if self._memory:
                found = list(self._memory)
                self._memory.clear()
                return found
            return self._from_file() if self._spilled else []

    def close(self) -> None:
        """Forget what is left."""
        with self._lock:
            self._memory.clear()
            self._forget()

    def _forget(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file, self._spilled, self._read_to = None, 0, 0

    def _from_file(self) -> list[Event]:
        assert self._file is not None
        self._file.seek(self._read_to)
        block = b""
        while b"\n" not in block:
            block += self._file.read(BLOCK_BYTES)
        lines = block[: block.rindex(b"\n")].split(b"\n")[: self._limit]
        self._read_to += sum(len(line) + 1 for line in lines)
        self._spilled -= len(lines)
        if not self._spilled:
            self._forget()
        return [json.loads(line) for line in lines]
