"""Trials that hang, kill their worker, run out of memory or raise: each is named everywhere, and the rest goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from failing_task import HANGS, KILLED, NO_MEMORY, RAISES
from leftovers import Belongings, workers
from mlflow_stores import read_runs

from orchestrator import compose
from orchestrator.report.view import read_view
from orchestrator.stages.sweep import make_plan

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
TASK = ["task=custom", "task.name=failing", "task._target_=failing_task.Failing", "trainer.epochs=1"]
REASONS = {HANGS: "hang", KILLED: "worker_died", NO_MEMORY: "host_out_of_memory", RAISES: "user_error"}


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), "stage=lr", *TASK, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_every_failure_is_named_in_study_mlflow_and_report(
    tmp_path: Path, mlflow_template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "mlflow.db"
    store.write_bytes(mlflow_template.read_bytes())
    starts = ", ".join(f"{{data: {{batch_size: {size}}}}}" for size in (64, *REASONS))
    words = ["runner=local", "sampler=random", "pruner=none", "n_trials=6", f"sampler.start=[{starts}]"]
    limits = ["failure.heartbeat_s=10", "failure.max_restarts=1"]
    process = start(tmp_path, *words, *limits, f"tracking.uri=sqlite:///{store}")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert "trial 1 is infeasible: hang: it finished no epoch for failure.heartbeat_s=10 seconds" in output
    assert output.count("it goes on from its last checkpoint with another (restart 1 of at most 1)") == 1
    assert "trial 3 is infeasible: host_out_of_memory: MemoryError" in output
    assert "trial 4 is infeasible: user_error: ValueError: no such batch" in output

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(HELPERS))
    records = read_view(make_plan(compose(["stage=lr", *TASK, *words]))).records
    found = {record.configuration["data.batch_size"]: record.reason for record in records}
    assert {size: found[size] for size in REASONS} == REASONS
    assert [record.state for record in records if record.number in (0, 5)] == ["complete", "complete"]
    runs = read_runs(f"sqlite:///{store}", "failing")
    for number, reason in enumerate(REASONS.values(), start=1):
        assert runs[f"trial:{number}"]["status"] == "FAILED"
        assert runs[f"trial:{number}"]["tags"]["reason"] == reason
    assert runs["trial:2"]["tags"]["restarts"] == "1"
    page = next(tmp_path.glob("sweeps/*/report.html")).read_text()
    assert all(reason in page for reason in REASONS.values())


@pytest.mark.parametrize("runner", ["local", "ray"])
def test_a_second_ctrl_c_ends_at_once_and_leaves_nothing(runner: str, tmp_path: Path) -> None:
    process = start(tmp_path, f"runner={runner}", "tracking=none", f"data.batch_size={HANGS}")
    deadline = time.monotonic() + 120
    while not workers(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(3)
    belongings = Belongings.of(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None, "the first one waits for the running epoch"
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - began < 20
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert belongings.left() == []
