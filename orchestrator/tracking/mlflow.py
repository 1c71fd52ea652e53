"""MLflow, written by one background thread in batches.

The driver only appends to a backlog. The thread gathers what belongs to a run and writes it in one call;
when MLflow does not answer it keeps the backlog, which is bounded in memory, and tries again. What is still
unwritten when the command ends, however it ends, is not lost: the study and the trials' logbook files have
it, and the next command with this sweep sends everything again, of which the writer skips what MLflow has
(``_adopt``).
"""

import logging
import os
import re
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.tracking.backlog import Backlog
from orchestrator.tracking.base import DatasetEntry, ModelEntry, has_link, is_trial, resolve_links
from orchestrator.tracking.mlflow_client import first_line, make_client, quiet_mlflow
from orchestrator.tracking.mlflow_entities import mark_experiment, write_dataset
from orchestrator.tracking.mlflow_models import write_model
from orchestrator.types import Value

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger("orchestrator")

KEY_TAG = "orchestrator.key"
SWEEP_TAG = "orchestrator.sweep_id"
METRICS_PER_CALL = 1000
"""MLflow's own limit on one ``log_batch``."""
BEHIND = 100
"""Events that are worth a call before ``flush_s`` have passed."""
PARAM_CHARACTERS = 6000
"""MLflow's own limit on a parameter's value."""
TAG_CHARACTERS = 8000
"""MLflow's own limit on a tag's value."""


@dataclass
class _Run:
    """What is written and what is still to be written of one run."""

    key: str
    parent: str | None = None
    name: str = ""
    run_id: str | None = None
    last_step: int = 0
    done: bool = False
    unsure: bool = False
    """It may have been made: MLflow was asked to, and the answer was lost."""
    refused: bool = False
    """MLflow does not take it (the user deleted the run, say): nothing more is sent."""
    pending: int = 0
    """Events taken in and not yet written."""
    known_params: set[str] = field(default_factory=set)
    known_metrics: dict[str, float] = field(default_factory=dict)
    """Latest value of each metric, sent or about to be."""
    params: dict[str, Value] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    artifacts: dict[str, str] = field(default_factory=dict)
    files: set[tuple[str, str]] = field(default_factory=set)
    """Folder among the artifacts, and the file that is to be copied there."""
    datasets: dict[str, DatasetEntry] = field(default_factory=dict)
    models: dict[str, ModelEntry] = field(default_factory=dict)
    status: str | None = None


