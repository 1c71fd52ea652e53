"""The study on a PostgreSQL server: held by one driver at a time, and patient while the server is away."""

import functools
import hashlib
import os
import socket
import time
import uuid
from collections.abc import Callable
from typing import Any

import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from orchestrator.errors import ConfigError, StorageError, SweepLockedError
from orchestrator.importing import one_line
from orchestrator.masking import mask

PATIENCE_S = 300.0
"""How long a server that is away is waited for (our guess: it outlasts a restart and a fail-over)."""
_CONNECTION = {
    "connect_timeout": 5,
    # A cut cable is noticed within half a minute, here and there: the server frees the lock of a host that is gone.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "options": "-c tcp_keepalives_idle=10 -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3",
}
_TAKE = "SELECT pg_try_advisory_lock(:number)"
_HOLDER = """
    SELECT activity.pid, activity.application_name FROM pg_locks locks JOIN pg_stat_activity activity USING (pid)
    WHERE locks.locktype = 'advisory' AND locks.granted
    AND (locks.classid::bigint << 32 | locks.objid::bigint) = :number
"""


class CommitLostError(Exception):
    """The connection broke while a change was made for good: it was made, or it was not."""


class _Session(Session):
    """Tells a change that may have been made from one that was not: Optuna tries both again."""

    def commit(self) -> None:
        try:
            super().commit()
        except DBAPIError as error:
            if not error.connection_invalidated:
                raise
            raise CommitLostError from error


def _patient(name: str) -> Callable[..., Any]:
    """The method ``name`` of Optuna's storage, tried again once the server is back. Twice is as once."""
    method = getattr(RDBStorage, name)

    @functools.wraps(method)
    def call(self: "StudyServer", *args: Any, **kwargs: Any) -> Any:
        begun, tries = time.monotonic(), 0
        while True:
            tries += 1
            try:
                return method(self, *args, **kwargs)
            except UpdateFinishedTrialError:
                if tries == 1:
                    raise
                return True
            except (StorageInternalError, SQLAlchemyError, CommitLostError) as error:
                self.wait_until_back(begun, error)

    return call


class StudyServer(RDBStorage):
    """Optuna's storage in the database at ``url`` (``postgresql://HOST/DATABASE``), where MLflow has no tables.

    Args:
        url: of the database.
        kept: whether connections are kept open until :meth:`close`.

    Raises:
        ConfigError: the URL is wrong, or no server answers there.
    """

    def __init__(self, url: str, *, kept: bool = True) -> None:
        kind, _, rest = url.partition("://")
        if kind not in ("postgresql", "postgresql+psycopg"):
            raise ConfigError(f"sweep.storage={mask(url)}: must begin with postgresql://")
        self._lock: sqlalchemy.Connection | None = None
        self._sweep = ""
        # Another name for each: it must know its own lost connections.
        self._me = f"process {os.getpid()} on {socket.gethostname()[:30]} ({uuid.uuid4().hex[:8]})"
        engine: dict[str, Any] = {"connect_args": {**_CONNECTION, "application_name": self._me}}
        if not kept:
            engine["poolclass"] = NullPool
        try:
            super().__init__(f"postgresql+psycopg://{rest}", engine_kwargs=engine)
        except ImportError:
            raise ConfigError(
                "sweep.storage: needs the driver of PostgreSQL: pip install 'psycopg[binary]'"
            ) from None
        except (ArgumentError, DBAPIError, StorageInternalError) as error:
            said = mask(one_line(getattr(error, "orig", None) or error.__cause__ or error))
            raise ConfigError(f"sweep.storage={mask(url)}: PostgreSQL does not answer there: {said}") from None
        except RuntimeError:
            # Optuna's word for tables of another version; MLflow's look like that.
            self.engine.dispose()
            raise ConfigError(
                f"sweep.storage={mask(url)}: holds tables of MLflow, or of another version of Optuna; give studies a "
                "database of their own"
            ) from None
        self.scoped_session = scoped_session(sessionmaker(bind=self.engine, class_=_Session))

    def hold(self, sweep: str) -> None:
        """Lock the sweep with the id ``sweep`` until :meth:`close`, or until this process or its host is gone.

        Raises:
            SweepLockedError: another process holds it; its host and process are named.
        """
        self._sweep = sweep
        number = int.from_bytes(hashlib.sha256(sweep.encode()).digest()[:8], signed=True)
        if self._lock is not None:
            try:
                self._lock.execute(sqlalchemy.text("SELECT 1"))
                return
            except DBAPIError:
                self._lock.close()
                self._lock = None
        lock = self.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
        while not lock.execute(sqlalchemy.text(_TAKE), {"number": number}).scalar():
            process, holder = lock.execute(sqlalchemy.text(_HOLDER), {"number": number}).first() or (None, self._me)
            if holder != self._me:
                lock.close()
                raise SweepLockedError(
                    f"the sweep's study is being driven by {holder}; wait for it, stop it, or give this one a name "
                    "of its own: sweep.name=NAME"
                )
            # Our former connection, which the server has not missed yet; or one that has just ended.
            lock.execute(sqlalchemy.text("SELECT pg_terminate_backend(:process)"), {"process": process})
            time.sleep(0.1)
        self._lock = lock

    def close(self) -> None:
        """Give the sweep free."""
        if self._lock is not None:
            self._lock.close()
        self.engine.dispose()

    def wait_until_back(self, begun: float, error: Exception) -> None:
        """Return when the server answers, and the sweep is still held by this process.

        Args:
            begun: when the request was first made, on the monotonic clock.
            error: what became of it.

        Raises:
            StorageError: it has not answered for too long.
            SweepLockedError: another process has taken the sweep meanwhile.
        """
        cause = error if isinstance(error, DBAPIError) else error.__cause__
        while isinstance(cause, DBAPIError) and time.monotonic() - begun < PATIENCE_S:
            try:
                if self._sweep:
                    self.hold(self._sweep)
                else:
                    self.engine.connect().close()
            except DBAPIError as away:
                cause = away
                time.sleep(0.5)
                continue
            return
        said = mask(one_line(getattr(cause, "orig", None) or error))
        raise StorageError(
            f"sweep.storage: PostgreSQL failed: {said}; mend it, and run the same command again: it goes on from here"
        ) from None

    def _create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> FrozenTrial:
        """Once: the sweep is held, so that a trial more is this one."""
        begun, number = time.monotonic(), self.get_n_trials(study_id)
        while True:
            try:
                return super()._create_new_trial(study_id, template_trial)
            except (StorageInternalError, SQLAlchemyError, CommitLostError) as error:
                self.wait_until_back(begun, error)
            if self.get_n_trials(study_id) > number:
                return self.get_trial(self.get_trial_id_from_study_id_trial_number(study_id, number))


for _name in (
    *("create_new_study", "get_study_id_from_name", "get_study_name_from_id", "get_study_directions"),
    *("get_study_user_attrs", "get_study_system_attrs", "set_study_system_attr", "get_all_studies"),
    *("set_trial_state_values", "set_trial_intermediate_value", "set_trial_user_attr", "set_trial_system_attr"),
    *("get_trial_id_from_study_id_trial_number", "get_trial", "_get_trials", "get_n_trials"),
):
    setattr(StudyServer, _name, _patient(_name))
