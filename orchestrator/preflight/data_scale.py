"""Is what enters the network of a sane scale, and the same in training and validation?"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.data_moments import Outside, gap, is_exactly_standard, outside, shares_extremes
from orchestrator.preflight.data_table import Columns, columns, part, rows
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.subject import Subject

EXAMPLES = 512
"""Examples whose scale at the first layer is measured (our choice)."""


def not_numbers(subject: Subject) -> str | None:
    """Reason for checks of scale: token numbers have none."""
    return None if part(subject, "train").inputs.is_floating_point() else "inputs are whole numbers, not measurements"


@check(
    name="input_scale",
    group="data",
    title="what reaches the first layer with weights is neither huge nor tiny",
    source="recipe.md A23, A30, B33; preflight.md",
    applies=not_numbers,
)
def input_scale(subject: Subject, settings: CheckSettings) -> Finding:
    """WARN for a mean of many deviations, a deviation or a value far from 1; a layer that rescales is exempt."""
    inputs, _ = subject.train_examples(EXAMPLES)
    door, name, indifferent = _door(subject.new_model(), inputs)
    table = rows(door)
    if not np.isfinite(table).all():
        return skipped("inputs are not finite, see finite_data")
    limits, stats = settings.input_scale, columns(table)
    std = float(table.std())
    off = abs(float(table.mean())) / std if std > 0 else np.inf
    largest = float(np.abs(table).max())
    typical = float(np.sqrt(np.mean(table[table != 0] ** 2))) if (table != 0).any() else 0.0
    text = f"at {name}: mean {table.mean():.3g}, deviation {std:.3g}, largest {largest:.3g}"
    values = {"mean": float(table.mean()), "std": std, "largest": largest, "columns_ratio": _ratio(stats)}
    if largest == 0 or stats.constant.all():
        return passed(f"{text}; constant, see constant_features", values=values)
    wrong = off > limits.mean or std > limits.high or typical < limits.low or largest > limits.largest
    if wrong and indifferent:
        return passed(f"{text}; the layer does not depend on the scale", values=values)
    explanation = Explanation(
        meaning="Weights of the usual size answer with saturated or vanishing activations; training is slow or dies.",
        causes=("inputs were not scaled (pixels 0 ... 255, raw units)", "the scaling was applied twice"),
        advice="subtract the mean and divide by the deviation of the training split, or put a norm layer first",
    )
    threshold = (
        f"mean below {limits.mean:g} deviations, deviation {limits.low:g} ... {limits.high:g}, "
        f"largest below {limits.largest:g}"
    )
    return judged(Severity.WARN if wrong else Severity.PASS, text, threshold, explanation, values)


def _ratio(stats: Columns) -> float:
    live = stats.std[stats.std > 0]
    return float(live.max() / live.min()) if len(live) else 1.0


def _door(model: nn.Module, inputs: Tensor) -> tuple[Tensor, str, bool]:
    """Input of the first layer with weights, its name, and whether that layer rescales by itself.

    The model's own input where no layer takes one tensor of numbers first (weights used outside layers).
    """
    met: list[tuple[Tensor, str, nn.Module]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: tuple[Any, ...]) -> None:
            if given and isinstance(given[0], Tensor) and not met:
                met.append((given[0].detach().clone(), name, copy.deepcopy(module)))

        return hook

    below = [(name, module) for name, module in model.named_modules() if name]
    for name, module in below or [("model", model)]:
        if list(module.parameters(recurse=False)):
            module.register_forward_pre_hook(note(f"{name} ({type(module).__name__})"))
    model.train()
    with torch.no_grad():
        model(inputs)
    if not met or not met[0][0].is_floating_point():
        return inputs, "the model's input", False
    door, name, layer = met[0]
    return door, name, _indifferent(layer, door)


def _indifferent(layer: nn.Module, inputs: Tensor) -> bool:
    """Whether ``layer`` (a norm) in training mode answers the same to inputs ten times as large."""
    layer.train()
    with torch.no_grad():
        first, second = layer(inputs), layer(10 * inputs)
    if not isinstance(first, Tensor):
        return False
    # Without the mean over the examples: a bias hides tiny inputs.
    first, second = first - first.mean(dim=0), second - second.mean(dim=0)
    return bool((first - second).norm() < 0.1 * first.norm())


@check(
    name="constant_features",
    group="data",
    title="features vary in training, and those that do not are constant in validation too",
    source="recipe.md A2, A8; issue: dividing by a tiny deviation",
    applies=not_numbers,
)
def constant_features(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL where no feature varies; WARN where a feature is constant in training and large in validation."""
    train = columns(rows(part(subject, "train").inputs))
    dead = train.constant | (train.std < settings.constant_features.tiny * train.scale)
    share = float(dead.mean())
    explanation = Explanation(
        meaning="A feature without variation teaches nothing, and dividing by its deviation turns noise into signal.",
        causes=("the inputs were overwritten or never filled", "a feature was selected that is the same for all"),
        advice="drop these features, or divide by max(deviation, 1e-6) where the data are scaled",
    )
    if train.constant.all():
        return judged(
            Severity.FAIL, "all features are constant in training", "some vary", explanation, {"share": 1.0}
        )
    validation = columns(rows(part(subject, "validation").inputs))
    moved = np.maximum(np.abs(validation.high - train.mean), np.abs(validation.low - train.mean))[dead]
    largest = float(moved.max(initial=0.0)) / train.scale
    text = f"{int(dead.sum())} of {len(dead)} features do not vary in training"
    values = {"share": share, "largest": largest}
    if not dead.any():
        return passed("every feature varies", values=values)
    text += f"; in validation they move by up to {largest:.3g} typical deviations"
    limit = settings.constant_features.moves
    severity = Severity.WARN if largest > limit else Severity.INFO if share > 0.5 else Severity.PASS
    return judged(severity, text, f"at most {limit:g}", explanation, values)