class MlflowTracker:
    """See :class:`~orchestrator.tracking.base.Tracker`."""

    def __init__(
        self,
        uri: str,
        experiment: str,
        sweep_id: str,
        *,
        flush_s: float = 2.0,
        close_timeout_s: float = 60.0,
        backlog: Backlog | None = None,
    ) -> None:
        """Start the writer.

        Args:
            uri: MLflow tracking URI.
            experiment: experiment that the sweep's runs belong to; made if there is none.
            sweep_id: identity of the sweep: runs of an earlier command with it are continued.
            flush_s: seconds between batches.
            close_timeout_s: seconds that ``close`` waits for the backlog.
            backlog: an empty one, for a bound and a folder of its own.
        """
        self._uri = uri
        self._experiment = experiment
        self._sweep_id = sweep_id
        self._flush_s = flush_s
        self._close_timeout_s = close_timeout_s
        self._events = Backlog() if backlog is None else backlog
        self._left_out = 0
        self._runs: dict[str, _Run] = {}
        self._dirty: dict[str, _Run] = {}
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._write_until_closed, name="mlflow-writer", daemon=True)
        self._thread.start()

    def begin(
        self, key: str, parent: str | None, name: str, params: Mapping[str, Value], tags: Mapping[str, str]
    ) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        self._put("begin", key, parent, name, dict(params), dict(tags))

    def log(self, key: str, step: int, metrics: Mapping[str, float]) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        self._put("log", key, step, dict(metrics), int(time.time() * 1000))

    def artifact(self, key: str, name: str, text: str) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        self._put("artifact", key, name, text)

    def file(self, key: str, folder: str, path: Path) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        self._put("file", key, folder, str(path))

    def dataset(self, key: str, entry: DatasetEntry) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        self._put("dataset", key, asdict(entry))

    def model(self, key: str, entry: ModelEntry) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        package = None if entry.package is None else str(entry.package)
        self._put("model", key, {**asdict(entry), "files": [str(path) for path in entry.files], "package": package})

    def end(self, key: str, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """See :class:`~orchestrator.tracking.base.Tracker`."""
        self._put("end", key, status, dict(metrics), dict(tags), int(time.time() * 1000))

    def _put(self, *event: Any) -> None:
        if not self._left_out:
            try:
                self._events.put(list(event))
                return
            except OSError as error:
                log.warning(
                    "MLflow at %s: the backlog is full (%s); the next command writes the rest", self._uri, error
                )
        # All that follow, too: of a run whose epochs MLflow has in part, only later ones are ever sent.
        self._left_out += 1

    def close(self) -> int:
        """See :class:`~orchestrator.tracking.base.Tracker`. Waits at most ``close_timeout_s``."""
        self._closing.set()
        self._thread.join(self._close_timeout_s)
        self._abandoned.set()
        left = len(self._events) + sum(run.pending for run in list(self._dirty.values())) + self._left_out
        if left:
            log.warning("MLflow at %s: %d events are not written; the next command writes them", self._uri, left)
        return left

    def _write_until_closed(self) -> None:
        client, experiment_id, warned = None, "", False
        while True:
            closing = self._closing.wait(0 if client is not None and len(self._events) > BEHIND else self._flush_s)
            try:
                if client is None:
                    client, experiment_id = self._connect()
                if not self._dirty:
                    self._drain()
                for key in list(self._dirty):
                    self._write_or_refuse(client, experiment_id, self._dirty[key])
                    del self._dirty[key]
            except Exception as error:
                # Whatever MLflow raises, training goes on and the backlog waits.
                if not warned:
                    log.warning("MLflow at %s: %s; trying again", self._uri, first_line(error))
                warned = True
                if closing and self._abandoned.wait(self._flush_s):
                    self._events.close()
                    return
                continue
            if closing and not len(self._events):
                return

    def _connect(self) -> tuple["MlflowClient", str]:
        self._make_store()
        client = make_client(self._uri)
        found = client.get_experiment_by_name(self._experiment)
        experiment_id = found.experiment_id if found else self._new_experiment(client)
        mark_experiment(client, experiment_id, found.tags if found else {})
        self._adopt(client, experiment_id)
        return client, experiment_id

    def _artifacts(self) -> Path | None:
        """Artifacts go beside an SQLite file; by itself MLflow takes the folder where the command runs."""
        path = self._uri.removeprefix("sqlite:///")
        return None if path == self._uri else Path(path).resolve().parent / "mlartifacts"

    def _make_store(self) -> None:
        """Make an SQLite file aside and put it in place whole.

        MLflow makes the tables one by one without a transaction: a file that was left in the midst of it by a
        kill can never be opened again. ``link`` does not replace what another command has made meanwhile.
        """
        artifacts, path = self._artifacts(), Path(self._uri.removeprefix("sqlite:///"))
        if artifacts is None or path.exists():
            return
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        quiet_mlflow()
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mlflow-", dir=path.parent) as folder:
            aside = Path(folder) / path.name
            SqlAlchemyStore(f"sqlite:///{aside}", artifacts.as_uri()).engine.dispose()  # type: ignore[no-untyped-call]
            try:
                os.link(aside, path)
            except FileExistsError:
                pass
            except OSError:  # A file system without hard links.
                os.replace(aside, path)

    def _new_experiment(self, client: "MlflowClient") -> str:
        folder = self._artifacts()
        if folder is None:
            return str(client.create_experiment(self._experiment))
        return str(client.create_experiment(self._experiment, artifact_location=(folder / self._experiment).as_uri()))

    def _adopt(self, client: "MlflowClient", experiment_id: str) -> None:
        """Take over the runs that an earlier command wrote for this sweep."""
        token: str | None = None
        while True:
            page = client.search_runs(
                [experiment_id], f"tags.`{SWEEP_TAG}` = '{self._sweep_id}'", max_results=1000, page_token=token
            )
            for found in page:
                key = found.data.tags[KEY_TAG]
                run = _Run(key, run_id=found.info.run_id, done=found.info.status != "RUNNING")
                run.known_params = set(found.data.params)
                run.known_metrics = dict(found.data.metrics)
                run.last_step = int(run.known_metrics.get("epoch", 0))
                self._runs[key] = run
            token = page.token
            if not token:
                return

    def _drain(self) -> None:
        for event in self._events.take():
            kind, key, *rest = event
            run = self._runs.setdefault(key, _Run(key))
            if run.refused or (run.done and is_trial(key)):
                continue
            getattr(self, f"_take_{kind}")(run, *rest)
            run.pending += 1
            self._dirty[key] = run

    @staticmethod
    def _take_begin(run: _Run, parent: str | None, name: str, params: dict[str, Value], tags: dict[str, str]) -> None:
        run.parent, run.name, run.status, run.done = parent, name, "RUNNING", False
        run.params.update({name: value for name, value in params.items() if name not in run.known_params})
        run.tags.update(tags)

    @staticmethod
    def _take_log(run: _Run, step: int, metrics: dict[str, float], timestamp: int) -> None:
        if step > run.last_step:
            run.metrics += [(_legal(name), value, timestamp, step) for name, value in metrics.items()]
            run.metrics.append(("epoch", step, timestamp, step))
            run.last_step = step

    @staticmethod
    def _take_artifact(run: _Run, name: str, text: str) -> None:
        run.artifacts[name] = text

    @staticmethod
    def _take_file(run: _Run, folder: str, path: str) -> None:
        run.files.add((folder, path))

    @staticmethod
    def _take_dataset(run: _Run, entry: dict[str, Any]) -> None:
        run.datasets[entry["name"]] = DatasetEntry(**entry)

    @staticmethod
    def _take_model(run: _Run, entry: dict[str, Any]) -> None:
        package = None if entry["package"] is None else Path(entry["package"])
        files = tuple(map(Path, entry["files"]))
        run.models[entry["name"]] = ModelEntry(**{**entry, "files": files, "package": package})

    @staticmethod
    def _take_end(run: _Run, status: str, metrics: dict[str, float], tags: dict[str, str], timestamp: int) -> None:
        new = {name: value for name, value in metrics.items() if run.known_metrics.get(_legal(name)) != value}
        run.metrics += [(_legal(name), value, timestamp, 0) for name, value in new.items()]
        run.known_metrics.update({_legal(name): value for name, value in new.items()})
        run.tags.update(tags)
        run.status = status

    def _write_or_refuse(self, client: "MlflowClient", experiment_id: str, run: _Run) -> None:
        """Write ``run``; one that MLflow will never take must not hold up the others."""
        from mlflow.exceptions import MlflowException

        try:
            self._write(client, experiment_id, run)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            run.refused = True
            log.warning("MLflow at %s does not take %s: %s; it is left out", self._uri, run.key, first_line(error))
        run.pending = 0

    def _write(self, client: "MlflowClient", experiment_id: str, run: _Run) -> None:
        """Write what has gathered; each part is forgotten as soon as it is written."""
        from mlflow.entities import Metric, Param, RunTag

        if run.run_id is None:
            run.run_id = self._create(client, experiment_id, run)
        elif run.status == "RUNNING":
            client.update_run(run.run_id, status="RUNNING")
        params = [Param(name, str(value)[:PARAM_CHARACTERS]) for name, value in run.params.items()]
        tags = [RunTag(name, self._linked(client, experiment_id, value)) for name, value in run.tags.items()]
        while run.metrics or params or tags:
            batch = run.metrics[:METRICS_PER_CALL]
            client.log_batch(run.run_id, [Metric(*entry) for entry in batch], params[:100], tags[:100])
            del run.metrics[:METRICS_PER_CALL]
            params, tags = params[100:], tags[100:]
        run.known_params |= run.params.keys()
        run.params, run.tags = {}, {}
        for name in list(run.artifacts):
            client.log_text(run.run_id, run.artifacts[name], name)
            del run.artifacts[name]
        for folder, path in sorted(run.files):
            # One that is gone by now must not hold up everything else for ever.
            if Path(path).exists():
                client.log_artifact(run.run_id, path, folder)
            run.files.discard((folder, path))
        for name in list(run.datasets):
            write_dataset(client, run.run_id, run.datasets[name])
            del run.datasets[name]
        for name in list(run.models):
            write_model(client, experiment_id, run.run_id, run.models[name])
            del run.models[name]
        if run.status not in (None, "RUNNING"):
            client.set_terminated(run.run_id, run.status)
            run.done = True
        run.status = None

    def _made(self, client: "MlflowClient", experiment_id: str, run: _Run) -> str:
        """The identity of ``run``, which is made if it is not there yet."""
        if run.run_id is None:
            run.run_id = self._create(client, experiment_id, run)
        return run.run_id

    def _create(self, client: "MlflowClient", experiment_id: str, run: _Run) -> str:
        if run.unsure and (found := self._find(client, experiment_id, run.key)) is not None:
            return found
        # Those with links come later, when the runs that they lead to are made too.
        plain = {name: value for name, value in run.tags.items() if not has_link(value)}
        tags = {KEY_TAG: run.key, SWEEP_TAG: self._sweep_id, **plain}
        if run.parent is not None:
            tags["mlflow.parentRunId"] = self._made(client, experiment_id, self._runs[run.parent])
        run.unsure = True
        created = client.create_run(experiment_id, tags=tags, run_name=run.name)
        run.unsure = False
        run.tags = {name: value for name, value in run.tags.items() if name not in plain}
        if run.status == "RUNNING":
            run.status = None
        return str(created.info.run_id)

    def _linked(self, client: "MlflowClient", experiment_id: str, text: str) -> str:
        """``text`` with links to runs as addresses within MLflow's pages."""

        def address(key: str) -> str | None:
            found = self._runs.get(key)
            if found is None or found.refused:
                return None
            return f"#/experiments/{experiment_id}/runs/{self._made(client, experiment_id, found)}"

        return resolve_links(text, address)[:TAG_CHARACTERS]

    def _find(self, client: "MlflowClient", experiment_id: str, key: str) -> str | None:
        """The run that was made although the answer was lost."""
        wanted = f"tags.`{SWEEP_TAG}` = '{self._sweep_id}' and tags.`{KEY_TAG}` = '{key}'"
        found = client.search_runs([experiment_id], wanted, max_results=1)
        return str(found[0].info.run_id) if found else None


def _legal(name: str) -> str:
    """``name`` with what MLflow does not allow in a metric's name replaced."""
    return re.sub(r"[^\w/. -]", "_", name)
