"""The verbs that show a sweep: report, logbook, ui."""

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pyarrow.parquet
import pytest
from mlflow import MlflowClient

from orchestrator.app.main import main
from orchestrator.tracking.base import SWEEP, stage_key, trial_key
from orchestrator.tracking.mlflow import MlflowTracker

SMALL = ["task=breast_cancer", "runner=inline", "tracking=none", "trainer.epochs=4", "sampler=random", "n_trials=4"]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PLAIN = ["task=breast_cancer"]
FOLDER = Path("sweeps/breast_cancer-seed0")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])


def test_a_command_that_finished_a_stage_writes_the_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=lr", *SMALL]) == 0
    path = FOLDER.resolve() / "report.html"
    assert f"report: {path}" in capsys.readouterr().out
    first = path.read_text()
    assert "which learning rate?" in first
    # The verb writes the same page, with the sweep's own settings: it is not told trainer.epochs again.
    path.unlink()
    assert main(["stage=report", *PLAIN]) == 0
    assert path.read_text() == first
    # A command that finishes nothing new leaves it alone.
    path.unlink()
    assert main(["stage=lr", *SMALL]) == 0
    assert not path.exists()


def test_a_report_that_fails_does_not_hide_the_result(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(view: object) -> Path:
        raise ZeroDivisionError("a bug in a picture")

    monkeypatch.setattr("orchestrator.app.main.write_report", broken)
    assert main(["stage=lr", *SMALL]) == 0
    output = capsys.readouterr().out
    assert "best learning rate:" in output
    assert "the report could not be written (ZeroDivisionError: a bug in a picture)" in output
    assert "Traceback" in (FOLDER / "orchestrator.log").read_text()


def test_the_report_is_an_artifact_of_the_sweep_in_mlflow(mlflow_template: Path) -> None:
    Path("sweeps").mkdir()
    shutil.copy(mlflow_template, "sweeps/mlflow.db")
    assert main(["stage=lr", *SMALL[:2], "tracking=mlflow", *SMALL[3:]]) == 0
    (found,) = Path("sweeps/mlartifacts").rglob("report.html")
    assert found.read_text() == (FOLDER / "report.html").read_text()
    client = MlflowClient("sqlite:///sweeps/mlflow.db")
    experiment = client.get_experiment_by_name("breast_cancer")
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    runs = {run.data.tags["orchestrator.key"]: run for run in client.search_runs([experiment.experiment_id])}
    sweep, stage = runs["sweep"], runs["stage:lr"]
    pictures = {entry.path for entry in client.list_artifacts(stage.info.run_id, "pictures")}
    assert "pictures/lr-learning-curves.svg" in pictures
    best = min((run for key, run in runs.items() if key.startswith("trial:") and "best" in run.data.metrics),
               key=lambda run: run.data.metrics["best"])  # fmt: skip
    assert f"runs/{best.info.run_id})" in sweep.data.tags["mlflow.note.content"]
    assert f"runs/{best.info.run_id})" in stage.data.tags["mlflow.note.content"]
    assert {used.dataset.name for used in sweep.inputs.dataset_inputs} == {
        "breast_cancer training", "breast_cancer validation"
    }  # fmt: skip
    [model] = client.search_logged_models([experiment.experiment_id])
    assert model.tags["members"] == f"trial {best.data.tags['trial']}"
    assert model.source_run_id == sweep.info.run_id
    assert model.status == "READY"


@pytest.mark.parametrize("verb", ["report", "logbook"])
def test_nothing_to_show_is_said(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"stage={verb}", *PLAIN]) == 4
    assert "nothing has run yet" in capsys.readouterr().err


@pytest.fixture
def _swept(_in_a_folder_of_its_own: None, capsys: pytest.CaptureFixture[str]) -> None:
    main(["stage=lr", *SMALL])
    main(["stage=width", *SMALL])
    capsys.readouterr()


def rows(output: str) -> list[list[str]]:
    return [line.split() for line in output.splitlines()[2:]]


@pytest.mark.usefixtures("_swept")
def test_the_logbook_filters_and_sorts(capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*words: str) -> list[list[str]]:
        assert main(["stage=logbook", *PLAIN, *words]) == 0
        return rows(capsys.readouterr().out)

    assert [row[0] for row in asked()] == [str(number) for number in range(8)]
    assert {row[1] for row in asked("logbook.stage=width")} == {"width"}
    assert {row[2] for row in asked("logbook.state=pruned")} <= {"pruned"}
    values = [float(row[3]) for row in asked("logbook.top=3")]
    assert len(values) == 3
    assert values == sorted(values)
    assert [row[0] for row in asked("+logbook.where.trial.min=2", "+logbook.where.trial.max=4")] == ["2", "3", "4"]
    assert [row[0] for row in asked("+logbook.where.trial=[1,6]")] == ["1", "6"]
    lowest = min(float(row[3]) for row in asked())
    assert len(asked(f"+logbook.where.value.max={lowest + 1e-3}")) >= 1
    assert asked("+logbook.where.optimizer.lr.min=1e9") == []


