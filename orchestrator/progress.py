"""What the user sees while it runs: a calm line that is rewritten on a terminal, and rare lines in a file."""

import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from orchestrator.files import storing
from orchestrator.masking import Masking, mask_addresses
from orchestrator.types import Value

LINE_EVERY_S = 10.0
"""Seconds between progress lines where the output is not a terminal."""
REWRITE_EVERY_S = 0.2


class Progress:
    """Writes lines to the terminal and to the sweep's log.

    Where the output is not a terminal, or one that cannot rewrite a line (``TERM=dumb``), plain lines come now and
    then. Colours only on a terminal, and not with ``NO_COLOR`` (https://no-color.org).
    """

    whole: Callable[[], str] | None = None
    """What to say of the whole sweep behind every update."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._coloured = self._live and not os.environ.get("NO_COLOR")
        self._shown = False
        self._last = 0.0
        self._log = logging.getLogger("orchestrator.files")

    def say(self, text: str) -> None:
        """A line (or several) that stays, without the passwords in addresses."""
        self._clear()
        text = mask_addresses(text)
        print(self._styled(text), file=self._stream, flush=True)
        for line in text.splitlines():
            self._log.info(line)

    def update(self, status: str | Callable[[], str]) -> None:
        """Where things stand: rewritten in place on a terminal, now and then a line elsewhere.

        A function is called only when its text is shown.
        """
        now = time.monotonic()
        if now - self._last < (REWRITE_EVERY_S if self._live else LINE_EVERY_S):
            return
        self._last = now
        text = status if isinstance(status, str) else status()
        text += f"; {self.whole()}" if self.whole is not None else ""
        if self._live:
            self._clear()
            # One column less than there are: a full line makes some terminals scroll.
            width = shutil.get_terminal_size((100, 24)).columns - 1
            self._stream.write(self._styled(cut(mask_addresses(text), width)))
            self._stream.flush()
            self._shown = True
        else:
            self.say(text)

    def _clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[2K")
            self._shown = False

    def _styled(self, text: str) -> str:
        """``text`` with the stage's name at its beginning in bold."""
        found = re.match(r"\[[^\]\n]+\]", text) if self._coloured else None
        return f"\x1b[1m{found[0]}\x1b[0m{text[found.end() :]}" if found else text


def cut(text: str, width: int) -> str:
    """``text`` in at most ``width`` characters; what is left out is marked."""
    return text if len(text) <= width else text[: max(0, width - 3)] + "..."


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns; the first row is the heading."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def short(value: Value) -> str:
    """A value as people write it: three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


class _LogFile(logging.FileHandler):
    """A log that a full disk silences: what needs the disk says so by itself."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nothing; logging's own would print a traceback for each line."""


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Meanwhile send what is said, and what only the log should hold, to the file ``path`` as well."""
    with storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = _LogFile(path, encoding="utf-8")
    handler.addFilter(Masking())
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("orchestrator.files")
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
