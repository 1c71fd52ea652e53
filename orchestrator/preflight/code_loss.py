"""The loss, tried on outputs that are known to be right, wrong, or uninformed.

No network is involved: a loss that is smallest elsewhere than at the right outputs cannot train one.
"""

import math

import torch
from torch import Tensor

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.conditions import has_known_form, is_classification
from orchestrator.preflight.forms import SURE, Encoding, Form, Kind, ideal, uninformed
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.subject import Subject

EXAMPLES = 32
"""Enough to hold several classes; the loss is tried on single examples too (our choice)."""


def probe_outputs(subject: Subject, count: int = EXAMPLES) -> tuple[Tensor, Tensor]:
    """Untrained outputs of ``count`` training examples, and the targets."""
    inputs, targets = subject.train_examples(count)
    return subject.outputs(subject.model, inputs), targets


def right_outputs(form: Form, outputs: Tensor, targets: Tensor) -> Tensor:
    """Sure and right predictions in the encoding that the loss takes."""
    return ideal(form, outputs, targets, form.encoding)


def wrong_targets(form: Form, targets: Tensor) -> Tensor:
    """Targets of which none is right: the next class, the other label, a value two deviations away."""
    if form.kind is Kind.CLASSES:
        return torch.where(targets >= 0, (targets + 1) % form.classes, targets)
    if form.kind is Kind.BINARY:
        return 1 - targets
    # A whole number shifted by a whole number stays one.
    spread = 2 * targets.double().std().clamp_min(1e-3)
    return targets + (spread if targets.is_floating_point() else spread.ceil().long())


def loss_of(subject: Subject, outputs: Tensor, targets: Tensor) -> float:
    """The task's loss of given outputs, as a number."""
    with torch.no_grad():
        return float(subject.loss(outputs, targets))


@check(
    name="loss_direction",
    group="code",
    title="the loss of right outputs is below that of wrong ones",
    source="recipe.md B9; preflight.md, -L",
    applies=has_known_form,
)
def loss_direction(subject: Subject, settings: CheckSettings) -> Finding:
    """Right against wrong outputs: the order is exact whatever the loss is called."""
    outputs, targets = probe_outputs(subject)
    form = subject.form
    right = loss_of(subject, right_outputs(form, outputs, targets), targets)
    wrong = loss_of(subject, right_outputs(form, outputs, wrong_targets(form, targets)), targets)
    statistic = f"loss of right outputs {right:.4g}, of wrong outputs {wrong:.4g}"
    explanation = Explanation(
        meaning="Minimising this loss does not make the predictions right.",
        causes=("the loss is negated", "the loss does not use the targets", "outputs and targets are swapped"),
        advice="loss() must return what is to be made small; try it by hand on a prediction that is right",
    )
    worse = not right < wrong - 1e-6 * abs(wrong)
    return judged(
        Severity.FAIL if worse else Severity.PASS,
        statistic,
        "right below wrong",
        explanation,
        {"right": right, "wrong": wrong},
    )


@check(
    name="loss_targets",
    group="code",
    title="the loss of each example is smallest at its own target, for every class and value",
    source="recipe.md B9, B10",
    applies=has_known_form,
)
def loss_targets(subject: Subject, settings: CheckSettings) -> Finding:
    """Right outputs against every other class, or against values next to the target, example by example."""
    outputs, targets = probe_outputs(subject, 16 * EXAMPLES)
    form = subject.form
    if form.flattened:
        return skipped("the outputs have one row per target of all examples together")
    rows = _extreme_rows(targets)
    wrong = [row for row in rows if not _right_is_best(subject, outputs[row : row + 1], targets[row : row + 1])]
    examples = ", ".join(str(targets[row].flatten()[0].item()) for row in wrong[:4])
    explanation = Explanation(
        meaning="For some targets the loss prefers a wrong prediction.",
        causes=(
            "targets are clamped, cast or shifted inside loss()",
            "a wrong class index or mapping",
            "a wrong sign",
        ),
        advice="compute the loss of a prediction that is right for one of these targets by hand",
    )
    severity = Severity.FAIL if wrong else Severity.PASS
    statistic = f"for {len(wrong)} of {len(rows)} targets a wrong prediction costs less" + (
        f": {examples}" if wrong else ""
    )
    return judged(severity, statistic, "none", explanation, {"wrong": len(wrong)})


