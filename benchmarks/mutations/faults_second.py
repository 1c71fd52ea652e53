"""A second set kept apart: planted once the checks were finished."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn, optim

from benchmarks.mutations.planting import Fault, arrays, loss, method, outputs, rebuilt, settings, training
from orchestrator.tasks.base import Splits, Task
from orchestrator.training.loop import seed_everything


def copied(self: Any, model: nn.Module) -> optim.Optimizer:
    """The optimizer of a copy of the network."""
    return optim.AdamW(copy.deepcopy(model).parameters(), lr=self.hyperparameters.optimizer.lr)


def blunt_adam(self: Any, model: nn.Module) -> optim.Optimizer:
    """Adam whose denominator is swamped by its offset."""
    return optim.Adam(model.parameters(), lr=1e-3, eps=10.0)


def inverted_weights(old: Any, wrong: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """The class weights the wrong way round: the rare class counts a fiftieth."""
    return nn.functional.cross_entropy(wrong, targets, torch.tensor([1.0, 0.02]))


def whole_numbers(name: str, values: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Inputs cut to whole numbers by a cast."""
    return (0.3 * values).to(torch.int64).float(), targets


def upside_down_validation(splits: Splits) -> Splits:
    """Validation and test images are read in another orientation."""

    def change(name: str, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return (images, targets) if name == "train" else (images.flip(2), targets)

    return rebuilt(splits, change)


def shifted_targets(name: str, values: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Targets belong to the next row: an index that is off by one."""
    return (values, targets) if name == "test" else (values, targets.roll(1, 0))


def same_forward_seed(old: Any, task: Task) -> Any:
    """All layers get the same random numbers."""

    def model(**hyperparameters: Any) -> nn.Module:
        net = old(**hyperparameters)
        for layer in net.modules():
            if isinstance(layer, nn.Linear):
                seed_everything(0)
                with torch.no_grad():
                    layer.weight.copy_(torch.randn(1, layer.in_features).expand_as(layer.weight) * 0.1)
        return net

    return model


SECOND = (
    Fault(
        "class 0 ignored by the loss",
        ("digits_mlp", "rows"),
        loss(lambda old, o, y, s: nn.functional.cross_entropy(o, y, ignore_index=0)),
        ("loss_targets", "loss_coverage"),
    ),
    Fault(
        "class weights inverted",
        ("imbalanced",),
        loss(inverted_weights),
        ("loss_coverage", "loss_targets", "init_loss", "class_balance"),
    ),
    Fault(
        "logits divided by 1000",
        ("digits_mlp", "deep_mlp"),
        outputs(lambda o: o / 1000),
        ("learning_rate", "overfit_two", "progress", "input_dependency", "gradient_flow"),
    ),
    Fault("logits times 100", ("digits_mlp", "residual"), outputs(lambda o: o * 100), ("init_loss",)),
    Fault("tanh before the loss", ("digits_mlp", "huber"), outputs(torch.tanh), ("output_range",)),
    Fault(
        "dropout on the outputs",
        ("digits_mlp",),
        outputs(lambda o: nn.functional.dropout(o, 0.5)),
        ("eval_determinism",),
    ),
    Fault(
        "optimizer of a copy",
        ("digits_mlp", "huber"),
        training(optimizer=copied),
        ("optimizer_coverage", "parameter_updates"),
    ),
    Fault("Adam with eps 10", ("digits_mlp", "huber"), training(optimizer=blunt_adam), ("learning_rate", "progress")),
    Fault("SGD momentum 0.999", ("plain_cnn",), settings(optimizer={"momentum": 0.999}), ("divergence",)),
    Fault(
        "inputs cut to whole numbers",
        ("breast_cancer", "huber"),
        arrays(whole_numbers),
        ("constant_features", "duplicates", "input_scale", "skill"),
    ),
    Fault(
        "validation turned upside down",
        ("plain_cnn",),
        method("splits", lambda old, task: lambda: upside_down_validation(old())),
        ("split_gap",),
    ),
    Fault("targets one row off", ("digits_mlp", "huber"), arrays(shifted_targets), ("skill",)),
    Fault("all units of a layer equal", ("deep_mlp", "huber"), method("model", same_forward_seed), ("symmetry",)),
    Fault(
        "softmax over examples in predictions",
        ("digits_mlp",),
        method("predictions", lambda old, task: lambda o: o.double().softmax(0)),
        ("prediction_rows", "score_direction"),
    ),
)
FAULTS = tuple(replace(fault, held_out=True) for fault in SECOND)
