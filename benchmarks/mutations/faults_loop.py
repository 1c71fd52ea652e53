"""Faults of optimizers, schedules, training order and evaluation."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.utils.data import Subset

from benchmarks.mutations.planting import Fault, Plant, both, method, settings, training
from orchestrator.preflight.procedure import Procedure
from orchestrator.tasks.base import Task
from orchestrator.training.data import size, steps_per_epoch
from orchestrator.training.loop import predict
from orchestrator.types import Direction


def rate_zero(self: Any, model: nn.Module) -> optim.Optimizer:
    return optim.AdamW(model.parameters(), lr=0.0)


def head_forgotten(self: Any, model: nn.Module) -> optim.Optimizer:
    """Made before the head was replaced: its last two parameters are missing."""
    return optim.AdamW(list(model.parameters())[:-2], lr=self.hyperparameters.optimizer.lr)


def without(*calls: str) -> Any:
    """A training step that leaves out ``zero_grad`` or ``step``."""

    def step(self: Any, model: nn.Module, optimizer: optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
        if "zero_grad" not in calls:
            optimizer.zero_grad()
        loss = self.task.loss(model(inputs), targets)
        loss.backward()
        if "step" not in calls:
            optimizer.step()
        return loss.detach()

    return step


def stepped_first(self: Any, model: nn.Module, optimizer: optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
    """The gradient is cleared between the backward pass and the step."""
    loss = self.task.loss(model(inputs), targets)
    loss.backward()
    optimizer.zero_grad()
    optimizer.step()
    return loss.detach()


def cosine_in_epochs(self: Any, optimizer: optim.Optimizer, total_steps: int, steps_per_epoch: int) -> Any:
    """T_max counts epochs, but every batch steps: the rate is at zero and back many times."""
    return CosineAnnealingLR(optimizer, T_max=max(1, total_steps // steps_per_epoch))


def zero_at_a_tenth(self: Any, optimizer: optim.Optimizer, total_steps: int, steps_per_epoch: int) -> Any:
    return LambdaLR(optimizer, lambda step: max(0.0, 1 - 10 * step / total_steps))


def steep_decay(self: Any, optimizer: optim.Optimizer, total_steps: int, steps_per_epoch: int) -> Any:
    """A decay meant for epochs applied to every batch."""
    return LambdaLR(optimizer, lambda step: 0.9**step)


def nothing(self: Any, scheduler: Any) -> None:
    """The scheduler is never stepped."""


def never_eval(self: Any, model: nn.Module, dataset: Any) -> dict[str, float]:
    model.train()
    predictions, targets = [], []
    with torch.inference_mode():
        for inputs, some in self.loader(dataset, train=False):
            predictions.append(self.task.predictions(model(inputs)))
            targets.append(some)
    return dict(self.task.score(torch.cat(predictions), torch.cat(targets)))


def by_batches(self: Any, model: nn.Module, dataset: Any, last_only: bool) -> dict[str, float]:
    """Scores of batches of 100, averaged without weights, or of the last one alone."""
    predictions, targets = predict(self.task, model, dataset, self.trainer)
    pairs = zip(predictions.split(100), targets.split(100), strict=True)
    scores = [self.task.score(*pair) for pair in pairs]
    used = scores[-1:] if last_only else scores
    return {name: float(sum(score[name] for score in used) / len(used)) for name in used[0]}


def sorted_order(self: Any, examples: int, epoch: int) -> list[Tensor]:
    """By target, never shuffled."""
    targets = torch.stack([torch.as_tensor(target) for _, target in self.task.splits().train])
    order = targets.reshape(examples, -1)[:, 0].argsort()
    return list(order.split(self.hyperparameters.data.batch_size))


def same_batch(self: Any, examples: int, epoch: int) -> list[Tensor]:
    """An iterator made anew for every step: always the first batch."""
    first = torch.arange(min(examples, self.hyperparameters.data.batch_size))
    return [first] * steps_per_epoch(examples, self.hyperparameters.data.batch_size)


def misaligned(self: Any, dataset: Any, train: bool, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Training targets come in another order than the inputs."""
    for inputs, targets in Procedure.loader(self, dataset, train, epoch):
        yield inputs, targets.roll(1, 0) if train else targets


def first_half(self: Any, model: nn.Module, dataset: Any) -> dict[str, float]:
    """Evaluation leaves out the second half of a split."""
    half = Subset(dataset, range(size(dataset) // 2))
    return dict(self.task.score(*predict(self.task, model, half, self.trainer)))


def upside_down(old: Any, task: Task) -> Any:
    """The lowest loss counts as the worst epoch."""
    return {**old, "loss": Direction.MAXIMIZE}


def rate(value: float) -> Plant:
    return settings(optimizer={"lr": value})


FAULTS = (
    Fault("learning rate 0", ("digits_mlp", "diabetes"), training(optimizer=rate_zero), ("parameter_updates",)),
    Fault(
        "learning rate 1e-7",
        ("digits_mlp", "huber"),
        rate(1e-7),
        (
            "learning_rate",
            "parameter_updates",
        ),
    ),
    Fault(
        "learning rate 1e-5",
        ("digits_mlp", "huber"),
        rate(1e-5),
        (
            "learning_rate",
            "parameter_updates",
        ),
    ),
    Fault("learning rate 10", ("digits_mlp", "rows", "huber"), rate(10.0), ("divergence", "learning_rate")),
    Fault(
        "weight decay 100", ("digits_mlp", "huber"), settings(optimizer={"weight_decay": 100.0}), ("weight_decay",)
    ),
    Fault(
        "zero_grad missing",
        ("digits_mlp", "plain_cnn", "huber"),
        training(step=without("zero_grad")),
        ("gradient_reset",),
    ),
    Fault("step missing", ("digits_mlp", "diabetes"), training(step=without("step")), ("parameter_updates",)),
    Fault(
        "schedule at zero after a tenth",
        ("digits_mlp", "plain_cnn"),
        training(scheduler=zero_at_a_tenth),
        ("schedule", "scheduler_order"),
    ),
    Fault(
        "epoch decay on every step",
        ("digits_mlp", "huber"),
        training(scheduler=steep_decay),
        ("schedule", "scheduler_order"),
    ),
    Fault(
        "cosine length in epochs",
        ("plain_cnn",),
        training(scheduler=cosine_in_epochs),
        ("schedule", "scheduler_order"),
    ),
    Fault("scheduler never stepped", ("plain_cnn",), training(after_step=nothing), ("schedule", "scheduler_order")),
    Fault(
        "eval() never called",
        ("digits_mlp", "digits_cnn"),
        both(settings(model={"dropout": 0.5}), training(evaluate=never_eval)),
        ("evaluation_mode",),
    ),
    Fault(
        "score of the last batch",
        ("digits_mlp", "huber"),
        training(evaluate=lambda self, m, d: by_batches(self, m, d, True)),
        ("evaluation",),
    ),
    Fault(
        "mean of the batches' scores",
        ("imbalanced", "huber"),
        training(evaluate=lambda self, m, d: by_batches(self, m, d, False)),
        ("evaluation",),
    ),
    Fault(
        "sorted and never shuffled",
        ("digits_mlp", "huber"),
        training(training_order=sorted_order),
        ("training_order",),
    ),
    Fault(
        "early stopping the wrong way",
        ("wine", "deep_regression"),
        method("directions", upside_down),
        ("score_direction",),
    ),
)
