"""Kill the driver for real, type the same command again, and nothing is lost or doubled.

Invariant: all stages finish, each with exactly its trials; no trial is left running; every trial has
one MLflow run, with one point per epoch. With the local runner every trial (configuration, seed, curve)
and the winner are those of the undisturbed run.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ["lr", "batch_size", "momentum", "width", "decay", "depth"]
N_TRIALS = 3
WORDS = ["stage=all", "task=breast_cancer", "seed=5", f"n_trials={N_TRIALS}", "trainer.epochs=6",
         "trainer.checkpoint_epochs=2", "sampler.startup_trials=2"]  # fmt: skip


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run.py"), *WORDS, *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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


def kill_after(folder: Path, trials: int, number: signal.Signals, *words: str) -> tuple[int, str]:
    """Start the command, send the signal when ``trials`` trials have reported; exit code and output."""
    process = start(folder, *words)
    deadline = time.monotonic() + 120
    while started_trials(folder) < trials and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()[0]
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def trials(folder: Path) -> list[dict]:
    """Every stored trial: stage, configuration, seed, state and curve, read with Optuna's own tools."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(sweep(folder) / "study.journal")))
    study = optuna.load_study(study_name="breast_cancer-seed5", storage=storage)
    return [
        {
            "stage": trial.user_attrs["stage"],
            "configuration": trial.user_attrs["configuration"],
            "seed": trial.user_attrs["seed"],
            "state": trial.state.name,
            "curve": trial.intermediate_values,
        }
        for trial in study.get_trials()
    ]


def check_invariant(folder: Path) -> None:
    found = trials(folder)
    assert [trial["stage"] for trial in found] == [stage for stage in STAGES for _ in range(N_TRIALS)]
    assert all(trial["state"] in ("COMPLETE", "PRUNED") for trial in found)
    ledger = json.loads((sweep(folder) / "ledger.json").read_text())
    assert list(ledger["stages"]) == [*STAGES, "ensemble"]


def check_mlflow(folder: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'sweeps' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("breast_cancer")
    runs = client.search_runs([experiment.experiment_id], max_results=1000)
    keys = sorted(run.data.tags["orchestrator.key"] for run in runs)
    expected = ["sweep", *(f"stage:{name}" for name in [*STAGES, "ensemble"])]
    assert keys == sorted(expected + [f"trial:{number}" for number in range(len(STAGES) * N_TRIALS)])
    stored = trials(folder)
    for run in runs:
        assert run.info.status == "FINISHED", run.data.tags
        key = run.data.tags["orchestrator.key"]
        if key.startswith("trial:"):
            history = client.get_metric_history(run.info.run_id, "val/loss")
            curve = stored[int(key.removeprefix("trial:"))]["curve"]
            assert [point.step for point in history] == sorted(curve)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    finish(folder, "runner=local", "tracking=none")
    return folder


def test_sigkill_of_the_driver_with_the_local_runner(tmp_path: Path, undisturbed: Path) -> None:
    for reached in (2, 8, 14):
        code, _ = kill_after(tmp_path, reached, signal.SIGKILL, "runner=local")
        assert code == -signal.SIGKILL
    finish(tmp_path, "runner=local")
    check_invariant(tmp_path)
    check_mlflow(tmp_path)
    assert trials(tmp_path) == trials(undisturbed)
    winner = "experiment/winner.yaml"
    ours = (sweep(tmp_path) / winner).read_text().splitlines()[3:]
    assert ours == (sweep(undisturbed) / winner).read_text().splitlines()[3:]


def test_sigkill_of_the_driver_with_ray(tmp_path: Path) -> None:
    code, _ = kill_after(tmp_path, 7, signal.SIGKILL)
    assert code == -signal.SIGKILL
    finish(tmp_path)
    check_invariant(tmp_path)
    check_mlflow(tmp_path)


def test_ctrl_c_ends_in_good_order_and_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    code, output = kill_after(tmp_path, 5, signal.SIGINT, "runner=local", "tracking=none")
    assert code == 130, output
    assert "the same command goes on from here" in output
    assert "Traceback" not in output
    running = [trial for trial in trials(tmp_path) if trial["state"] == "RUNNING"]
    assert len(running) <= 1
    output = finish(tmp_path, "runner=local", "tracking=none")
    assert "finished before; skipped" in output
    check_invariant(tmp_path)
    assert trials(tmp_path) == trials(undisturbed)


def test_one_ray_worker_gives_the_trials_of_the_local_runner(tmp_path: Path, undisturbed: Path) -> None:
    finish(tmp_path, "runner=ray", "runner.workers=1", "tracking=none")
    assert trials(tmp_path) == trials(undisturbed)


def test_a_finished_sweep_is_not_run_again(undisturbed: Path) -> None:
    before = trials(undisturbed)
    output = finish(undisturbed, "runner=local", "tracking=none")
    assert output.count("finished before; skipped") == len(STAGES) + 1
    assert trials(undisturbed) == before