@check(
    name="outside_range",
    group="data",
    title="no validation feature is far outside its range in training",
    source="recipe.md A8; issue: features far outside the training range",
    applies=not_numbers,
)
def outside_range(subject: Subject, settings: CheckSettings) -> Finding:
    """Judged by two units at once: the feature's own range, and the typical deviation of all features."""
    found = outside(columns(rows(part(subject, "train").inputs)), columns(rows(part(subject, "validation").inputs)))
    limits = settings.outside_range
    text = _outside_text(found)
    if found.ranges > limits.fail_ranges and found.deviations > limits.fail_deviations:
        severity = Severity.FAIL
    elif found.ranges > limits.warn_ranges and found.deviations > limits.warn_deviations:
        severity = Severity.WARN
    else:
        severity = Severity.PASS
    explanation = Explanation(
        meaning="The network extrapolates there, and a single such value can dominate its output.",
        causes=(
            "a feature that hardly varies in training was divided by its tiny deviation",
            "a unit or a code for missing values (-999) differs between the splits",
        ),
        advice="look at the feature in both splits; clip it, drop it, or scale it by all features' deviation",
    )
    threshold = f"at most {limits.warn_ranges:g} ranges or {limits.warn_deviations:g} deviations"
    values = {"ranges": min(found.ranges, 1e300), "deviations": min(found.deviations, 1e300)}
    return judged(severity, text, threshold, explanation, values)


def _outside_text(found: Outside) -> str:
    if found.deviations == 0:
        return "validation stays within the range of training"
    return (
        f"feature {found.feature} goes {found.ranges:.3g} ranges beyond training, "
        f"{found.deviations:.3g} typical deviations"
    )


