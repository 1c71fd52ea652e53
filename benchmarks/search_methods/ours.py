"""The product, through its own simulation: what is measured is the search itself, not a copy of its logic."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
from torch import nn

from orchestrator import ClassificationTask, Splits, compose
from orchestrator.app.simulate import simulate_on, simulated_sweep
from orchestrator.runners.simulation import SimulationRunner
from orchestrator.types import EpochResult, TrialSpec
from search_methods.objective import TimedObjective

NAMES = {
    "batch_size": "data.batch_size",
    "learning_rate": "optimizer.lr",
    "momentum": "optimizer.momentum",
    "weight_decay": "optimizer.weight_decay",
    "num_layers": "model.depth",
    "max_units": "model.width",
    "max_dropout": "model.dropout",
}
"""Hyperparameters of the benchmark to those of the product."""
NO_START = {"momentum": 0.9, "weight_decay": 1e-3}
"""Without a start the sweep begins at the product's own defaults; these two lie outside the benchmark's ranges."""


class LCBenchTask(ClassificationTask):
    """Only what a simulation asks of a task: its hyperparameters and its objective."""

    objective = "accuracy"
    # The curves know one schedule, and labels as they are.
    without_effect = ("loss.label_smoothing", "schedule.kind", "schedule.warmup", "schedule.final")

    def splits(self) -> Splits:
        """Not asked for."""
        raise NotImplementedError("lcbench gives curves, not data")

    def model(self, width: int = 256, depth: int = 3, dropout: float = 0.2) -> nn.Module:
        """Asked for its arguments only."""
        raise NotImplementedError("lcbench gives curves, not networks")


class _Spent(BaseException):
    """The budget is gone: past the runner, which takes an ordinary exception for a failed trial."""

    def __init__(self, reason: Exception) -> None:
        super().__init__()
        self.reason = reason


class _Program:
    """Trials whose epochs are those of the objective, paid for one by one."""

    def __init__(
        self, objective: TimedObjective, inherited: Callable[[int], int], clock: Callable[[], float]
    ) -> None:
        self._objective = objective
        self._inherited = inherited
        self._clock = clock

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        config = {name: spec.configuration[ours] for name, ours in NAMES.items()}
        for epoch in range(self._inherited(spec.number) + 1, spec.epochs + 1):
            try:
                value = float(self._objective.run(config, epoch, self._clock())[-1])
            except Exception as error:
                raise _Spent(error) from None
            yield EpochResult(epoch=epoch, value=value, metrics={"seconds": 1.0})


def command(objective: TimedObjective, seed: int, start: dict[str, Any] | None) -> list[str]:
    """The words of the command: the benchmark's ranges, and budgets that it never reaches."""
    words = [
        "stage=all",
        "task=custom",
        "task.name=lcbench",
        f"task._target_={__name__}.LCBenchTask",
        "tracking=none",
        "optimizer.name=sgd",
        f"trainer.epochs={objective.epochs}",
        f"seed={seed}",
        # Ten times the default budgets: the objective ends the search.
        "recipe.budget={high: 60, medium: 40, low: 20}",
        "stages.joint.budget=140",
    ]
    for name, ours in NAMES.items():
        _, low, high, _ = objective.space[name]
        words += [f"++space.{ours}.low={low}", f"++space.{ours}.high={high}", f"++space.{ours}.limits=[{low},{high}]"]
        value = (NO_START if start is None else start).get(name)
        if value is not None:
            words.append(f"++{ours}={value}")
    return [*words, "++space.optimizer.weight_decay.zero=false"]


def _run(objective: TimedObjective, seed: int, start: dict[str, Any] | None, extra: Sequence[str] = ()) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    config = compose([*command(objective, seed, start), *extra])
    runner = SimulationRunner(objective.workers)
    with tempfile.TemporaryDirectory() as folder:
        sweep = simulated_sweep(config, Path(folder))
        program = _Program(objective, lambda number: sweep.study[number].inherited, lambda: runner.clock)
        try:
            simulate_on(sweep, runner, program)
        except _Spent as spent:
            raise spent.reason from None


def ours(objective: TimedObjective, seed: int, start: dict[str, Any] | None = None) -> None:
    """``stage=all``."""
    _run(objective, seed, start)


def ours_joint(objective: TimedObjective, seed: int, start: dict[str, Any] | None = None) -> None:
    """The same surrogate without stages: the same opening, then everything at once."""
    _run(objective, seed, start, ["recipe.order=[start,lr,joint]", "stages.lr.budget=0"])
