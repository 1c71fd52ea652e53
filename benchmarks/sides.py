"""One measured run in a process of its own: ``python benchmarks/sides.py SIDE --trials N --folder DIR``.

``overhead.py`` starts this, once per run. The sides do the same work: N trials of three results each, an
objective that computes nothing, two workers, no checkpoints. Times are counted from the first result;
everything before that is start-up.
"""

import argparse
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# So that plain Tune starts both workers at once: by default it asks for one trial at a time while they start.
os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "2"

WORKERS = 2
RESULTS = 3
LOW, HIGH = 1e-5, 1.0


def loss(rate: float, epoch: int) -> float:
    """The empty objective: finite, different for each trial, better with each epoch."""
    return abs(rate - 0.1) + 1.0 / epoch


def metrics(rate: float, epoch: int) -> dict[str, float]:
    """What each side reports besides the objective."""
    return {
        "train_loss": 2 * loss(rate, epoch),
        "accuracy": 1.0 / epoch,
        "seconds": 0.0,
        "worker": float(os.getpid()),
    }


@dataclass
class Measurement:
    """What a run took. Times in seconds, memory in MiB, all of the driver."""

    side: str
    trials: int
    sampler: str
    workers_seen: int = 0
    results_seen: int = 0
    start_up_s: float = 0.0
    """From the start of the process to the first result."""
    steady_s: float = 0.0
    """From there to the last end of a trial."""
    written_s: float = 0.0
    """From there until all is written: equal to ``steady_s`` without tracking."""
    last_200_ms: float = 0.0
    """Milliseconds a trial over the last 200 trials."""
    driver_cpu_ms: float = 0.0
    """Milliseconds of the driver's own processor time a trial: noise from other programs touches it little."""
    memory_start: float = 0.0
    memory_end: float = 0.0
    memory_peak: float = 0.0
    whole_s: float = 0.0
    """From the start of the process to its end, clean-up included; taken by ``overhead.py``."""


