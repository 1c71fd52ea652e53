"""Whether a fault hurts: clean and faulty training with the same seeds, and what each is truly worth.

A fault hurts where the network is worse with every seed or by three standard errors, or where the score
that the user is shown is wrong. Both are
measured on a test split that the training never sees: the *true* score is the clean task's score of the
network of the best epoch, evaluated as it will be used, one example at a time; the *shown* score is what
the cell's own evaluation says of its own validation split.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from benchmarks.mutations.planting import Cell, Fault
from benchmarks.mutations.pool import Healthy
from orchestrator.config.schema import TrainerConfig
from orchestrator.seeds import derive_seed
from orchestrator.tasks.base import Splits, Task
from orchestrator.tasks.loading import model_defaults
from orchestrator.training.data import size, steps_per_epoch
from orchestrator.training.loop import predict, seed_everything
from orchestrator.types import Direction

TRAINER = TrainerConfig(device="cpu")
EVALUATIONS = 8
"""Times that a training is evaluated, at equal distances; the best of them counts."""
SINGLY = replace(TRAINER, eval_batch_size=1)
SIGMAS = 3.0
"""Standard errors by which paired runs must differ for a fault to count as harmful (5 seeds: p = 0.04)."""
LEAST = {"loss": 0.03, "other": 0.01}
"""Smallest mean difference that counts: 3 % of the clean loss, 0.01 of a score between 0 and 1 (our choice)."""


@dataclass(frozen=True)
class Outcome:
    """What one training ended with, as scores by name; all infinite where it broke."""

    shown: Mapping[str, float]
    true: Mapping[str, float]
    fair: Mapping[str, float]
    """Of the examples that ``shown`` is about, all of them scored together, in evaluation mode."""


def clean(healthy: Healthy, seed: int) -> Cell:
    """The task without a fault."""
    return Cell(healthy.build(seed), healthy.hyperparameters, healthy.procedure)


def outcome(healthy: Healthy, fault: Fault | None, seed: int) -> Outcome:
    """Train with ``fault`` planted, or without one."""
    right = clean(healthy, seed)
    wrong = fault.plant(right) if fault else right
    place = fault.deployed(right) if fault and fault.deployed else None
    try:
        shown, net = train(wrong, healthy.epochs, seed)
        predictions, targets = predict(wrong.task, net, wrong.task.splits().validation, TRAINER)
        fair = {name: float(value) for name, value in right.task.score(predictions, targets).items()}
        return Outcome(shown, true_scores(right.task, wrong, place, net), fair)
    except (RuntimeError, ValueError, ArithmeticError, IndexError) as error:
        if fault is None:
            raise
        print(f"    {fault.name} on {healthy.name}: training breaks: {type(error).__name__}: {str(error)[:80]}")
        broken = {name: worst(direction) for name, direction in right.task.directions.items()}
        return Outcome(broken, broken, broken)


def worst(direction: Direction) -> float:
    """The value that no other is worse than."""
    return math.inf if direction is Direction.MINIMIZE else -math.inf


def train(cell: Cell, epochs: int, seed: int) -> tuple[dict[str, float], nn.Module]:
    """The shown scores of the best evaluation, and the network with the weights it had then."""
    task, hyperparameters = cell.task, cell.hyperparameters
    splits = task.splits()
    procedure = cell.procedure(task, hyperparameters, TRAINER, seed)
    net = build(cell, seed)
    optimizer = procedure.optimizer(net)
    per_epoch = steps_per_epoch(size(splits.train), hyperparameters.data.batch_size)
    scheduler = procedure.scheduler(optimizer, epochs * per_epoch, per_epoch)
    best: tuple[float, dict[str, float], dict[str, Any]] | None = None
    for epoch in range(epochs):
        procedure.train_epoch(net, optimizer, scheduler, splits.train, epoch)
        if (epoch + 1) % max(1, epochs // EVALUATIONS) and epoch + 1 < epochs:
            continue
        scores = {name: float(value) for name, value in procedure.evaluate(net, splits.validation).items()}
        value = scores[task.objective]
        if best is None or task.directions[task.objective].better(value, best[0]):
            best = value, scores, {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert best is not None
    net.load_state_dict(best[2])
    return best[1], net


def build(cell: Cell, seed: int) -> nn.Module:
    """A new network of the cell."""
    seed_everything(derive_seed(seed, "init"))
    return cell.task.model(**model_defaults(cell.task, cell.hyperparameters.model))


def true_scores(right: Task, wrong: Cell, place: Cell | None, net: nn.Module) -> dict[str, float]:
    """The clean task's score of ``net`` on test data, in the world ``place`` if given."""
    world = place or wrong
    if place is not None:
        trained = net.state_dict()
        net = build(place, 0)
        net.load_state_dict(trained)
    test: Splits = world.task.splits()
    predictions, targets = predict(world.task, net, test.test, SINGLY)
    return {name: float(value) for name, value in right.score(predictions, targets).items()}


@dataclass(frozen=True)
class Harm:
    """How much worse a faulty training is than a clean one, over paired seeds."""

    score: str
    """The score that shows it most."""
    kind: str
    """``worse`` (the network), ``misreported`` (the shown score is not the true one) or ``misread`` (it is not the
    score of the examples it is about)."""
    clean: float
    faulty: float
    """Means over the seeds; for ``misreported`` of what is shown minus what is true, for ``misread`` of the
    distance to the fair score."""
    sigmas: float
    """Mean paired difference in standard errors."""
    harmful: bool
    seeds: int


def harm(directions: Mapping[str, Direction], right: Sequence[Outcome], wrong: Sequence[Outcome]) -> Harm:
    """The clearest harm over all scores and both kinds."""
    found = []
    for name, direction in directions.items():
        sign = 1 if direction is Direction.MINIMIZE else -1
        before, after = [o.true[name] for o in right], [o.true[name] for o in wrong]
        least = LEAST["loss"] * abs(statistics.fmean(before)) if name == "loss" else LEAST["other"]
        found.append(_compared(name, "worse", before, after, (sign,), least))
        gaps = [[o.shown[name] - o.true[name] for o in outcomes] for outcomes in (right, wrong)]
        found.append(_compared(name, "misreported", gaps[0], gaps[1], (1, -1), least))
        misread = [[abs(o.shown[name] - o.fair[name]) for o in outcomes] for outcomes in (right, wrong)]
        found.append(_compared(name, "misread", misread[0], misread[1], (1,), least))
    return max(found, key=lambda item: (item.harmful, item.kind == "worse", item.sigmas))


def _compared(
    name: str, kind: str, before: Sequence[float], after: Sequence[float], signs: tuple[int, ...], least: float
) -> Harm:
    """Paired comparison; a difference counts in the directions ``signs`` only."""
    if not all(math.isfinite(value) for value in after):
        return Harm(name, kind, statistics.fmean(before), math.nan, math.inf, True, len(after))
    differences = [b - a for a, b in zip(before, after, strict=True)]
    mean = max(sign * statistics.fmean(differences) for sign in signs)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    sigmas = mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
    always = kind == "worse" and all(signs[0] * difference > least for difference in differences)
    harmful = mean > least and (sigmas > SIGMAS or always)
    return Harm(name, kind, statistics.fmean(before), statistics.fmean(after), sigmas, harmful, len(after))


def threads(count: int = 1) -> None:
    """Small networks train fastest on one core each."""
    torch.set_num_threads(count)
