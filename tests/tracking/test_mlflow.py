"""MLflow away, slow or unwilling: nothing waits for it, and nothing is lost."""

import logging
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow_stores import SWEEP_ID, copy_of_store, read_runs

from orchestrator.tracking.base import SWEEP, Tracker, stage_key, trial_key
from orchestrator.tracking.mlflow import KEY_TAG, MlflowTracker

STAGE = stage_key("lr")
EVENTS = 2 + 3 * 4


@pytest.fixture
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return copy_of_store(request, tmp_path)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's own retries would outlive the test in a thread."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")


@contextmanager
def silent_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(16)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def nobody() -> Iterator[str]:
    """A port at which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def sweep(tracker: Tracker) -> None:
    """EVENTS calls."""
    tracker.begin(SWEEP, None, "digits", {"seed": 0}, {"kind": "sweep"})
    tracker.begin(STAGE, SWEEP, "lr", {}, {"kind": "stage"})
    for number in range(3):
        key = trial_key(number)
        tracker.begin(key, STAGE, f"trial {number}", {"optimizer.lr": 0.1 * number}, {"trial": str(number)})
        tracker.log(key, 1, {"val/loss": 2.0})
        tracker.log(key, 2, {"val/loss": 1.0})
        tracker.end(key, "FINISHED", {"best": 1.0}, {"state": "complete"})


def assert_whole(runs: dict[str, dict[str, Any]]) -> None:
    assert runs.keys() == {SWEEP, STAGE, *(trial_key(number) for number in range(3))}
    for number in range(3):
        run = runs[trial_key(number)]
        assert run["parent"] == STAGE
        assert run["status"] == "FINISHED"
        assert run["steps"] == {"val/loss": [2.0, 1.0]}
        assert run["summary"] == {"best": 1.0}
        assert run["tags"] == {"trial": str(number), "state": "complete"}
        assert run["params"] == {"optimizer.lr": str(0.1 * number)}


@pytest.mark.parametrize("server", [nobody, silent_server])
def test_calls_return_and_close_counts_what_is_unwritten(server: Callable[[], Any], uri: str) -> None:
    with server() as away:
        tracker = MlflowTracker(away, "digits", SWEEP_ID, flush_s=0.1, close_timeout_s=1)
        sweep(tracker)
        assert tracker.close() == EVENTS
    later = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.1)
    sweep(later)
    assert later.close() == 0
    assert_whole(read_runs(uri, "digits"))


def test_close_says_that_events_are_left(caplog: pytest.LogCaptureFixture) -> None:
    with nobody() as away, caplog.at_level(logging.WARNING, "orchestrator"):
        tracker = MlflowTracker(away, "digits", SWEEP_ID, flush_s=0.1, close_timeout_s=1)
        sweep(tracker)
        tracker.close()
        # The writer gives up with the command: no thread is left behind.
        tracker._thread.join(30)
        assert not tracker._thread.is_alive()
    assert any(f"{EVENTS} events are not written" in message for message in caplog.messages)
    assert sum("trying again" in message for message in caplog.messages) == 1


def failing(times: int, call: Callable[..., Any], error: Exception) -> tuple[Callable[..., Any], list[int]]:
    """``call``, which raises ``error`` the first ``times`` times; and how often it did."""
    failed: list[int] = []

    def faulty(*args: Any, **settings: Any) -> Any:
        if len(failed) < times:
            failed.append(1)
            raise error
        return call(*args, **settings)

    return faulty, failed


@pytest.mark.parametrize("name", ["search_runs", "create_run", "log_batch", "set_terminated", "create_experiment"])
def test_the_backlog_is_written_when_mlflow_is_back(name: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # An error without a text is one that the writer must survive too.
    faulty, failed = failing(3, getattr(MlflowClient, name), ConnectionError())
    monkeypatch.setattr(MlflowClient, name, faulty)
    tracker = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05)
    sweep(tracker)
    assert tracker.close() == 0
    assert len(failed) == 3
    monkeypatch.undo()
    assert_whole(read_runs(uri, "digits"))


def test_parameters_lost_between_two_calls_are_written_by_the_next_command(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty, failed = failing(10**9, MlflowClient.log_batch, ConnectionError("gone"))
    monkeypatch.setattr(MlflowClient, "log_batch", faulty)
    tracker = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05, close_timeout_s=1)
    sweep(tracker)
    assert tracker.close() > 0
    tracker._thread.join(30)
    assert failed
    monkeypatch.undo()
    assert SWEEP in read_runs(uri, "digits")
    later = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05)
    sweep(later)
    assert later.close() == 0
    runs = read_runs(uri, "digits")
    assert runs[SWEEP]["params"] == {"seed": "0"}
    assert_whole(runs)


def test_a_run_that_mlflow_refuses_does_not_hold_up_the_others(uri: str, caplog: pytest.LogCaptureFixture) -> None:
    first = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05)
    first.begin(SWEEP, None, "digits", {}, {})
    assert first.close() == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits")
    [run] = client.search_runs([experiment.experiment_id])

    with caplog.at_level(logging.WARNING, "orchestrator"):
        tracker = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05)
        tracker.begin(SWEEP, None, "digits", {}, {})
        tracker.begin(STAGE, SWEEP, "lr", {}, {})
        wait_until(lambda: len(client.search_runs([experiment.experiment_id])) == 2)
        # The user deletes the sweep's run in MLflow's own pages while the sweep goes on.
        client.delete_run(run.info.run_id)
        tracker.log(SWEEP, 1, {"best": 1.0})
        tracker.begin(trial_key(0), STAGE, "trial 0", {}, {})
        tracker.end(trial_key(0), "FINISHED", {"best": 1.0}, {})
        tracker.end(SWEEP, "FINISHED", {}, {})
        assert tracker.close() == 0
    left = {found.data.tags[KEY_TAG]: found for found in client.search_runs([experiment.experiment_id])}
    assert left.keys() == {STAGE, trial_key(0)}
    assert left[trial_key(0)].info.status == "FINISHED"
    assert sum("does not take sweep" in message for message in caplog.messages) == 1


def wait_until(there: Callable[[], bool]) -> None:
    limit = time.monotonic() + 60
    while not there():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_names_that_mlflow_does_not_allow_are_changed(uri: str) -> None:
    tracker = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05)
    tracker.begin(SWEEP, None, "digits", {}, {})
    tracker.log(SWEEP, 1, {"val/f1@0.5": 0.5})
    tracker.end(SWEEP, "FINISHED", {"best(f1)": 0.5}, {})
    assert tracker.close() == 0
    run = read_runs(uri, "digits")[SWEEP]
    assert run["steps"] == {"val/f1_0.5": [0.5]}
    assert run["summary"] == {"best_f1_": 0.5}


def test_more_than_one_call_holds_is_written_in_parts(uri: str) -> None:
    tracker = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05)
    tracker.begin(SWEEP, None, "digits", {f"p{index}": "x" * 7000 for index in range(150)}, {})
    for epoch in range(1, 401):
        tracker.log(SWEEP, epoch, {"a": 0.1, "b": 0.2})
    assert tracker.close() == 0
    run = read_runs(uri, "digits")[SWEEP]
    assert len(run["params"]) == 150
    assert set(run["params"].values()) == {"x" * 6000}
    assert len(run["steps"]["a"]) == len(run["steps"]["b"]) == 400


def test_another_sweep_of_the_same_experiment_is_left_alone(uri: str) -> None:
    for sweep_id in ("one", "two"):
        tracker = MlflowTracker(uri, "digits", sweep_id, flush_s=0.05)
        sweep(tracker)
        assert tracker.close() == 0
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("digits").experiment_id
    for sweep_id in ("one", "two"):
        own = client.search_runs([experiment], f"tags.`orchestrator.sweep_id` = '{sweep_id}'")
        assert len(own) == 5
        by_key = {run.data.tags[KEY_TAG]: run for run in own}
        children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{by_key[STAGE].info.run_id}'")
        assert {run.info.run_id for run in children} == {by_key[trial_key(n)].info.run_id for n in range(3)}
        assert by_key[STAGE].data.tags["mlflow.parentRunId"] == by_key[SWEEP].info.run_id


def test_artifacts_lie_beside_the_store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    tracker = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05)
    tracker.begin(SWEEP, None, "digits", {}, {})
    tracker.artifact(SWEEP, "config.yaml", "seed: 0\n")
    assert tracker.close() == 0
    assert list(elsewhere.iterdir()) == []
    assert [path.read_text() for path in tmp_path.rglob("config.yaml")] == ["seed: 0\n"]


def test_a_server_s_address_is_not_printed_for_each_trial(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", raising=False)
    tracker = MlflowTracker(uri, "digits", SWEEP_ID, flush_s=0.05)
    assert tracker.close() == 0
    # MLflow prints only with a server, and asks this first.
    from mlflow.environment_variables import MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT

    assert MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.get() is True
