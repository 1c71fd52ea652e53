"""A real MLflow server that fails in every way: what was tracked meanwhile is written once it is back, and once."""

import resource
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mlflow_servers import Proxy, Server
from mlflow_stores import copy_of_store, read_runs

from orchestrator.tracking.backlog import Backlog
from orchestrator.tracking.base import SWEEP, Tracker, stage_key, trial_key
from orchestrator.tracking.mlflow import MlflowTracker
from orchestrator.tracking.mlflow_client import problem_at

STAGE = stage_key("lr")
pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, mlflow_template: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "server.db").write_bytes(mlflow_template.read_bytes())
    found = Server(folder)
    found.start()
    found.wait()
    yield found
    found.kill()


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    found = Proxy(server.port)
    yield found
    found.close()


def begin(tracker: Tracker) -> None:
    tracker.begin(SWEEP, None, "digits", {"seed": 0}, {"kind": "sweep"})
    tracker.begin(STAGE, SWEEP, "lr", {}, {"kind": "stage"})


def trial(tracker: Tracker, number: int) -> None:
    key = trial_key(number)
    tracker.begin(key, STAGE, f"trial {number}", {"optimizer.lr": 0.1}, {"trial": str(number)})
    for epoch in (1, 2):
        tracker.log(key, epoch, {"val/loss": 1.0 / epoch})
    tracker.artifact(key, "note.txt", f"of {number}")
    tracker.end(key, "FINISHED", {"best": 0.5}, {"state": "complete"})


def assert_whole(uri: str, experiment: str, numbers: range) -> None:
    runs = read_runs(uri, experiment)  # fails on runs and points that are there twice
    assert runs.keys() == {SWEEP, STAGE, *(trial_key(number) for number in numbers)}
    for number in numbers:
        run = runs[trial_key(number)]
        assert run["steps"] == {"val/loss": [1.0, 0.5]}
        assert run["summary"] == {"best": 0.5}
        assert run["artifacts"] == {"note.txt": f"of {number}"}
        assert run["status"] == "FINISHED"


@pytest.mark.parametrize("mode", ["slow", "error", "garbage", "cut", "deaf"])
def test_what_was_tracked_in_an_outage_is_written_afterwards_and_once(
    mode: str, server: Server, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    tracker = MlflowTracker(proxy.uri, mode, mode, flush_s=0.05, backlog=Backlog(limit=8))
    begin(tracker)
    trial(tracker, 0)
    wait_until(lambda: len(tracker._events) == 0)
    proxy.mode = mode
    began = time.monotonic()
    for number in range(1, 4):
        trial(tracker, number)
    assert time.monotonic() - began < 0.5
    wait_until(lambda: proxy.seen >= 2)
    assert tracker._events.in_memory <= 8
    if mode != "slow":
        proxy.mode = "well"
    assert tracker.close() == 0
    assert_whole(server.uri, mode, range(4))


def test_a_full_disk_is_written_to_when_there_is_room_again(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri = copy_of_store(request, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    tracker = MlflowTracker(uri, "full", "full", flush_s=0.05)
    begin(tracker)
    wait_until(lambda: (tmp_path / "mlflow.db-wal").exists() or len(tracker._events) == 0)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "mlflow.db").stat().st_size + 4096, hard))
    try:
        for number in range(10):
            trial(tracker, number)
        wait_until(lambda: any(record.levelname == "WARNING" for record in caplog.records))
        time.sleep(0.5)
        assert tracker._dirty
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert tracker.close() == 0
    assert_whole(uri, "full", range(10))
    # However often it was tried: one line, and no traceback of MLflow's.
    [said] = [record for record in caplog.records if record.levelname != "INFO"]
    assert said.getMessage().startswith(f"MLflow at {uri}: ")
    assert said.getMessage().endswith("; trying again")
    assert "Traceback" not in capfd.readouterr().err


def test_a_wrong_address_is_found_out(server: Server, proxy: Proxy, tmp_path: Path) -> None:
    assert problem_at(server.uri) is None
    proxy.mode = "garbage"
    assert problem_at(proxy.uri) is not None
    (tmp_path / "text").write_text("not a database")
    assert problem_at(f"sqlite:///{tmp_path / 'text'}") is not None
    assert "cannot be written" in str(problem_at(f"sqlite:///{tmp_path / 'text' / 'mlflow.db'}"))
    assert problem_at(f"sqlite:///{tmp_path / 'new' / 'mlflow.db'}") is None
    assert not (tmp_path / "new").exists()


def test_a_killed_server_is_written_to_when_it_is_back(server: Server) -> None:
    tracker = MlflowTracker(server.uri, "killed", "killed", flush_s=0.05)
    begin(tracker)
    for number in range(8):
        trial(tracker, number)
        if number == 4:
            wait_until(lambda: len(tracker._events) == 0)
            server.kill()
            server.start()
    assert tracker.close() == 0
    assert_whole(server.uri, "killed", range(8))


def wait_until(there: Callable[[], object]) -> None:

    limit = time.monotonic() + 60
    while not there():
        assert time.monotonic() < limit
        time.sleep(0.02)
