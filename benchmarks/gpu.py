"""What a GPU is used for: packed trials, mixed precision, out-of-memory, the largest batch, several ranks.

``python benchmarks/gpu.py`` on a machine with GPUs; ``--small`` on any. See README.md beside this file.
It has never run on a GPU: there was none. In its small form everything but the calls of CUDA has run.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from orchestrator.batch_probe import BatchProbe
from orchestrator.config.hyperparameters import DataConfig, Hyperparameters, OptimizerConfig
from orchestrator.config.runner import RunnerConfig
from orchestrator.config.schema import TaskConfig, TrainerConfig
from orchestrator.runners.base import Runner
from orchestrator.runners.local import LocalRunner
from orchestrator.trial import TrainingProgram
from orchestrator.types import NO_TRIAL, Decision, EpochResult, Outcome, TrialProgram, TrialSpec

Row = dict[str, Any]
TASKS = {
    "digits_cnn": ("orchestrator.tasks.digits.DigitsCNN", {}),
    "residual": ("gpu_methods.images.ResidualImages", {"width": 32, "depth": 3}),
}
"""Import path and hyperparameters of the model."""


@dataclass
class Trials:
    """A controller that lets all trials run to their ends, or all that it has time for."""

    waiting: list[TrialSpec]
    window_s: float = math.inf
    """Seconds for which trials run once all workers have started."""
    results: dict[int, list[EpochResult]] = field(default_factory=dict)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    most: int = 0
    started: float = math.inf
    """When the last worker to start reported its first epoch."""
    times: list[float] = field(default_factory=list)
    """When epochs were reported after that."""

    @property
    def over(self) -> bool:
        """Whether the window has passed."""
        return time.monotonic() > self.started + self.window_s

    def ask(self) -> TrialSpec | None:
        """The next one."""
        if not self.waiting or self.over:
            return None
        spec = self.waiting.pop(0)
        self.running.add(spec.number)
        self.most = max(self.most, len(self.running))
        return spec

    def report(self, number: int, result: EpochResult) -> Decision:
        """Note it."""
        self.results.setdefault(number, []).append(result)
        if result.work is not None and result.work.fresh:
            self.started, self.times = time.monotonic(), []
        elif not self.over:
            self.times.append(time.monotonic())
        return Decision.STOP if self.over else Decision.CONTINUE

    def tell(self, number: int, outcome: Outcome) -> None:
        """Note it."""
        self.running.discard(number)
        self.outcomes[number] = outcome

    def commit(self) -> None:
        """Nothing is kept."""

    @property
    def peaks(self) -> dict[str, float]:
        """Largest footprint of a trial, by where, in GB."""
        uses = [use for results in self.results.values() for result in results for use in result.memory]
        return {
            where: max(use.footprint for use in uses if use.where == where) / 1e9
            for where in sorted({use.where for use in uses})
        }


class Bench:
    """The measurements.

    Args:
        small: on CPUs, with small networks and short trainings.
        folder: for what trials write, which is nothing.
    """

    def __init__(self, small: bool, folder: Path) -> None:
        self.small = small
        self._folder = folder
        self._device = "cpu" if small else "cuda"
        self._epochs = 2 if small else 5

    def trainer(self, **settings: Any) -> TrainerConfig:
        return TrainerConfig(epochs=self._epochs, device=self._device, **settings)

    def task(self, name: str) -> TaskConfig:
        args = {"examples": 400 if self.small else 20_000} if name == "residual" else {}
        return TaskConfig(name=name, target=TASKS[name][0], args=args)

    def specs(self, name: str, count: int, batch_size: int = 128, **model: Any) -> list[TrialSpec]:
        sizes = {"width": 4, "depth": 1} if self.small else TASKS[name][1]
        optimizer = OptimizerConfig(name="sgd", lr=0.05, momentum=0.9)
        found = Hyperparameters(optimizer=optimizer, data=DataConfig(batch_size=batch_size), model={**sizes, **model})
        return [
            TrialSpec(number, "gpu", found.flat(), number, self._epochs, self._folder, keep=False)
            for number in range(count)
        ]

    @contextmanager
    def runner(self, pack: bool) -> Iterator[Runner]:
        """One trial at a time on each card (small: in all), or as many as fit."""
        if self.small:
            runner: Runner = LocalRunner(
                RunnerConfig(name="local", workers=2 if pack else 1, pack="auto" if pack else None)
            )
        else:
            from orchestrator.runners.ray import RayRunner

            runner = RayRunner(RunnerConfig(name="ray", gpus_per_trial=1.0, pack="auto" if pack else None))
        try:
            yield runner
        finally:
            runner.close()

    def run(
        self, program: TrialProgram, specs: Sequence[TrialSpec], pack: bool = False, window_s: float = math.inf
    ) -> tuple[Trials, float]:
        """The trials, and the seconds that they took, with the start of their workers."""
        trials = Trials(list(specs), window_s)
        with self.runner(pack) as runner:
            began = time.monotonic()
            runner.run(program, trials)
            return trials, time.monotonic() - began

    def packing(self, name: str) -> Iterator[Row]:
        """Trials an hour, one at a time and packed, when all workers have started."""
        program, window_s = TrainingProgram(self.task(name), self.trainer(), 1), 5.0 if self.small else 60.0
        for pack in (False, True):
            trials, _ = self.run(program, self.specs(name, 100_000), pack, window_s)
            yield {
                "what": "packing",
                "task": name,
                "packed": pack,
                "trials_an_hour": round(3600 * len(trials.times) / self._epochs / window_s),
                "at_a_time": trials.most,
                "largest_footprint_gb": trials.peaks,
                "failed": [outcome.reason for outcome in trials.outcomes.values() if outcome.reason],
            }

    def precision(self, name: str) -> Iterator[Row]:
        """Validation loss and seconds an epoch with automatic mixed precision and without, over seeds."""
        for amp in (False, True):
            program = TrainingProgram(self.task(name), self.trainer(amp=amp), 1)
            trials, _ = self.run(program, self.specs(name, 2 if self.small else 5))
            last = [results[-1] for results in trials.results.values()]
            losses = [result.value for result in last]
            yield {
                "what": "precision",
                "task": name,
                "amp": amp and self._device == "cuda",
                "loss": round(statistics.mean(losses), 4),
                "deviation": round(statistics.stdev(losses), 4),
                "seconds_an_epoch": round(statistics.median(result.metrics["seconds"] for result in last), 3),
            }

    def out_of_memory(self) -> Iterator[Row]:
        """A trial too large for any card, and one after it on the same worker."""
        large, after = self.specs("digits_cnn", 2)
        absurd = {**large.configuration, "model.width": 10**7, "model.depth": 2}
        large = TrialSpec(0, "gpu", absurd, 0, self._epochs, self._folder, keep=False)
        program = TrainingProgram(self.task("digits_cnn"), self.trainer(), 1)
        trials, _ = self.run(program, [large, after])
        yield {
            "what": "out of memory",
            "reason": trials.outcomes[0].reason,
            "said": trials.outcomes[0].detail.splitlines()[0][:100],
            "the_next_one": trials.outcomes[1].end,
        }

    def largest_batch(self, name: str) -> Iterator[Row]:
        """What the probe finds, and in which time."""
        probe = BatchProbe(self.task(name), self.trainer(), 1, highest=64 if self.small else 65_536)
        [spec] = self.specs(name, 1, batch_size=16)
        spec = TrialSpec(NO_TRIAL, "gpu", spec.configuration, 0, 1, self._folder, keep=False)
        trials, seconds = self.run(probe, [spec])
        sizes = [int(result.value) for result in trials.results.get(NO_TRIAL, [])]
        yield {"what": "largest batch", "task": name, "sizes": sizes, "seconds": round(seconds, 1)}

    def ranks(self, name: str) -> Iterator[Row]:
        """Seconds an epoch, and the loss, on one and on two ranks."""
        if not self.small and torch.cuda.device_count() < 2:
            yield {"what": "ranks", "task": name, "skipped": "needs two GPUs"}
            return
        for ranks in (1, 2):
            program = TrainingProgram(self.task(name), self.trainer(workers=ranks), ranks)
            results = list(program(self.specs(name, 1)[0]))
            seconds = round(statistics.median(result.metrics["seconds"] for result in results), 3)
            loss = round(results[-1].value, 5)
            yield {"what": "ranks", "task": name, "ranks": ranks, "loss": loss, "seconds_an_epoch": seconds}

    def all(self) -> Iterator[Row]:
        """Every measurement in turn."""
        for name in TASKS:
            yield from self.packing(name)
            yield from self.precision(name)
        yield from self.out_of_memory()
        yield from self.largest_batch("residual")
        yield from self.ranks("residual")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="on CPUs, small: does it run?")
    chosen = parser.parse_args()
    if not chosen.small and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU here; --small runs on CPUs")
    where = "CPU" if chosen.small else torch.cuda.get_device_name()
    print(json.dumps({"device": where, "torch": torch.__version__, "cores": os.cpu_count()}))
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        for row in Bench(chosen.small, Path(folder)).all():
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
