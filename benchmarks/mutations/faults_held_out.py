"""Faults of our own invention, kept apart: no threshold was set by looking at them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn, optim

from benchmarks.mutations.faults_loop import first_half, head_forgotten, misaligned, same_batch, stepped_first
from benchmarks.mutations.faults_model import module_of, reloss
from benchmarks.mutations.planting import Fault, arrays, inputs, method, network, rewired, training, unchanged
from orchestrator.tasks.base import Task


def first_state(self: Any, rows: Tensor) -> Tensor:
    """The state after the first row decides."""
    return self.recurrent(rows)[0][:, 0]


def batch_centred(batch: Tensor) -> Tensor:
    return (batch - batch.mean(0)) / (batch.std(0, unbiased=False) + 1e-3)


def frozen_statistics(net: nn.Module) -> nn.Module:
    """The running statistics hardly move: evaluation uses the initial ones."""
    for module in module_of(net, nn.BatchNorm2d):
        module.momentum = 1e-5
    return net


def crushed_step(self: Any, model: nn.Module, optimizer: optim.Optimizer, batch: Tensor, targets: Tensor) -> Tensor:
    """The gradient of SGD is clipped to a norm of 1e-6."""
    optimizer.zero_grad()
    loss = self.task.loss(model(batch), targets)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1e-6)
    optimizer.step()
    return loss.detach()


def unshifted(name: str, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The target of a position is the token that stands there."""
    return tokens, tokens


def any_score(old: Any, task: Task) -> Any:
    """The score compares the targets with themselves."""

    def score(predictions: Tensor, targets: Tensor) -> dict[str, float]:
        classes = predictions.shape[1]
        return old(nn.functional.one_hot(targets, classes).double().clamp(1e-3, 1), targets)

    return score


def batch_padded(net: nn.Module) -> nn.Module:
    """The sequence axis is softmaxed where the examples' axis is meant, and the other way round."""

    def forward(self: Any, batch: Tensor) -> Tensor:
        state = self.embed(batch[..., :-1])
        scores = self.score(state).masked_fill(self.padding(batch), -1e9)
        return self.head((scores.softmax(dim=0) * state).sum(dim=1))

    return rewired(net, forward=forward)


OWN = (
    Fault(
        "first recurrent state used",
        ("rows",),
        network(lambda n: rewired(n, read=first_state)),
        ("input_use", "input_dependency"),
    ),
    Fault(
        "half of the columns never read",
        ("digits_mlp", "huber"),
        inputs(lambda x: x * half_mask(x)),
        ("input_use", "input_dependency"),
    ),
    Fault("unknown tokens", ("tokens",), inputs(lambda t: t.clamp(max=1)), ("input_use", "input_dependency")),
    Fault(
        "inputs scaled by their batch", ("breast_cancer", "multi_label"), inputs(batch_centred), ("batch_dependency",)
    ),
    Fault("softmax over the examples in attention", ("padded",), network(batch_padded), ("batch_dependency",)),
    Fault(
        "loss of the first example only",
        ("digits_mlp", "huber"),
        reloss(lambda old, o, y: old(o[:1], y[:1])),
        ("loss_reduction", "loss_coverage"),
    ),
    Fault(
        "targets above 4 clamped in the loss",
        ("digits_mlp",),
        reloss(lambda old, o, y: old(o, y.clamp(max=4))),
        ("loss_targets", "loss_direction", "loss_floor"),
    ),
    Fault("targets unshifted", ("language",), arrays(unshifted), ("target_in_input",), deployed=unchanged),
    Fault(
        "running statistics frozen",
        ("digits_cnn", "residual"),
        network(frozen_statistics),
        ("module_modes", "trained_modes"),
    ),
    Fault(
        "head not in the optimizer",
        ("digits_mlp", "plain_cnn"),
        training(optimizer=head_forgotten),
        ("optimizer_coverage",),
    ),
    Fault(
        "gradient cleared before the step",
        ("digits_mlp", "huber"),
        training(step=stepped_first),
        ("parameter_updates",),
    ),
    Fault(
        "clipped to 1e-6",
        ("plain_cnn",),
        training(step=crushed_step),
        (
            "parameter_updates",
            "learning_rate",
        ),
    ),
    Fault("the same batch every step", ("digits_mlp",), training(training_order=same_batch), ("training_order",)),
    Fault(
        "inputs and targets misaligned by the loader",
        ("digits_mlp", "huber"),
        training(loader=misaligned),
        ("loader_pairs", "training_order"),
    ),
    Fault("evaluation of the first half", ("diabetes", "imbalanced"), training(evaluate=first_half), ("evaluation",)),
    Fault("score ignores the predictions", ("digits_mlp",), method("score", any_score), ("score_direction",)),
)


def half_mask(batch: Tensor) -> Tensor:
    """1 for the first half of the last axis, 0 for the second."""
    columns = torch.arange(batch.shape[-1], device=batch.device)
    return (columns < batch.shape[-1] // 2).to(batch.dtype)


FAULTS = tuple(replace(fault, held_out=True) for fault in OWN)
