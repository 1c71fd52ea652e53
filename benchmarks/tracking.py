"""What logging to MLflow costs a trial: our tracker, Ray's callback and Optuna's, in SQLite and over HTTP.

``python benchmarks/tracking.py``; with ``--stage`` also the share of a real stage's wall time. See README.md beside
this file.
"""

import argparse
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
PARAMS = 20
"""Hyperparameters of a trial, as many as the shipped tasks have."""
METRICS = ("loss", "accuracy", "train/loss", "train/accuracy", "grad_norm", "seconds")
SIDES = ("ours", "ray", "optuna", "optuna, every epoch")
STORES = ("sqlite", "http")
TENTH = 0.1
STAGE_SHARE = 0.02
"""The goals: a tenth of the rivals' time, and 2 % of a real stage's."""


class Clock:
    """Sums what the loop waits for."""

    def __init__(self, epoch_s: float) -> None:
        self.epoch_s = epoch_s
        self.waited = 0.0
        self.at_end = 0.0
        """Seconds that the end waits for what is not yet written."""

    def train(self) -> None:
        time.sleep(self.epoch_s)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began


def params(trial: int) -> dict[str, float]:
    return {f"optimizer.p{index}": trial + index / 7 for index in range(PARAMS)}


def metrics(trial: int, epoch: int) -> dict[str, float]:
    rng = random.Random(trial * 1000 + epoch)
    return {name: rng.random() / epoch for name in METRICS}


def run_ours(uri: str, trials: int, epochs: int, clock: Clock) -> None:
    from orchestrator.tracking.base import SWEEP, stage_key, trial_key
    from orchestrator.tracking.mlflow import MlflowTracker

    tracker = MlflowTracker(uri, "ours", "benchmark", close_timeout_s=600)
    with clock.waiting():
        tracker.begin(SWEEP, None, "sweep", {}, {})
        tracker.begin(stage_key("lr"), SWEEP, "lr", {}, {})
    for trial in range(trials):
        with clock.waiting():
            tracker.begin(trial_key(trial), stage_key("lr"), f"lr={trial}", params(trial), {"stage": "lr"})
        for epoch in range(1, epochs + 1):
            clock.train()
            with clock.waiting():
                tracker.log(trial_key(trial), epoch, metrics(trial, epoch))
        with clock.waiting():
            tracker.end(trial_key(trial), "FINISHED", {"best": 1.0, "epochs": float(epochs)}, {"state": "complete"})
    began = time.perf_counter()
    assert tracker.close() == 0
    clock.at_end = time.perf_counter() - began


def run_ray(uri: str, trials: int, epochs: int, clock: Clock) -> None:
    """Ray's callback, called as Tune's loop calls it, without Tune."""
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    class Trial:
        def __init__(self, number: int) -> None:
            self.config = params(number)
            self.number = number

        def __str__(self) -> str:
            return f"trial_{self.number}"

    callback = MLflowLoggerCallback(tracking_uri=uri, experiment_name="ray")
    callback.setup()
    for number in range(trials):
        trial = Trial(number)
        with clock.waiting():
            callback.log_trial_start(trial)
        for epoch in range(1, epochs + 1):
            clock.train()
            with clock.waiting():
                callback.log_trial_result(epoch, trial, {**metrics(number, epoch), "training_iteration": epoch})
        with clock.waiting():
            callback.log_trial_end(trial)


