"""The whole search against a function that returns curves: no training, a simulated clock and workers."""

import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.app.plan import stages_of
from orchestrator.config.schema import RunConfig
from orchestrator.progress import Progress
from orchestrator.runners.simulation import CurveFunction, CurveProgram, SimulationRunner
from orchestrator.stages.ledger import Ledger
from orchestrator.stages.recipe import StageSequence
from orchestrator.stages.sweep import Sweep, make_plan, open_simulated_sweep
from orchestrator.study.records import TrialRecord
from orchestrator.study.storage import quiet_optuna
from orchestrator.types import Configuration, MemoryUse, TrialProgram
from orchestrator.utilisation import Use, Utilisation, added, shares


@dataclass(frozen=True)
class Simulation:
    """What a simulated sweep came to."""

    trials: Sequence[TrialRecord]
    best: TrialRecord | None
    ledger: Ledger
    """With the verdict of every visit."""
    seconds: float
    """Simulated time."""
    busy: float
    """Share of the workers' simulated time in which they trained; the ledger says what the rest went into."""


def simulate(
    config: RunConfig,
    curve: CurveFunction,
    workers: int = 1,
    *,
    finalists: bool = False,
    memory: Callable[[Configuration], tuple[MemoryUse, ...]] = lambda configuration: (),
) -> Simulation:
    """Run the search stages of a command on curves instead of trainings; leaves no files behind.

    Args:
        config: a command, as :func:`orchestrator.compose` makes it. Of its task only the hyperparameters and
            the objective are used.
        curve: configuration and seed to the objective after each epoch.
        workers: simulated workers.
        finalists: run the finalists too, where the command names them: the curves must be as long as these are
            trained at most.
        memory: what a training of a configuration is seen to hold.

    Raises:
        OrchestratorError: as the command would.
    """
    quiet_optuna()
    runner = SimulationRunner(workers)
    with tempfile.TemporaryDirectory() as folder:
        sweep = simulated_sweep(config, Path(folder))
        program = CurveProgram(curve, lambda number: sweep.study[number].inherited, memory=memory)
        simulate_on(sweep, runner, program, finalists=finalists)
        busy = shares(added([worker for part in sweep.ledger.usage for worker in part["workers"]])).get(Use.BUSY, 0.0)
        return Simulation(sweep.study.records, sweep.best, sweep.ledger, runner.clock, busy)


def simulated_sweep(config: RunConfig, folder: Path) -> Sweep:
    """A sweep that keeps its trials in memory and small files in ``folder``."""
    config = replace(config, sweep=replace(config.sweep, dir=str(folder)))
    return open_simulated_sweep(make_plan(config), Progress(io.StringIO()))


def simulate_on(sweep: Sweep, runner: SimulationRunner, program: TrialProgram, *, finalists: bool = False) -> None:
    """Run the search stages of the sweep's command, and its finalists if asked to, with ``program`` on ``runner``."""
    kinds = ("search", "finalists") if finalists else ("search",)
    names = [name for name in stages_of(sweep.config) if sweep.config.stages[name].kind in kinds]
    usage = Utilisation(runner.workers, lambda: runner.clock)
    stages = StageSequence(sweep, names, lambda: False, runner.workers, usage)
    runner.run(program, stages)
    stages.note_usage()
