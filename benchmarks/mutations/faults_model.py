"""Faults of outputs, losses, networks and initialisation."""

import functools
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.mutations.networks import CausalBlock
from benchmarks.mutations.planting import Fault, loss, method, network, outputs, rewired, unchanged


def module_of(net: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in net.modules() if isinstance(module, kind)]


def linears(net: nn.Module) -> list[Any]:
    return [*module_of(net, nn.Linear), *module_of(net, nn.Conv2d), *module_of(net, nn.Conv1d)]


def without_activations(net: nn.Module) -> nn.Module:
    for module in net.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Identity())
    return net


@torch.no_grad()
def initialised(net: nn.Module, weight: Any, bias: Any = nn.init.zeros_) -> nn.Module:
    for layer in linears(net):
        weight(layer.weight)
        if layer.bias is not None:
            bias(layer.bias)
    return net


def dead(net: nn.Module) -> nn.Module:
    """Every hidden bias at -10."""
    for layer in linears(net)[:-1]:
        nn.init.constant_(layer.bias, -10.0)
    return net


def frozen_first(count: int) -> Any:
    def change(net: nn.Module) -> nn.Module:
        for layer in linears(net)[:count]:
            layer.requires_grad_(False)
        return net

    return change


def batch_norm_in_eval(net: nn.Module) -> nn.Module:
    def train(self: nn.Module, mode: bool = True) -> nn.Module:
        nn.Module.train(self, mode)
        for module in module_of(self, nn.BatchNorm2d):
            module.eval()
        return self

    return rewired(net, train=train)


def heavy_dropout(net: nn.Module) -> nn.Module:
    for module in module_of(net, nn.Dropout):
        module.p = 0.95
    return net


def always_dropping(net: nn.Module) -> nn.Module:
    right = type(net).body if not isinstance(getattr(net, "body", None), nn.Module) else None
    if right is not None:
        return rewired(net, body=lambda self, state: nn.functional.dropout(right(self, state), 0.5))
    net.body.append(rewired(nn.Identity(), forward=lambda self, state: nn.functional.dropout(state, 0.5)))
    return net


def unmasked(offset: int) -> Any:
    """Blocks that may look ``offset`` - 1 positions ahead (20: everywhere)."""

    def mask(self: CausalBlock, length: int, device: torch.device) -> Tensor:
        return torch.ones(length, length, dtype=torch.bool, device=device).triu(offset)

    def change(net: nn.Module) -> nn.Module:
        for block in net.blocks:
            rewired(block, mask=mask)
        return net

    return change


def overwritten(net: nn.Module) -> nn.Module:
    """Each layer reads the stem's output instead of the last layer's: only the last one counts."""

    def body(self: Any, state: Tensor) -> Tensor:
        for block in self.blocks:
            result = block(state)
        return result

    return rewired(net, body=body)


def scrambled_rows(self: Any, rows: Tensor) -> Tensor:
    """Time and batch swapped by ``view``, which keeps the memory order and so mixes examples."""
    examples, length, width = rows.shape
    swapped = rows.reshape(length, examples, width)
    return self.recurrent(swapped.transpose(0, 1))[0][:, -1]


def reloss(formula: Any) -> Any:
    return loss(lambda old, predicted, wanted, smoothing: formula(old, predicted, wanted))


def detached(old: Any, predicted: Tensor, wanted: Tensor) -> Tensor:
    return torch.tensor(old(predicted, wanted).item(), requires_grad=True)


