"""Kill the driver for real, type the same command again, and nothing is lost or doubled.

Invariant: all stages finish; no trial is left running; the trials cost the budget and no more;
every trial has one MLflow run, with one point for each epoch that it trained itself. With one worker every trial
(configuration, seed, parent, curve) and the winner are those of the undisturbed run.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from killed_sweeps import differences, finished, lost_or_doubled, trials, wrongly_tracked
from leftovers import Belongings

from orchestrator.preflight.registry import checks

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 6
CHECKS = ("task_runs", "finite_data", "init_loss")
"""Of the preflight: enough to be killed in."""
WORDS = ["stage=all", "task=breast_cancer", "seed=5", f"trainer.epochs={EPOCHS}", "trainer.checkpoint_epochs=2",
         "recipe.budget={high: 1.5, medium: 1.0, low: 0.5}", "stages.joint.budget=4",
         "finalists.top=2", "finalists.seeds=2", "finalists.budget_factor=1.5",
         f"preflight.skip=[{','.join(row.name for row in checks() if row.name not in CHECKS)}]"]  # fmt: skip
TOTAL = round(EPOCHS * (4 * 1.5 + 3 * 1.0 + 4))


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run.py"), *WORDS, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # In a session of its own, as in a terminal: Ctrl-C there reaches every process.
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(folder: Path, *words: str) -> str:
    process = start(folder, *words)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def sweep(folder: Path) -> Path:
    return folder / "sweeps" / "breast_cancer-seed5"


def started_trials(folder: Path) -> int:
    return len(list((sweep(folder) / "trials").glob("*")))


def reach(folder: Path, trials: int, *words: str) -> subprocess.Popen[str]:
    """Start the command; returns when ``trials`` more trials have reported."""
    enough = started_trials(folder) + trials
    process = start(folder, *words)
    deadline = time.monotonic() + 120
    while started_trials(folder) < enough and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    return process


def kill_after(folder: Path, trials: int, number: signal.Signals, *words: str) -> tuple[int, str]:
    """Send the signal when ``trials`` more trials have reported; exit code and output. Nothing may be left behind."""
    process = reach(folder, trials, *words)
    belongings = Belongings.of(process.pid)
    assert any("orchestrator/start.py" in w or w.startswith("ray::") for w in belongings.processes.values())
    if number is signal.SIGINT or (number is signal.SIGTERM and "runner=local" in words):
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert belongings.left() == []
    return process.returncode, output


def check(folder: Path, like: Path) -> None:
    assert lost_or_doubled(sweep(folder), sweep(like), TOTAL) == []
    assert any(trial["parent"] is not None for trial in trials(sweep(folder)))


def check_mlflow(folder: Path) -> None:
    uri = f"sqlite:///{folder / 'sweeps' / 'mlflow.db'}"
    assert wrongly_tracked(uri, "breast_cancer", sweep(folder)) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder, "runner=local", "tracking=none")
    return folder


def test_sigkill_of_the_driver_with_the_local_runner(tmp_path: Path, undisturbed: Path) -> None:
    code, _ = kill_after(tmp_path, 9, signal.SIGKILL, "runner=local")
    assert code == -signal.SIGKILL
    finish(tmp_path, "runner=local")
    check(tmp_path, undisturbed)
    check_mlflow(tmp_path)
    assert differences(sweep(tmp_path), sweep(undisturbed)) == []


def test_sigterm_and_sigkill_of_the_driver_with_ray(tmp_path: Path, undisturbed: Path) -> None:
    code, output = kill_after(tmp_path, 3, signal.SIGTERM)
    assert code == 130, output
    assert "the same command goes on from here" in output
    assert "SIGTERM" not in output  # Ray's own handler would print a stack
    code, _ = kill_after(tmp_path, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    finish(tmp_path)
    check(tmp_path, undisturbed)
    check_mlflow(tmp_path)


def test_ctrl_c_and_preemption_end_in_good_order_and_go_on(tmp_path: Path, undisturbed: Path) -> None:
    code, _ = kill_after(tmp_path, 2, signal.SIGTERM, "runner=local", "tracking=none")
    assert code == 130
    code, output = kill_after(tmp_path, 5, signal.SIGINT, "runner=local", "tracking=none")
    assert code == 130, output
    assert "the same command goes on from here" in output
    assert "Traceback" not in output
    running = [trial for trial in trials(sweep(tmp_path)) if trial["state"] == "RUNNING"]
    assert len(running) <= 1
    output = finish(tmp_path, "runner=local", "tracking=none")
    assert "finished before; skipped" in output
    check(tmp_path, undisturbed)
    assert differences(sweep(tmp_path), sweep(undisturbed)) == []


def test_one_ray_worker_gives_the_trials_of_the_local_runner(tmp_path: Path, undisturbed: Path) -> None:
    """Also where Ctrl-C has come between: to every process, Ray's own among them, as a terminal sends it."""
    words = ("runner=ray", "runner.workers=1", "tracking=none")
    code, output = kill_after(tmp_path, 4, signal.SIGINT, *words)
    assert code == 130, output
    assert "the same command goes on from here" in output
    assert "Traceback" not in output
    finish(tmp_path, *words)
    check(tmp_path, undisturbed)
    assert differences(sweep(tmp_path), sweep(undisturbed)) == []


def test_a_finished_sweep_is_not_run_again(undisturbed: Path) -> None:
    before = trials(sweep(undisturbed))
    output = finish(undisturbed, "runner=local", "tracking=none")
    assert output.count("finished before; skipped") == len(finished(sweep(undisturbed)))
    assert trials(sweep(undisturbed)) == before


def test_sigkill_while_the_tracking_store_is_made(tmp_path: Path) -> None:
    """The tables are made aside: the next command finds no store or a whole one."""
    from mlflow import MlflowClient

    store = tmp_path / "mlflow.db"
    code = (
        "from orchestrator.tracking.mlflow import MlflowTracker\n"
        f"tracker = MlflowTracker('sqlite:///{store}', 'kill', 'one', flush_s=0.01)\n"
        "tracker.begin('sweep', None, 'sweep', {}, {})\n"
        "tracker.close()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    deadline = time.monotonic() + 60
    while not any(file.stat().st_size > 100_000 for file in tmp_path.glob(".mlflow-*/mlflow.db")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert not store.exists()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
    client = MlflowClient(f"sqlite:///{store}")
    assert len(client.search_runs([client.get_experiment_by_name("kill").experiment_id])) == 1