@check(
    name="split_gap",
    group="data",
    title="features have the same scale and place in training and validation",
    source="recipe.md A2, A20; preflight.md",
    applies=not_numbers,
)
def split_gap(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL where most features are scaled differently, WARN where some are shifted or spread differently."""
    limits = settings.split_gap
    found = gap(
        columns(rows(part(subject, "train").inputs)),
        columns(rows(part(subject, "validation").inputs)),
        smd=limits.smd,
        ratio=limits.variance_ratio,
    )
    values = {
        "shifted": found.shifted,
        "rescaled": found.rescaled,
        "scale_ratio": found.scale_ratio,
        "median_smd": found.median_smd,
    }
    text = (
        f"scale ratio {found.scale_ratio:.3g}, mean difference {found.median_smd:.3g} deviations (medians); "
        f"{found.shifted:.0%} of the features shifted, {found.rescaled:.0%} spread differently"
    )
    explanation = Explanation(
        meaning="The network sees other numbers at validation than it was trained on.",
        causes=("validation was not scaled, or scaled twice", "the splits come from different times or sources"),
        advice="fit the scaling on training and apply the same one to all splits; divide at random",
    )
    if max(found.shifted, found.rescaled) > 0.5 and (
        found.scale_ratio > limits.fail_ratio or found.median_smd > limits.fail_smd
    ):
        severity = Severity.FAIL
    else:
        severity = Severity.WARN if max(found.shifted, found.rescaled) > limits.share else Severity.PASS
    threshold = (
        f"at most {limits.share:.0%} of the features beyond {limits.smd:g} deviations "
        f"or {limits.variance_ratio:g} in variance"
    )
    return judged(severity, text, threshold, explanation, values)


OWN_SCALE = Explanation(
    meaning="The scaling uses what is not known at prediction time, and hides a real shift between the splits.",
    causes=("fit_transform was called on each split",),
    advice="fit the scaler on training only and call transform on validation and test",
)


@check(
    name="own_scaling",
    group="data",
    title="validation was not scaled by its own statistics",
    source="recipe.md A21; preflight.md",
    applies=not_numbers,
)
def own_scaling(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL where validation's moments or extremes are exact, WARN where those of all splits together are."""
    train, validation, test = (part(subject, split).inputs for split in ("train", "validation", "test"))
    if not len(train) or not len(validation):
        return skipped("a split has no examples")
    if is_exactly_standard(validation):
        text = "every feature of validation has mean 0 and deviation 1 exactly"
        return judged(Severity.FAIL, text, "off by sampling error", OWN_SCALE)
    if shares_extremes(rows(train), rows(validation)):
        text = "every continuous feature has exactly the same least and greatest value in training and validation"
        return judged(Severity.FAIL, text, "different extremes", OWN_SCALE)
    alike = [values for values in (train, validation, test) if values.shape[1:] == train.shape[1:]]
    if not is_exactly_standard(train) and is_exactly_standard(torch.cat(alike)):
        text = "all splits together have mean 0 and deviation 1 exactly, training alone has not"
        return judged(Severity.WARN, text, "training alone", OWN_SCALE)
    return passed("validation's mean and deviation are off by sampling error, as they should be")


def not_regression(subject: Subject) -> str | None:
    """Reason for checks of numeric targets; whatever the loss makes of them."""
    if (
        subject.task.mixes_batch
        or subject.is_classification
        or not part(subject, "train").targets.is_floating_point()
    ):
        return "targets are not numbers to be predicted"
    return None


@check(
    name="target_scale",
    group="data",
    title="an untrained network answers on the scale of the targets",
    source="recipe.md A23, C1; preflight.md",
    applies=not_regression,
)
def target_scale(subject: Subject, settings: CheckSettings) -> Finding:
    """WARN where targets are far from 1 in size and the untrained outputs are far from the targets."""
    inputs, targets = subject.train_examples(EXAMPLES)
    outputs = rows(subject.outputs(subject.new_model(), inputs))
    wanted = rows(targets)
    if outputs.shape != wanted.shape or not np.isfinite(wanted).all():
        return skipped("outputs and targets cannot be compared number by number")
    limits = settings.target_scale
    std, mean, out = float(wanted.std()), float(wanted.mean()), float(outputs.std())
    off = abs(mean - float(outputs.mean())) / std if std > 0 else 0.0
    far = not limits.low < std < limits.high and not limits.low < out / max(std, 1e-300) < limits.high
    shifted = abs(mean) > limits.mean * std and off > limits.mean
    text = f"targets: mean {mean:.3g}, deviation {std:.3g}; untrained outputs: {outputs.mean():.3g}, {out:.3g}"
    explanation = Explanation(
        meaning="The first epochs are spent on learning the unit of the target; gradients are far from 1.",
        causes=("the target is in raw units",),
        advice="scale the target by the training mean and deviation and undo it in predictions(), or set the last "
        f"bias to {mean:.4g}",
    )
    threshold = f"deviation {limits.low:g} ... {limits.high:g}, mean within {limits.mean:g} deviations"
    values = {"mean": mean, "std": std, "output_std": out}
    return judged(Severity.WARN if far or shifted else Severity.PASS, text, threshold, explanation, values)


@check(
    name="target_gap",
    group="data",
    title="targets have the same scale and place in training and validation",
    source="recipe.md A22, L6; preflight.md",
    applies=not_regression,
)
def target_gap(subject: Subject, settings: CheckSettings) -> Finding:
    """As split_gap, for the targets."""
    limits = settings.split_gap
    train, validation = (columns(rows(part(subject, split).targets)) for split in ("train", "validation"))
    found = gap(train, validation, smd=limits.smd, ratio=limits.variance_ratio)
    text = f"scale ratio {found.scale_ratio:.3g}, mean difference {found.median_smd:.3g} deviations (medians)"
    beyond = max(found.shifted, found.rescaled)
    severe = found.scale_ratio > limits.fail_ratio or found.median_smd > limits.fail_smd
    severity = Severity.PASS if beyond <= limits.share else Severity.FAIL if severe else Severity.WARN
    explanation = Explanation(
        meaning="Predictions and targets of validation are in different units or from different populations.",
        causes=("the target was scaled in training only", "the data were cut in an order that follows the target"),
        advice="scale the targets of all splits by the training statistics, and divide at random",
    )
    values = {"scale_ratio": found.scale_ratio, "smd": found.median_smd}
    return judged(severity, text, f"ratio below {limits.fail_ratio:g}", explanation, values)