def run_optuna(uri: str, trials: int, epochs: int, clock: Clock, *, every_epoch: bool) -> None:
    """Optuna's callback, which writes a trial's value and parameters; or its decorator, with metrics each epoch."""
    import mlflow
    import optuna
    from optuna_integration import MLflowCallback

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    callback = MLflowCallback(tracking_uri=uri, metric_name="best")

    def objective(trial: optuna.Trial) -> float:
        for index in range(PARAMS):
            trial.suggest_float(f"optimizer.p{index}", 0, 1)
        for epoch in range(1, epochs + 1):
            clock.train()
            if every_epoch:
                with clock.waiting():
                    mlflow.log_metrics(metrics(trial.number, epoch), step=epoch)
        return 1.0

    study = optuna.create_study(study_name="optuna", sampler=optuna.samplers.RandomSampler(seed=0))
    if every_epoch:
        decorated = callback.track_in_mlflow()(objective)
        for _ in range(trials):
            trained = clock.waited
            began = time.perf_counter()
            study.optimize(decorated, n_trials=1)
            # What the decorator adds around the objective: all of the time, less training and what is counted.
            inside = clock.waited - trained
            clock.waited += max(0.0, time.perf_counter() - began - inside - clock.epoch_s * epochs)
        return

    def timed(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        with clock.waiting():
            callback(study, trial)

    study.optimize(objective, n_trials=trials, callbacks=[timed])


def run_side(side: str, uri: str, trials: int, epochs: int, epoch_s: float) -> dict[str, float]:
    # Here, so that the seconds of the import are nobody's.
    import mlflow  # noqa: F401

    clock = Clock(epoch_s)
    sides: dict[str, Callable[[], None]] = {
        "ours": lambda: run_ours(uri, trials, epochs, clock),
        "ray": lambda: run_ray(uri, trials, epochs, clock),
        "optuna": lambda: run_optuna(uri, trials, epochs, clock, every_epoch=False),
        "optuna, every epoch": lambda: run_optuna(uri, trials, epochs, clock, every_epoch=True),
    }
    began, cpu = time.perf_counter(), time.process_time()
    sides[side]()
    written = written_runs(uri)
    return {
        "call_ms": 1000 * clock.waited / trials,
        "wait_ms": 1000 * (clock.waited + clock.at_end) / trials,
        "cpu_ms": 1000 * (time.process_time() - cpu) / trials,
        "wall_s": time.perf_counter() - began,
        "runs": written,
    }


def written_runs(uri: str) -> float:
    """Runs found in the store: that nothing is missing."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    return float(len(client.search_runs(ids, max_results=5000)))


@contextmanager
def store(kind: str, template: bytes) -> Iterator[str]:
    """A fresh SQLite file, or MLflow's server in front of one."""
    with tempfile.TemporaryDirectory(prefix="tracking-") as name:
        path = Path(name) / "mlflow.db"
        path.write_bytes(template)
        uri = f"sqlite:///{path}"
        if kind == "sqlite":
            yield uri
            return
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        words = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--port", str(port)]
        server = subprocess.Popen(
            [*words, "--workers", "1", "--host", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=name,
            start_new_session=True,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health")
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def wait_for(address: str) -> None:
    until = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < until, address
            time.sleep(0.3)


def child(words: Sequence[str]) -> dict[str, float]:
    """A measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{' '.join(words)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_stage(folder: Path) -> dict[str, float]:
    """A real stage with the tracker: what its calls and its end take of the stage's wall time."""
    from orchestrator.app.main import main as command
    from orchestrator.tracking.mlflow import MlflowTracker

    spent = {"calls": 0.0, "close": 0.0}

    def timed(name: str, part: str) -> None:
        call = getattr(MlflowTracker, name)

        def wrapped(*given: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*given, **named)
            finally:
                spent[part] += time.perf_counter() - began

        setattr(MlflowTracker, name, wrapped)

    for name in ("begin", "log", "artifact", "file", "dataset", "model", "end"):
        timed(name, "calls")
    timed("close", "close")
    sys.argv = ["run.py"]
    began = time.perf_counter()
    assert command(["stage=lr", "task=digits_cnn", "runner=local", f"sweep.dir={folder}"]) == 0
    wall = time.perf_counter() - began
    return {"wall_s": wall, "calls_s": spent["calls"], "close_s": spent["close"]}


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows)


def compare(words: argparse.Namespace) -> list[list[str]]:
    """All sides at both stores, in turn; a row for each."""
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "template.db"
        code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{path}').search_experiments()"
        subprocess.run([sys.executable, "-c", code], check=True, timeout=300, capture_output=True)
        template = path.read_bytes()
    found: dict[tuple[str, str], list[Mapping[str, float]]] = {}
    for _ in range(words.repeats):
        for kind in STORES:
            for side in SIDES:
                with store(kind, template) as uri:
                    numbers = [f"--{k}={getattr(words, k)}" for k in ("trials", "epochs")]
                    run = child(["--side", side, "--uri", uri, *numbers, f"--epoch-s={words.epoch_s}"])
                assert run["runs"] >= words.trials, f"{side} wrote {run['metrics']} runs"
                found.setdefault((kind, side), []).append(run)
    rows = [["store", "side", "ms a trial waits", "with the end", "CPU ms a trial", "ours / it"]]
    for kind in STORES:
        own = statistics.median(run["wait_ms"] for run in found[kind, "ours"])
        for side in SIDES:
            keys = ("call_ms", "wait_ms", "cpu_ms")
            call, wait, cpu = (statistics.median(run[k] for run in found[kind, side]) for k in keys)
            ratio = own / wait
            met = "" if side == "ours" else " met" if ratio <= TENTH else " NOT met"
            rows.append(
                [
                    kind,
                    side,
                    f"{call:.2f}",
                    f"{wait:.1f}",
                    f"{cpu:.1f}",
                    "" if side == "ours" else f"{ratio:.3f}{met}",
                ]
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--epoch-s", type=float, default=0.1, help="seconds that training an epoch takes")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--stage", action="store_true", help="also the share of a real stage's time (minutes)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--uri", help=argparse.SUPPRESS)
    parser.add_argument("--stage-in", type=Path, help=argparse.SUPPRESS)
    words = parser.parse_args()
    if words.side:
        print(json.dumps(run_side(words.side, words.uri, words.trials, words.epochs, words.epoch_s)))
        return
    if words.stage_in:
        print("\n" + json.dumps(run_stage(words.stage_in)))
        return
    what = f"{words.trials} trials of {words.epochs} epochs of {words.epoch_s} s, {len(METRICS)} metrics an epoch"
    print(f"{what}, {PARAMS} parameters; {platform.platform()}, {os.cpu_count()} cores\n")
    print(table(compare(words)))
    if words.stage:
        with tempfile.TemporaryDirectory() as folder:
            run = child(["--stage-in", folder])
        share = (run["calls_s"] + run["close_s"]) / run["wall_s"]
        met = "met" if share <= STAGE_SHARE else "NOT met"
        print(
            f"\na real stage (lr of digits_cnn, runner=local): {run['wall_s']:.1f} s, of which calls take "
            f"{run['calls_s']:.3f} s and the end waits {run['close_s']:.2f} s: {share:.1%} {met}"
        )


if __name__ == "__main__":
    main()
