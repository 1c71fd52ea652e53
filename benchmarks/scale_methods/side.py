"""One measurement of ``scale.py`` in a process of its own: the product's plan, sweep, stage, study and tracker."""

import argparse
import json
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from orchestrator import compose
from orchestrator.app.wiring import make_tracker
from orchestrator.progress import Progress
from orchestrator.runners.base import Runner
from orchestrator.runners.simulation import CurveProgram, SimulationRunner
from orchestrator.stages.recipe import StageSequence
from orchestrator.stages.sweep import Sweep, make_plan, open_sweep
from orchestrator.study.storage import quiet_optuna
from orchestrator.tracking.base import SWEEP
from orchestrator.types import Configuration, EpochResult, Outcome, TrialProgram
from orchestrator.utilisation import Use, Utilisation, added
from scale_methods.curve import value_of

STAGE = "joint"
MIB = 2**20


class Meter:
    """Driver CPU and memory as the sweep goes on."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._began, self._cpu = time.perf_counter(), time.process_time()
        self.results = 0
        self.trials = 0
        self.marks: list[dict[str, float]] = []
        self.peak = 0.0
        threading.Thread(target=self._watch, daemon=True).start()

    def restart(self) -> None:
        """Leave out what was before now."""
        self._began, self._cpu = time.perf_counter(), time.process_time()

    def mark(self) -> None:
        """Note where things stand."""
        self.marks.append(
            {
                "trials": self.trials,
                "results": self.results,
                "seconds": time.perf_counter() - self._began,
                "cpu_s": time.process_time() - self._cpu,
                "memory_mib": self._process.memory_info().rss / MIB,
            }
        )

    def _watch(self) -> None:
        while True:
            self.peak = max(self.peak, self._process.memory_info().rss / MIB)
            time.sleep(0.2)


class Measured(StageSequence):
    """The product's controller, with the meter beside it."""

    meter: Meter
    marks: Sequence[int] = ()

    def report(self, number: int, result: EpochResult) -> Any:
        """Count a result."""
        decision = super().report(number, result)
        self.meter.results += 1
        return decision

    def tell(self, number: int, outcome: Outcome) -> None:
        """Count a trial."""
        super().tell(number, outcome)
        self.meter.trials += 1
        if self.meter.trials in self.marks:
            self.meter.mark()


def run(words: argparse.Namespace) -> dict[str, Any]:
    """Search with ``words.workers`` workers and measure it."""
    quiet_optuna()
    folder = Path(words.folder)
    settings = [f"stage={STAGE}", f"n_trials={words.trials}", f"sampler={words.sampler}", f"sweep.dir={folder}"]
    settings += [f"runner.workers={words.workers}", f"trainer.epochs={words.epochs}", f"tracking={words.tracking}"]
    config = compose([*settings, "sweep.name=scale"])
    meter = Meter()
    with Path(os.devnull).open("w") as quiet, open_sweep(make_plan(config), Progress(quiet)) as sweep:
        sweep.begin_tracking(make_tracker(sweep), {})
        clock, runner, program = _runner(words, config, sweep)
        usage = Utilisation(words.workers, clock)
        stages = Measured(sweep, [STAGE], lambda: False, words.workers, usage)
        stages.meter, stages.marks = meter, words.marks
        meter.restart()
        runner.run(program, stages)
        stages.note_usage()
        meter.mark()
        runner.close()
        sweep.tracker.end(SWEEP, "FINISHED", {}, {})
        left = sweep.tracker.close()
    spent = added(usage.workers)
    steady = sum(spent.values()) - spent[Use.START_UP] - spent[Use.IDLE]
    return {
        **vars(words),
        "busy": spent[Use.BUSY] / steady,
        "used": {use: seconds / sum(spent.values()) for use, seconds in spent.items()},
        "marks": meter.marks,
        "peak_mib": meter.peak,
        "load": os.getloadavg()[0],
        "unwritten": left,
    }


def _runner(words: argparse.Namespace, config: Any, sweep: Sweep) -> tuple[Any, Runner, TrialProgram]:
    if words.side == "growth":
        simulated = SimulationRunner(words.workers)

        def curve(configuration: Configuration, seed: int) -> list[float]:
            return [value_of(configuration, seed, epoch) for epoch in range(1, words.epochs + 1)]

        return lambda: simulated.clock, simulated, CurveProgram(curve, lambda number: sweep.study[number].inherited)
    # Ray would start a process for each logical worker in advance.
    os.environ.update(RAY_prestart_worker_first_driver="0", RAY_enable_worker_prestart="0")
    from orchestrator.runners.ray import RayRunner
    from scale_methods.sleeping import Sleep

    runner = RayRunner(config.runner)
    if words.logical:
        from scale_methods.logical import use_logical_workers

        use_logical_workers(words.seconds, words.workers)
    return time.monotonic, runner, Sleep(words.seconds)


def main() -> None:
    """Measure, and write what was found as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=["busy", "growth"])
    parser.add_argument("--folder", required=True)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--epochs", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--logical", action="store_true", help="many workers in a few processes")
    parser.add_argument("--sampler", default="random")
    parser.add_argument("--tracking", default="mlflow")
    parser.add_argument("--marks", type=int, nargs="*", default=[])
    parser.add_argument("--profile", help="write cProfile's statistics of the driver's main thread there")
    words = parser.parse_args()
    if words.profile:
        import cProfile

        profile = cProfile.Profile()
        found = profile.runcall(run, words)
        profile.dump_stats(words.profile)
    else:
        found = run(words)
    (Path(words.folder) / "measurement.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
