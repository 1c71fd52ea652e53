"""The study on a real PostgreSQL server, which goes away in the middle; MLflow on the same one."""

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from mlflow import MlflowClient
from postgres import PostgresServer
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from orchestrator.app.main import main
from orchestrator.errors import SweepLockedError
from orchestrator.study.server import StudyServer
from orchestrator.study.study import SweepStudy

TRIALS, EPOCHS = 6, 3
WORDS = ["stage=lr", "task=breast_cancer", "runner=inline", "sampler=random", "pruner=none", f"n_trials={TRIALS}",
         f"trainer.epochs={EPOCHS}", "recipe.repeats=0"]  # fmt: skip


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.remove()


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


def stored(server: PostgresServer, name: str) -> list[optuna.trial.FrozenTrial]:
    """Read with Optuna's own tools."""
    url = server.url.replace("postgresql:", "postgresql+psycopg:")
    storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
    [study] = [each for each in optuna.get_all_study_names(storage) if each.startswith(name)]
    return optuna.load_study(study_name=study, storage=storage).get_trials()


def test_a_sweep_goes_on_while_the_server_is_away_with_nothing_lost_or_doubled(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is killed at a report and at a trial's end, and is away for a second; one commit's answer is lost."""
    away: list[str] = []

    def outage(name: str, at: int) -> None:
        method, calls = getattr(SweepStudy, name), iter(range(10_000))

        def call(*args: object, **kwargs: object) -> object:
            if next(calls) == at:
                away.append(name)
                server.stop()
                threading.Timer(1.0, server.start).start()
            return method(*args, **kwargs)

        monkeypatch.setattr(SweepStudy, name, call)

    outage("report", 4)
    outage("finish", 3)
    commit = Session.commit

    def unheard(session: Session) -> None:
        creates = any(type(item).__name__ == "TrialModel" for item in session.identity_map.values())
        commit(session)
        if creates and away and "commit" not in away and sys._getframe(4).f_code.co_name == "_create_new_trial":
            away.append("commit")
            raise OperationalError("COMMIT", {}, Exception("connection lost"), connection_invalidated=True)

    monkeypatch.setattr(Session, "commit", unheard)
    words = [*WORDS, f"sweep.storage={server.url}", f"tracking.uri={server.other_url}"]
    assert main(words) == 0
    assert away == ["report", "commit", "finish"]
    assert not Path("sweeps/breast_cancer-seed0/study.journal").exists()
    trials = stored(server, "breast_cancer-seed0")
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * TRIALS
    assert [sorted(trial.intermediate_values) for trial in trials] == [list(range(1, EPOCHS + 1))] * TRIALS
    client = MlflowClient(server.other_url)
    experiment = client.get_experiment_by_name("breast_cancer")
    assert experiment is not None
    losses = {
        run.data.tags["orchestrator.key"]: [p.step for p in client.get_metric_history(run.info.run_id, "val/loss")]
        for run in client.search_runs([experiment.experiment_id])
    }
    own = {f"trial:{number}": list(range(1, EPOCHS + 1)) for number in range(TRIALS)}
    assert losses == {"sweep": [], "stage:lr": [], **own}
    capsys.readouterr()
    assert main([*words, "stage=status"]) == 0
    assert f" {TRIALS} " in next(
        line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("lr")
    )


def test_a_second_driver_is_refused_with_the_first_one_named(server: PostgresServer) -> None:
    first, second = StudyServer(server.url), StudyServer(server.url)
    first.hold("one")
    with pytest.raises(SweepLockedError, match=r"process \d+ on "):
        second.hold("one")
    second.hold("another")
    # A connection that ends, as with a killed process, frees it.
    first.close()
    deadline = time.monotonic() + 10
    while True:
        try:
            second.hold("one")
            break
        except SweepLockedError:
            assert time.monotonic() < deadline
    second.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://host/db", "must begin with postgresql://"),
        ("postgresql://me:hidden-word@127.0.0.1:1/db", "PostgreSQL does not answer there"),
    ],
)
def test_a_wrong_url_is_refused_before_a_sweep_is_made(
    url: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*WORDS, "tracking=none", f"sweep.storage={url}"]) == 2
    told = capsys.readouterr().err
    assert says in told
    assert "hidden-word" not in told
    assert not Path("sweeps/breast_cancer-seed0").exists()