@pytest.mark.usefixtures("_swept")
def test_the_logbook_goes_to_csv_and_parquet() -> None:
    assert main(["stage=logbook", *PLAIN, "logbook.export=out/trials.csv"]) == 0
    assert main(["stage=logbook", *PLAIN, "logbook.export=out/trials.parquet"]) == 0
    with open("out/trials.csv", newline="") as handle:
        written = list(csv.DictReader(handle))
    table = pyarrow.parquet.read_table("out/trials.parquet").to_pylist()
    assert [int(row["trial"]) for row in written] == [row["trial"] for row in table] == list(range(8))
    assert [float(row["optimizer.lr"]) for row in written] == [row["optimizer.lr"] for row in table]
    assert {"state", "value", "epochs_paid", "seed", "model.width"} <= set(table[0])


@pytest.mark.usefixtures("_swept")
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("+logbook.where.optimizer.rate=1", "logbook.where.optimizer.rate: no such column"),
        (
            "+logbook.where.optimizer.lr.least=1",
            "logbook.where.optimizer.lr: takes a value, a list of values, or min and",
        ),
        ("+logbook.where.state.min=1", "has no order"),
        ("logbook.export=trials.xlsx", "must end in .csv or .parquet"),
    ],
)
def test_a_wrong_filter_is_one_line(word: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=logbook", *PLAIN, word]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.fixture
def tracked(tmp_path: Path, mlflow_template: Path) -> str:
    """A store with a sweep, a stage and more trials than the table of MLflow's pages begins with."""
    shutil.copy(mlflow_template, tmp_path / "store.db")
    tracker = MlflowTracker(f"sqlite:///{tmp_path / 'store.db'}", "digits_mlp", "a-sweep", flush_s=0.05)
    tracker.begin(SWEEP, None, "the-sweep", {}, {"kind": "sweep"})
    tracker.begin(stage_key("lr"), SWEEP, "the-stage", {}, {"kind": "stage"})
    for number in range(105):
        tracker.begin(trial_key(number), stage_key("lr"), f"lr=0.{number:03d}", {}, {"kind": "trial"})
        tracker.end(trial_key(number), "FINISHED", {"best": float(number)}, {"state": "complete"})
    assert tracker.close() == 0
    return f"sqlite:///{tmp_path / 'store.db'}"


def opened(address: str, folder: Path) -> tuple[str, str]:
    """The page's text as a headless browser shows it, and the errors on its console."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         f"--user-data-dir={folder / 'profile'}", "--window-size=1400,1000", "--enable-logging=stderr",
         "--virtual-time-budget=15000", "--dump-dom", address],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line and "rror" in line)


def test_the_pages_of_mlflow_are_served_until_they_are_stopped(tracked: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["-c", "from orchestrator.app.main import main; raise SystemExit(main())", "stage=ui", f"ui.port={port}"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, *words, f"tracking.uri={tracked}"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == f"MLflow: http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        views = dict(process.stdout.readline().strip().split(": ", 1) for _ in range(3))
        assert list(views) == ["sweeps and their stages", "trials, the best first", "failed trials"]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10) as answer:
            assert answer.status == 200
        if CHROMIUM is not None:
            page, errors = opened(views["sweeps and their stages"], tmp_path)
            assert "the-sweep" in page
            assert "lr=0.104" not in page
            assert errors == ""
            page, errors = opened(views["trials, the best first"], tmp_path)
            assert page.index("lr=0.000") < page.index("lr=0.001")
            assert "lr=0.104" not in page, "the worst comes last"
            assert errors == ""
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.stdout.close()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.2)
    pytest.fail("the server outlived the command")


def test_a_store_that_is_not_there_and_a_port_that_is_taken_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=ui"]) == 2
    assert "nothing is tracked yet in" in capsys.readouterr().err
    Path("sweeps").mkdir()
    Path("sweeps/mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["stage=ui", f"ui.port={taken.getsockname()[1]}"]) == 2
    assert "give another one: ui.port=" in capsys.readouterr().err
