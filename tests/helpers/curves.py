"""Curves in place of trainings, and sweeps over them that can be cut off and opened again."""

import hashlib
import io
import math
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from orchestrator import compose
from orchestrator.app.simulate import simulate_on
from orchestrator.config.compose import to_plain
from orchestrator.config.schema import RunConfig
from orchestrator.progress import Progress
from orchestrator.runners.simulation import CurveFunction, CurveProgram, SimulationRunner
from orchestrator.stages.ledger import Ledger
from orchestrator.stages.studies import STUDY_FILE
from orchestrator.stages.sweep import LEDGER_FILE, Sweep, make_plan
from orchestrator.study.records import TrialRecord
from orchestrator.study.storage import open_journal, quiet_optuna
from orchestrator.tracking.memory import NullTracker
from orchestrator.types import Configuration, EpochResult, TrialSpec

SMALL = ("task=breast_cancer", "trainer.epochs=9")


@cache
def command(*words: str) -> RunConfig:
    """The configuration of a command on a small task."""
    return compose([*SMALL, *words])


def bowl(configuration: Configuration, lr: float = 0.03, noise: float = 0.0, seed: int = 0) -> float:
    """Positive, least (0.1) at that learning rate, batch size 16, width 128 and depth 3."""
    distance = (
        (math.log10(configuration["optimizer.lr"]) - math.log10(lr)) ** 2
        + (math.log2(configuration["data.batch_size"]) - 4) ** 2 / 16
        + (math.log2(configuration["model.width"]) - 7) ** 2 / 16
        + (configuration["model.depth"] - 3) ** 2 / 8
    )
    return 0.1 + 0.5 * distance + random.Random(seed).gauss(0, noise)


def curve_of(level: Callable[[Configuration, int], float]) -> CurveFunction:
    """Curves of 60 epochs that fall to ``level``."""

    def curve(configuration: Configuration, seed: int) -> Sequence[float]:
        end = level(configuration, seed)
        return [end + 1 / (epoch + 1) for epoch in range(1, 61)]

    return curve


falling = curve_of(lambda configuration, seed: bowl(configuration, noise=0.005, seed=seed))


def share(*parts: object) -> float:
    """A number in [0, 1) that depends on ``parts`` and nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:6], "big") / 2**48


class CutError(BaseException):
    """Stands for a kill: nothing catches it."""


@dataclass
class CutProgram:
    """Plays a program until so many of its epochs are reported, then dies."""

    program: CurveProgram
    epochs_left: int

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        for result in self.program(spec):
            if self.epochs_left == 0:
                raise CutError
            self.epochs_left -= 1
            yield result


def open_stored(config: RunConfig, folder: Path) -> Sweep:
    """The simulated sweep kept in ``folder``, with a journal that outlives the process."""
    quiet_optuna()
    plan = make_plan(replace(config, sweep=replace(config.sweep, dir=str(folder))))
    ledger = Ledger.open(plan.folder / LEDGER_FILE, to_plain(plan.config))
    storage = open_journal(plan.folder / STUDY_FILE, writable=True)
    sweep = Sweep(plan, storage, ledger, Progress(io.StringIO()), promotes_any=True)
    sweep.tracker = NullTracker()
    return sweep


@dataclass(frozen=True)
class Stored:
    """Runs sweeps of one command that are kept in folders."""

    config: RunConfig
    curve: CurveFunction = falling
    workers: int = 1
    seconds: Callable[[Configuration], float] = lambda configuration: 1.0
    finalists: bool = False

    def run(self, folder: Path, cut_after: int | None = None) -> Sweep | None:
        """Begin or go on; None if it was cut off after so many epochs, which are counted from here."""
        sweep = open_stored(self.config, folder)
        program = CurveProgram(self.curve, lambda number: sweep.study[number].inherited, self.seconds)
        runner = SimulationRunner(self.workers)
        if cut_after is None:
            simulate_on(sweep, runner, program, finalists=self.finalists)
            return sweep
        try:
            simulate_on(sweep, runner, CutProgram(program, cut_after), finalists=self.finalists)
        except CutError:
            return None
        return sweep


def renewed(folder: Path) -> Path:
    """``folder``, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def gist(records: Sequence[TrialRecord]) -> list[object]:
    """All of the trials but how long they took."""
    return [replace(record, seconds=0.0, curve=dict(record.curve)) for record in records]