PROBABILITIES = ("double_softmax",)
FAULTS = (
    Fault("softmax twice", ("digits_mlp", "rows"), outputs(lambda o: o.softmax(-1)), PROBABILITIES),
    Fault("sigmoid before BCE-with-logits", ("binary_logit", "multi_label"), outputs(torch.sigmoid), PROBABILITIES),
    Fault("ReLU on logits", ("digits_mlp", "plain_cnn"), outputs(torch.relu), ("output_range",)),
    Fault(
        "softmax over the batch", ("digits_cnn", "wine"), outputs(lambda o: o.log_softmax(0)), ("batch_dependency",)
    ),
    Fault(
        "targets broadcast in MSE",
        ("diabetes", "deep_regression"),
        reloss(lambda old, o, y: nn.functional.mse_loss(o, y.squeeze(-1))),
        ("loss_reduction", "loss_coverage"),
    ),
    Fault(
        "negated loss",
        ("digits_mlp", "diabetes", "language"),
        reloss(lambda old, o, y: -old(o, y)),
        ("loss_direction",),
    ),
    Fault(
        "loss detached",
        ("digits_mlp", "diabetes"),
        reloss(detached),
        ("task_runs", "unused_parameters", "gradient_reach"),
    ),
    Fault(
        "softmax on one unit", ("diabetes",), outputs(lambda o: o.softmax(-1)), ("input_dependency", "output_range")
    ),
    Fault(
        "summed loss with SGD",
        ("plain_cnn",),
        reloss(lambda old, o, y: old(o, y) * len(o)),
        ("loss_reduction",),
    ),
    Fault(
        "label smoothing 0.9",
        ("digits_mlp", "rows"),
        loss(lambda old, o, y, smoothing: old(o, y, 0.9)),
        ("loss_floor", "overfit_two"),
    ),
    Fault(
        "attention never called",
        ("language",),
        network(lambda net: [rewired(b, attend=lambda self, s: torch.zeros_like(s)) for b in net.blocks] and net),
        ("unused_parameters",),
    ),
    Fault("overwritten variable skips layers", ("residual",), network(overwritten), ("unused_parameters",)),
    Fault(
        "graph cut in the middle",
        ("plain_cnn", "deep_mlp"),
        network(lambda net: rewired(net, forward=cut)),
        ("unused_parameters",),
    ),
    Fault(
        "first layer frozen by accident",
        ("plain_cnn",),
        network(frozen_first(1)),
        ("frozen_parameters", "unused_parameters"),
    ),
    Fault(
        "all but the head frozen",
        ("digits_mlp", "deep_mlp"),
        network(frozen_first(2)),
        ("frozen_parameters", "unused_parameters"),
    ),
    Fault(
        "batch mixed by view",
        ("rows",),
        network(functools.partial(rewired, read=scrambled_rows)),
        ("batch_dependency",),
    ),
    Fault("no causal mask", ("language",), network(unmasked(20)), ("causality",), deployed=unchanged),
    Fault("causal mask off by one", ("language",), network(unmasked(2)), ("causality",), deployed=unchanged),
    Fault(
        "padding mask ignored",
        ("padded",),
        network(functools.partial(rewired, padding=lambda self, x: torch.zeros_like(x[..., -1:], dtype=torch.bool))),
        ("input_use", "input_dependency"),
    ),
    Fault(
        "no activation",
        ("deep_regression", "plain_cnn", "digits_mlp"),
        network(without_activations),
        ("nonlinearity",),
    ),
    Fault("dead ReLUs", ("digits_mlp", "plain_cnn"), network(dead), ("dead_units",)),
    Fault(
        "all weights zero",
        ("digits_mlp", "huber"),
        network(lambda net: initialised(net, nn.init.zeros_)),
        ("symmetry", "input_dependency"),
    ),
    Fault(
        "all weights equal",
        ("digits_mlp", "huber"),
        network(lambda net: initialised(net, lambda w: nn.init.constant_(w, 0.05))),
        ("symmetry", "input_dependency"),
    ),
    Fault(
        "initial deviation 1",
        ("digits_mlp", "huber"),
        network(lambda net: initialised(net, nn.init.normal_)),
        ("init_loss",),
    ),
    Fault(
        "initial deviation 0.001, deep",
        ("deep_mlp", "deep_regression"),
        network(lambda net: initialised(net, lambda w: nn.init.normal_(w, std=1e-3))),
        ("gradient_flow", "overfit_two", "input_dependency"),
    ),
    Fault(
        "base rate not in the last bias",
        ("logit_bias",),
        network(lambda net: nn.init.zeros_(net.head.bias) is None or net),
        ("base_rate_bias",),
    ),
    Fault("dropout at evaluation too", ("digits_mlp", "plain_cnn"), network(always_dropping), ("eval_determinism",)),
    Fault("batch norm stuck in eval", ("digits_cnn", "residual"), network(batch_norm_in_eval), ("module_modes",)),
    Fault("dropout 0.95", ("digits_mlp", "wine"), network(heavy_dropout), ("overfit_settings", "dropout_strength")),
    Fault(
        "predictions not unscaled",
        ("raw_targets", "negative_targets"),
        method("predictions", lambda old, task: lambda o: o.double()),
        ("prediction_units",),
    ),
)


def cut(self: Any, batch: Tensor) -> Tensor:
    """The last hidden state is detached."""
    if hasattr(self, "stem"):
        return self.head(self.hidden(self.stem(batch)).detach())
    return self.head(self.body(batch).detach().flatten(1))


EQUIVALENT = (
    Fault(
        "log_softmax before cross-entropy",
        ("digits_mlp", "rows"),
        outputs(lambda o: o.log_softmax(-1)),
        (),
        equivalent=True,
    ),
    Fault(
        "summed loss with Adam",
        ("digits_mlp", "binary_logit"),
        reloss(lambda old, o, y: old(o, y) * len(o)),
        ("loss_reduction",),
        equivalent=True,
    ),
    Fault(
        "bias before batch norm",
        ("digits_cnn",),
        network(lambda net: with_biases(net)),
        (),
        equivalent=True,
    ),
)


def with_biases(net: nn.Module) -> nn.Module:
    for layer in module_of(net, nn.Conv2d):
        layer.bias = nn.Parameter(torch.zeros(layer.out_channels))
    return net