def _extreme_rows(targets: Tensor) -> list[int]:
    """One example of each class (at most 20), or the examples with the smallest, middle and largest targets."""
    key = targets.reshape(len(targets), -1).double().amax(dim=1)
    order = key.argsort()
    if targets.ndim == 1 and not targets.is_floating_point():
        firsts = {int(key[i]): int(i) for i in order if key[i] >= 0}
        return list(firsts.values())[:20]
    return sorted({int(order[0]), int(order[len(order) // 2]), int(order[-1])})


def _right_is_best(subject: Subject, outputs: Tensor, targets: Tensor) -> bool:
    """Whether no other target's right outputs cost less for ``targets``, a single example."""
    form = subject.form
    right = loss_of(subject, right_outputs(form, outputs, targets), targets)
    if form.kind is Kind.CLASSES:
        others = [torch.where(targets >= 0, (targets + k) % form.classes, targets) for k in range(1, form.classes)]
        others = others[:: max(1, len(others) // 20)]
    elif form.kind is Kind.BINARY:
        others = [1 - targets]
    else:
        _, all_targets = subject.train_examples(16 * EXAMPLES)
        step = float(all_targets.double().std().clamp_min(1e-6)) / 2
        others = [targets.double() + step, targets.double() - step]
    costs = [loss_of(subject, right_outputs(form, outputs, other), targets) for other in others]
    return all(right <= cost + 1e-6 * abs(cost) for cost in costs if math.isfinite(cost))


@check(
    name="loss_coverage",
    group="code",
    title="every example of a batch contributes to the loss",
    source="recipe.md B10",
)
def loss_coverage(subject: Subject, settings: CheckSettings) -> Finding:
    """Share of examples whose outputs have no influence on the loss of their batch, and classes that never have."""
    inputs, targets = subject.train_examples(16 * EXAMPLES)
    outputs = subject.outputs(subject.model, inputs)
    if not outputs.is_floating_point() or len(outputs) != len(targets):
        return skipped("the outputs have no row per example")
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(outputs.shape, generator=generator).to(outputs)
    # Logits of size 1: very sure outputs leave a softmax without any gradient, which is no fault.
    unsure = noise if subject.is_classification else outputs + noise * outputs.abs().mean().clamp_min(1e-3)
    if subject.form.encoding is Encoding.PROBABILITIES:
        unsure = noise.softmax(dim=subject.form.axis) if subject.form.kind is Kind.CLASSES else noise.sigmoid()
    probe = unsure.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = subject.loss(probe, targets)
        (gradient,) = torch.autograd.grad(loss, probe, allow_unused=True) if loss.requires_grad else (None,)
    if gradient is None:
        return skipped("the loss has no gradient, see gradient_reach")
    without = (gradient.reshape(len(gradient), -1) == 0).all(dim=1)
    unseen, ignored = float(without.double().mean()), _ignored(targets, without)
    explanation = Explanation(
        meaning="A part of every batch is computed and then ignored.",
        causes=(
            "an index or a mask in loss() that leaves examples out",
            "only the first or last example is used",
            "a class number given as ignore_index, or a class weight of 0",
        ),
        advice="the loss should be a mean over all examples of the batch",
    )
    severity = Severity.PASS if unseen <= 0.1 else (Severity.FAIL if unseen >= 0.4 else Severity.WARN)
    severity = Severity.FAIL if ignored else severity
    statistic = f"{unseen:.0%} of the examples have no influence on the loss"
    if ignored:
        statistic += f"; none of class {', '.join(map(str, ignored[:4]))} has"
    return judged(severity, statistic, "at most 10%", explanation, {"unseen": unseen})


def _ignored(targets: Tensor, without: Tensor) -> list[int]:
    """Classes of which no example counts; only where an example has one target, of which at least five are drawn.

    In sequences and images a class for padding is left out on purpose, and so is a number below 0.
    """
    if targets.ndim != 1 or targets.is_floating_point():
        return []
    classes = [int(label) for label in torch.unique(targets) if label >= 0 and int((targets == label).sum()) >= 5]
    return [label for label in classes if bool(without[targets == label].all())]


@check(
    name="loss_reduction",
    group="code",
    title="the loss of a batch is the mean over its examples, each with its own target",
    source="recipe.md B10; preflight.md, MSE [N,1] against [N], sum instead of mean",
    applies=has_known_form,
)
def loss_reduction(subject: Subject, settings: CheckSettings) -> Finding:
    """Right outputs cost nothing one by one; in a batch they do if the loss pairs examples with other targets."""
    outputs, targets = probe_outputs(subject)
    form = subject.form
    right = right_outputs(form, outputs, targets)
    scale = _scale(subject, outputs, targets)
    rows = 1 if form.flattened else len(targets)
    together = loss_of(subject, right, targets) / scale
    alone = max(_single(subject, right, targets, row) for row in range(rows)) / scale if rows > 1 else together
    values = {"together": together, "alone": alone}
    if together > settings.loss_reduction.fail and alone < settings.loss_reduction.fail / 4:
        return judged(
            Severity.FAIL,
            f"right outputs cost {together:.3g} of the loss of wrong ones in a batch, {alone:.3g} one by one",
            f"at most {settings.loss_reduction.fail} in a batch too",
            Explanation(
                meaning="Inside the loss, outputs are compared with the targets of other examples.",
                causes=(
                    "shapes (n, 1) and (n,) broadcast to (n, n)",
                    "a softmax or mean over the axis of the examples",
                ),
                advice="give outputs and targets the same shape before the loss, and check dim= of every reduction",
            ),
            values,
        )
    return _sum_or_mean(subject, outputs, targets, values)


def _scale(subject: Subject, outputs: Tensor, targets: Tensor) -> float:
    """A large loss: of uninformed classes, or of values two deviations off. Never 0."""
    wrong = right_outputs(subject.form, outputs, wrong_targets(subject.form, targets))
    outputs = wrong if subject.form.kind is Kind.VALUES else uninformed(subject.form, outputs)
    return max(abs(loss_of(subject, outputs, targets)), 1e-12)


def _single(subject: Subject, outputs: Tensor, targets: Tensor, row: int) -> float:
    value = abs(loss_of(subject, outputs[row : row + 1], targets[row : row + 1]))
    # A weighted mean over nothing but ignored targets is no number.
    return value if math.isfinite(value) else 0.0


def _sum_or_mean(subject: Subject, outputs: Tensor, targets: Tensor, values: dict[str, float]) -> Finding:
    once = loss_of(subject, outputs, targets)
    twice = loss_of(subject, torch.cat([outputs, outputs]), torch.cat([targets, targets]))
    ratio = twice / once if once else 1.0
    values = values | {"doubled": ratio}
    statistic = f"the loss of a batch taken twice is {ratio:.4g} times that of the batch"
    if abs(ratio - 1) <= 0.01:
        return passed(statistic, "1", values)
    optimizer = subject.hyperparameters.optimizer
    # Adam divides by the gradient's own size, so a sum trains like a mean, unless clipping cuts it.
    harmless = optimizer.name != "sgd" and optimizer.clip_norm == 0
    explanation = Explanation(
        meaning="The loss grows with the batch, so the best learning rate depends on the batch size.",
        causes=("reduction='sum' instead of the mean",),
        advice="return the mean over the batch",
    )
    return judged(Severity.INFO if harmless else Severity.WARN, statistic, "1", explanation, values)


@check(
    name="loss_floor",
    group="code",
    title="right and sure outputs bring the loss near zero",
    source="recipe.md B6, B13; preflight.md, double softmax: floor ln(e+n-1)-1",
    applies=is_classification,
)
def loss_floor(subject: Subject, settings: CheckSettings) -> Finding:
    """The smallest loss that any outputs can have, as a share of the loss of outputs that say nothing.

    A loss that applies softmax to probabilities levels off above zero however sure the outputs are; label
    smoothing has a floor too, but rises again beyond it.
    """
    outputs, targets = probe_outputs(subject)
    form = subject.form
    nothing = abs(loss_of(subject, uninformed(form, outputs), targets))
    tried = {s: loss_of(subject, ideal(form, outputs, targets, form.encoding, s), targets) for s in _SURENESS}
    floor, sure, surest = min(abs(v) for v in tried.values()), tried[SURE], tried[max(_SURENESS)]
    share = floor / nothing if nothing else 0.0
    levels_off = abs(sure - surest) <= 0.01 * nothing
    limits = settings.loss_floor
    severity = Severity.PASS
    if share > limits.info:
        severity = Severity.INFO
    if share > limits.warn:
        severity = Severity.WARN
    if (levels_off and share > limits.level_fail) or share > limits.fail:
        severity = Severity.FAIL
    cause = "softmax or sigmoid inside loss() before a loss that applies it itself"
    explanation = Explanation(
        meaning="Even perfect predictions keep a large loss, so the loss cannot tell good ones from perfect ones.",
        causes=(cause, "strong label smoothing") if levels_off else ("strong label smoothing", cause),
        advice="pass logits to cross_entropy and binary_cross_entropy_with_logits; lower the label smoothing",
    )
    return judged(
        severity,
        f"right outputs keep {share:.1%} of the loss of uninformed ones ({floor:.4g} of {nothing:.4g})",
        f"at most {limits.level_fail if levels_off else limits.warn:.0%}",
        explanation,
        {"floor": floor, "share": share},
    )


_SURENESS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, SURE, 2 * SURE)


@check(
    name="loss_smoothing",
    group="code",
    title="the label smoothing of the training leaves the targets recognisable",
    source="recipe.md G11; preflight.md, label smoothing 0.9",
    applies=is_classification,
)
def loss_smoothing(subject: Subject, settings: CheckSettings) -> Finding:
    """The share of every target that label smoothing spreads over all classes."""
    share = subject.hyperparameters.loss.label_smoothing
    severity = Severity.WARN if share > settings.loss_floor.smoothing_warn else Severity.PASS
    explanation = Explanation(
        meaning="Most of every target is spread evenly over the classes, so little is left to learn from.",
        causes=("label_smoothing is the share given away, not the share kept",),
        advice="use 0 to 0.2",
    )
    return judged(
        severity, f"loss.label_smoothing={share:g}", f"at most {settings.loss_floor.smoothing_warn}", explanation
    )
