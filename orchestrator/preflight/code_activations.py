"""Activations and gradients layer by layer: dead units, gradients that vanish or explode."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.code_parameters import listed
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, skipped
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject
from orchestrator.training.loop import seed_everything

RECTIFIERS = (nn.ReLU, nn.ReLU6, nn.Threshold, nn.Hardtanh, nn.Hardswish)
"""Activations that are exactly zero, or flat, on one side."""


def zero_units(model: nn.Module, inputs: Tensor) -> dict[str, float]:
    """The share of units of each rectifier that are zero for all of ``inputs``, by name; evaluation mode.

    A unit is a column, or in feature maps a channel. Rectifiers called as functions are found through
    the inputs of the layers that follow them: a column that is zero for every example and was not so in
    the network's own inputs.
    """
    found: dict[str, list[Tensor]] = {}

    def watch(name: str, *, enters: bool) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            value = args[0] if enters and args else output
            if isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2:
                found.setdefault(name, []).append(_silent(value, _unit_axis(module, value, enters=enters)))

        return hook

    layers = [(name, module) for name, module in model.named_modules() if _is_watched(module)]
    hooks = [
        module.register_forward_hook(watch(name, enters=not isinstance(module, RECTIFIERS)))
        for name, module in layers[0:]
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        model(inputs)
    for hook in hooks:
        hook.remove()
    for module, mode in modes.items():
        module.training = mode
    entry = _entry_name(layers)
    return {
        # A module called several times is dead where it is silent at every call.
        name: float(torch.stack(calls).all(dim=0).double().mean())
        for name, calls in found.items()
        if name != entry and len({call.shape for call in calls}) == 1
    }


def _is_watched(module: nn.Module) -> bool:
    return isinstance(module, (*RECTIFIERS, nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))


def _entry_name(layers: list[tuple[str, nn.Module]]) -> str:
    """The first layer reads the network's inputs, whose constant columns are the data's business."""
    return next((name for name, module in layers if not isinstance(module, RECTIFIERS)), "")


def _unit_axis(module: nn.Module, value: Tensor, *, enters: bool) -> int:
    """Channels of feature maps are on axis 1; the units of everything else on the last."""
    convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    return 1 if (enters and convolution) or (not enters and value.ndim >= 4) else value.ndim - 1


def _silent(value: Tensor, axis: int) -> Tensor:
    rest = [i for i in range(value.ndim) if i != axis]
    return (
        (value == 0).all(dim=rest[0]) if len(rest) == 1 else (value == 0).movedim(axis, -1).flatten(0, -2).all(dim=0)
    )


@check(
    name="dead_units",
    group="code",
    title="units of rectified layers are active for some examples",
    source="recipe.md B31; preflight.md, dead ReLU",
)
def dead_units(subject: Subject, settings: CheckSettings) -> Finding:
    """Largest share of a layer's units that are zero on all examples, over two untrained networks."""
    limits = settings.dead_units
    inputs, _ = subject.train_examples(limits.examples)
    shares = [zero_units(subject.new_model(repeat), inputs) for repeat in range(2)]
    # The better of two initialisations, layer by layer: a fault is there in both.
    lowest = {name: min(share.get(name, 0.0) for share in shares) for name in shares[0]}
    if not lowest:
        return skipped("there is no layer that could be silent")
    return judge_dead(lowest, settings, "before training")


def judge_dead(shares: dict[str, float], settings: CheckSettings, when: str) -> Finding:
    """The verdict on the shares of silent units by layer."""
    limits = settings.dead_units
    name, share = max(shares.items(), key=lambda item: item[1])
    severity = Severity.PASS if share <= limits.warn else Severity.WARN
    if share >= 1.0:
        severity = Severity.FAIL
    explanation = Explanation(
        meaning="Units that are zero for every example get no gradient and may never wake up.",
        causes=(
            "a strongly negative bias",
            "a learning rate so high that units were thrown off",
            "inputs not centred",
        ),
        advice="look at the biases and the scale of the inputs; lower the learning rate, or use a leaky activation",
    )
    statistic = f"{share:.0%} of the units that reach {name} are zero for all examples {when}"
    return judged(severity, statistic, f"at most {limits.warn:.0%}", explanation, {"share": share})


@check(
    name="gradient_flow",
    group="code",
    title="gradients are finite and reach the first layers at a useful size",
    source="recipe.md C4, B4; preflight.md, vanish/explode",
)
def gradient_flow(subject: Subject, settings: CheckSettings) -> Finding:
    """Gradient norm of each weight relative to the weight, largest over smallest, in an untrained network.

    Weights that are zero, and tensors without a gradient at the first step, are left out: a branch that
    starts at zero is healthy.
    """
    ratios = [_relative_gradients(subject, repeat) for repeat in range(2)]
    broken = [name for found in ratios for name, value in found.items() if not math.isfinite(value)]
    if broken:
        return judged(Severity.FAIL, f"gradients are not finite: {listed(broken)}", "finite", _FLOW)
    spreads = [_spread(found) for found in ratios if len(found) >= 2]
    if not spreads:
        return skipped("fewer than two weights get a gradient")
    spread, largest, smallest = min(spreads)
    limits = settings.gradient_flow
    severity = Severity.PASS if spread <= limits.warn else Severity.WARN
    if spread > limits.fail:
        severity = Severity.FAIL
    statistic = (
        f"gradients of {largest} are 1e{math.log10(spread):.1f} times those of {smallest}, relative to weights"
    )
    return judged(severity, statistic, f"at most {limits.warn:.0e}", _FLOW, {"spread": spread})


_FLOW = Explanation(
    meaning="Some layers learn many orders of magnitude more slowly than others, or not at all.",
    causes=(
        "initial weights far too small or too large for the depth",
        "saturating activations in a deep network",
        "no normalisation or residual connections in a deep network",
    ),
    advice="use Kaiming or Xavier initialisation; add normalisation or residual connections",
)


def _relative_gradients(subject: Subject, repeat: int) -> dict[str, float]:
    inputs, targets = subject.train_examples(64)
    model = subject.new_model(repeat).train()
    with untouched_globals():
        seed_everything(0)
        torch.autograd.backward(subject.loss(model(inputs), targets))
    found = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or parameter.grad is None or parameter.grad.is_sparse:
            continue
        weight, gradient = float(parameter.detach().norm()), float(parameter.grad.double().norm())
        if weight > 0 and gradient != 0:
            found[name] = gradient / weight
    return found


def _spread(found: dict[str, float]) -> tuple[float, str, str]:
    largest, smallest = max(found, key=lambda n: found[n]), min(found, key=lambda n: found[n])
    return found[largest] / found[smallest], largest, smallest
