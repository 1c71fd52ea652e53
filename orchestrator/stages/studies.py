"""Where a sweep's study lies: in its folder, or on a database server under a name of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.study.storage import Storage, commit, count_trials, has_trials, open_journal

if TYPE_CHECKING:
    from orchestrator.study.server import StudyServer

STUDY_FILE = "study.journal"


def check_server(url: str) -> None:
    """Ask for an answer.

    Raises:
        ConfigError: the URL is wrong, or no server answers there.
    """
    _server(url).close()


def _server(url: str, *, kept: bool = True) -> "StudyServer":
    # Here: its import takes half a second that those with a journal need not pay.
    from orchestrator.study.server import StudyServer

    return StudyServer(url, kept=kept)


@dataclass(frozen=True)
class StudyPlace:
    """Where the study of the sweep ``name`` in ``folder`` lies."""

    folder: Path
    name: str
    url: str | None
    """Of the server (``sweep.storage``); None: the journal file in the folder."""

    @property
    def shown(self) -> str:
        """What a message calls it."""
        return STUDY_FILE if self.url is None else "the study on the server"

    def study(self, sweep: str) -> str:
        """The study's name in its storage. On a server the sweep's id is part of it: others may use the name."""
        return self.name if self.url is None else f"{self.name}-{sweep[:8]}"

    def has_trials(self, sweep: str | None) -> bool:
        """Whether there is a trial of the sweep with that id; None: of any that the folder had. Writes nothing."""
        if self.url is None:
            return has_trials(self.folder / STUDY_FILE)
        if sweep is None:
            return False
        found = self.read(sweep)
        return found is not None and count_trials(found, self.study(sweep)) > 0

    def read(self, sweep: str) -> Storage | None:
        """The storage as it is now, for reading; None: there is no study yet."""
        if self.url is None:
            journal = self.folder / STUDY_FILE
            return open_journal(journal, writable=False) if journal.exists() else None
        server = _server(self.url, kept=False)
        known = {study.study_name for study in server.get_all_studies()}
        return server if self.study(sweep) in known else None

    @contextmanager
    def held(self, sweep: str) -> Iterator[Storage]:
        """The storage for writing, by one driver at a time.

        Raises:
            SweepLockedError: another holds it on the server. (The journal is guarded by the folder's own lock.)
            StorageError: it is damaged, or the server fails.
        """
        if self.url is None:
            journal = open_journal(self.folder / STUDY_FILE, writable=True)
            try:
                yield journal
            finally:
                commit(journal)
            return
        server = _server(self.url)
        try:
            server.hold(sweep)
            yield server
        finally:
            server.close()