@dataclass
class Clock:
    """Notes what happens in a run."""

    ends: list[float] = field(default_factory=list)
    seen: set[float] = field(default_factory=set)
    results: int = 0
    steady_from: float = 0.0
    cpu_from: float = 0.0
    memory: list[float] = field(default_factory=list)
    peak: float = 0.0
    written: float = 0.0
    cpu_to: float = 0.0

    def __post_init__(self) -> None:
        self._process = psutil.Process()
        threading.Thread(target=self._watch_memory, daemon=True).start()

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune pickles its searcher now and then; the clock is no part of it."""
        return (object, ())

    def result(self, worker: float) -> None:
        self.results += 1
        if worker not in self.seen:
            self.seen.add(worker)
            if len(self.seen) == 1:
                self.steady_from = time.time()
                self.cpu_from = time.process_time()
                self.memory.append(self._resident())

    def end(self) -> None:
        self.ends.append(time.time())

    def all_written(self) -> None:
        self.written = time.time()
        self.cpu_to = time.process_time()
        self.memory.append(self._resident())

    def measurement(self, side: str, trials: int, sampler: str) -> Measurement:
        assert len(self.ends) == trials, f"{len(self.ends)} trials ended, not {trials}"
        assert self.results == trials * RESULTS, f"{self.results} results, not {trials * RESULTS}"
        tail = self.ends[-201:]
        return Measurement(
            side=side,
            trials=trials,
            sampler=sampler,
            workers_seen=len(self.seen),
            results_seen=self.results,
            start_up_s=self.steady_from - self._process.create_time(),
            steady_s=self.ends[-1] - self.steady_from,
            written_s=max(self.written, self.ends[-1]) - self.steady_from,
            last_200_ms=1000 * (tail[-1] - tail[0]) / (len(tail) - 1),
            driver_cpu_ms=1000 * (self.cpu_to - self.cpu_from) / trials,
            memory_start=self.memory[0],
            memory_end=self.memory[-1],
            memory_peak=max(self.peak, *self.memory),
        )

    def _resident(self) -> float:
        return float(self._process.memory_info().rss) / 2**20

    def _watch_memory(self) -> None:
        while True:
            self.peak = max(self.peak, self._resident())
            time.sleep(0.1)


def run_ours(clock: Clock, trials: int, sampler: str, folder: Path, *, tracked: bool) -> None:
    """The real thing but for the trial: configuration, study, stage, runner, tracker."""
    from orchestrator.app.main import quiet_optuna
    from orchestrator.config.entry import run_command, use_words
    from orchestrator.config.schema import RunConfig
    from orchestrator.progress import Progress
    from orchestrator.runners.ray import RayRunner
    from orchestrator.stages.recipe import StageSequence
    from orchestrator.stages.sweep import make_plan, open_sweep
    from orchestrator.tracking.base import SWEEP
    from orchestrator.tracking.memory import NullTracker
    from orchestrator.tracking.mlflow import MlflowTracker
    from orchestrator.types import Decision, EpochResult, Outcome, TrialSpec

    class EmptyProgram:
        def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
            rate = float(spec.configuration["optimizer.lr"])
            for epoch in range(1, spec.epochs + 1):
                yield EpochResult(epoch, loss(rate, epoch), metrics(rate, epoch))

    class Timed(StageSequence):
        def report(self, number: int, result: EpochResult) -> Decision:
            decision = super().report(number, result)
            clock.result(result.metrics["worker"])
            return decision

        def tell(self, number: int, outcome: Outcome) -> None:
            super().tell(number, outcome)
            clock.end()

    def job(config: RunConfig) -> int:
        with Path(os.devnull).open("w") as quiet, open_sweep(make_plan(config), Progress(quiet)) as sweep:
            uri = f"sqlite:///{folder / 'mlflow.db'}"
            tracker = (
                MlflowTracker(uri, "ours", sweep.ledger.sweep_id, close_timeout_s=3600) if tracked else NullTracker()
            )
            sweep.begin_tracking(tracker, {})
            runner = RayRunner(config.runner)
            runner.run(EmptyProgram(), Timed(sweep, ["lr"], lambda: False))
            tracker.end(SWEEP, "FINISHED", {}, {})
            assert tracker.close() == 0
            clock.all_written()
            runner.close()
        return 0

    quiet_optuna()
    words = [f"n_trials={trials}", f"sampler={sampler}", f"runner.workers={WORKERS}", f"trainer.epochs={RESULTS}"]
    use_words(["stage=lr", "pruner=none", f"sweep.dir={folder}", "sweep.name=ours", *words])
    run_command(job)


def run_tune(clock: Clock, trials: int, sampler: str, folder: Path, *, tracked: bool) -> None:
    """Ray Tune as its documentation puts it together, with what makes it fast: a class, reused actors."""
    import optuna
    import ray
    from optuna.distributions import FloatDistribution
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback
    from ray.tune.search.optuna import OptunaSearch

    class Empty(tune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.rate, self.epoch = config["lr"], 0

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.setup(new_config)
            return True

        def step(self) -> dict[str, Any]:
            self.epoch += 1
            values = {"loss": loss(self.rate, self.epoch), **metrics(self.rate, self.epoch)}
            return {**values, "done": self.epoch == RESULTS}

    class Timed(OptunaSearch):  # type: ignore[misc]
        def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
            super().on_trial_result(trial_id, result)
            clock.result(result["worker"])

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            super().on_trial_complete(trial_id, result, error)
            assert result is not None
            clock.result(result["worker"])
            clock.end()

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ray.init(address="local", num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, logging_level="error")
    chosen = optuna.samplers.RandomSampler(seed=0) if sampler == "random" else optuna.samplers.TPESampler(seed=0)
    space = {"lr": FloatDistribution(LOW, HIGH, log=True)}
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder / 'mlflow.db'}", experiment_name="tune")
    tuner = tune.Tuner(
        tune.with_resources(Empty, {"cpu": 1}),
        tune_config=tune.TuneConfig(
            search_alg=Timed(space, metric="loss", mode="min", sampler=chosen), num_samples=trials, reuse_actors=True
        ),
        run_config=tune.RunConfig(
            storage_path=str(folder),
            name="tune",
            verbose=0,
            callbacks=[callback] if tracked else [],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
        ),
    )
    tuner.fit()
    clock.all_written()
    ray.shutdown()


def run_optuna(clock: Clock, trials: int, sampler: str, folder: Path) -> None:
    """The floor: Optuna's own loop in one process on the same kind of storage."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("lr", LOW, HIGH, log=True)
        for epoch in range(1, RESULTS + 1):
            value = loss(rate, epoch)
            trial.report(value, epoch)
            clock.result(os.getpid())
        return value

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    chosen = optuna.samplers.RandomSampler(seed=0) if sampler == "random" else optuna.samplers.TPESampler(seed=0)
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    study = optuna.create_study(storage=storage, sampler=chosen)
    study.optimize(objective, n_trials=trials, callbacks=[lambda study, trial: clock.end()])
    clock.all_written()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["ours", "tune", "ours+mlflow", "tune+mlflow", "optuna"])
    parser.add_argument("--trials", type=int, required=True)
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    parser.add_argument("--folder", type=Path, required=True)
    words = parser.parse_args()
    sys.argv = sys.argv[:1]
    name, _, tracked = words.side.partition("+")
    clock = Clock()
    if name == "optuna":
        run_optuna(clock, words.trials, words.sampler, words.folder)
    else:
        run = run_ours if name == "ours" else run_tune
        run(clock, words.trials, words.sampler, words.folder, tracked=bool(tracked))
    result = clock.measurement(words.side, words.trials, words.sampler)
    (words.folder / "measurement.json").write_text(json.dumps(asdict(result)))


if __name__ == "__main__":
    main()
