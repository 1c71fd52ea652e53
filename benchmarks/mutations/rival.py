"""torchtest2 on the same cells."""

import contextlib
import io

import torchtest2

from benchmarks.mutations.harm import TRAINER, build
from benchmarks.mutations.planting import Cell
from benchmarks.mutations.results import Flag


def rival_flags(cell: Cell, seed: int) -> tuple[Flag, ...]:
    """torchtest2's default report on the first training batch, with the user's loss and optimizer."""
    try:
        net = build(cell, seed)
        procedure = cell.procedure(cell.task, cell.hyperparameters, TRAINER, seed)
        inputs, targets = next(iter(procedure.loader(cell.task.splits().train, train=True)))
        smoothing = cell.hyperparameters.loss.label_smoothing
        with contextlib.redirect_stdout(io.StringIO()):
            report = torchtest2.check_model(
                net,
                inputs,
                targets,
                loss_fn=lambda outputs, wanted: cell.task.loss(outputs, wanted, smoothing),
                optimizer=procedure.optimizer(net),
                seed=seed,
            )
    except Exception as error:  # a crash is what its user would see: counted as blocked
        return (Flag("crash", "fail", f"{type(error).__name__}: {error}"[:200]),)
    found = [*report.failures, *report.warnings]
    return tuple(Flag(result.name, str(result.status).lower(), result.message) for result in found)
