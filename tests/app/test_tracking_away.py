"""MLflow and the command: a wrong address is refused before a sweep is made; later an outage stops nothing."""

import sys
from pathlib import Path

import pytest
from mlflow_servers import free_port
from mlflow_stores import read_runs

from orchestrator.app.main import main

SMALL = ["stage=lr", "task=breast_cancer", "runner=inline", "trainer.epochs=1", "sampler=random", "n_trials=2"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])


def test_a_wrong_address_is_refused_in_one_line_before_anything_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    assert main([*SMALL, f"tracking.uri=http://me:secret@127.0.0.1:{port}"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert f"127.0.0.1:{port}: MLflow does not answer there: " in captured.err
    assert "tracking=none" in captured.err
    assert "secret" not in captured.err
    assert list(Path().iterdir()) == []


def test_what_an_absent_mlflow_missed_is_written_by_the_next_command(
    mlflow_template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mlflow.db").write_bytes(mlflow_template.read_bytes())
    there = f"tracking.uri=sqlite:///{tmp_path / 'mlflow.db'}"
    assert main([*SMALL, there]) == 0
    away = [f"tracking.uri=http://127.0.0.1:{free_port()}", "tracking.close_timeout_s=0.2", "tracking.flush_s=0.1"]
    assert main([*SMALL, "stage=width", *away]) == 0
    assert "best so far" in capsys.readouterr().out
    # Nothing is left to do, and yet all of the second command is sent, the report that it wrote included.
    assert main([*SMALL, "stage=width", there]) == 0
    runs = read_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "breast_cancer")
    assert runs.keys() == {"sweep", "stage:lr", "stage:width", *(f"trial:{number}" for number in range(4))}
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    assert all(len(runs[f"trial:{number}"]["steps"]["val/loss"]) == 1 for number in range(4))
    report = next(Path("sweeps").glob("*/report.html")).read_text()
    assert runs["sweep"]["artifacts"]["report/report.html"] == report
