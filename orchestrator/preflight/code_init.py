"""The first loss: untrained networks should neither know nor believe anything."""

import math

import torch
from torch import Tensor

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.code_loss import loss_of
from orchestrator.preflight.conditions import has_known_form, is_classification, is_not_pretrained
from orchestrator.preflight.forms import Encoding, Form, Kind, uninformed
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged
from orchestrator.preflight.shorts import best_constant, constant_loss_on
from orchestrator.preflight.subject import Subject


def constant_loss(subject: Subject, outputs: Tensor, targets: Tensor) -> float:
    """The loss of the constant that suits ``targets`` best: base rates, or the mean (the median if better)."""
    options = [constant(subject.form, outputs, targets)]
    if subject.form.kind is Kind.VALUES:
        wanted = targets.to(outputs.dtype).reshape(outputs.shape)
        options.append(wanted.median(dim=0, keepdim=True).values.expand_as(outputs))
    return min(loss_of(subject, option, targets) for option in options)


def constant(form: Form, outputs: Tensor, targets: Tensor) -> Tensor:
    """The same prediction for every example: log base rates, or the mean target; shaped like ``outputs``."""
    if form.kind is Kind.CLASSES:
        counts = torch.bincount(targets[targets >= 0].flatten(), minlength=form.classes).double()
        shares = (counts / counts.sum()).clamp_min(1e-6).to(outputs.device, outputs.dtype)
        shares = shares.log() if form.encoding is Encoding.LOGITS else shares
        shape = [1] * outputs.ndim
        shape[form.axis] = form.classes
        return shares.reshape(shape).expand_as(outputs)
    wanted = targets.to(outputs.dtype).reshape(outputs.shape).mean(dim=0, keepdim=True)
    if form.kind is Kind.BINARY and form.encoding is Encoding.LOGITS:
        wanted = wanted.clamp(1e-6, 1 - 1e-6).logit()
    return wanted.expand_as(outputs)


@check(
    name="init_loss",
    group="code",
    title="the loss of untrained networks is that of an uninformed or a constant prediction",
    source="recipe.md B12; preflight.md, init loss",
    applies=(has_known_form, is_not_pretrained),
)
def init_loss(subject: Subject, settings: CheckSettings) -> Finding:
    """Median over three networks of the loss in training mode, as a multiple of its nearest reference.

    References are the task's own loss of constant outputs, so that class weights, label smoothing, Huber
    and L1 losses are counted in: equal probabilities and base rates; in regression the initial mean.
    """
    limits = settings.init_loss
    inputs, targets = subject.train_examples(limits.examples)
    ratios = sorted(_init_ratio(subject, inputs, targets, repeat) for repeat in range(3))
    ratio = ratios[1]
    distance = math.inf if ratio <= 0 or not math.isfinite(ratio) else max(ratio, 1 / ratio)
    severity = Severity.FAIL if distance > limits.fail else Severity.PASS
    if severity is Severity.PASS and distance > limits.warn:
        severity = Severity.WARN
    explanation = Explanation(
        meaning="Untrained networks already make sure predictions, which are wrong.",
        causes=(
            "initial weights too large, most of all in the last layer",
            "inputs that are not scaled",
            "a final bias far from the base rate or the mean of the targets",
        ),
        advice="use the default initialisation, or scale the last layer's weights down; scale the inputs",
    )
    return judged(
        severity,
        f"initial loss is {ratio:.3g} times its reference",
        f"{1 / limits.warn:.2f} to {limits.warn:.2f}, blocked beyond {1 / limits.fail:.2f} to {limits.fail:.2f}",
        explanation,
        {"ratio": ratio, "lowest": ratios[0], "highest": ratios[2]},
    )


def _init_ratio(subject: Subject, inputs: Tensor, targets: Tensor, repeat: int) -> float:
    """The ratio to the reference that is nearest on a logarithmic scale."""
    outputs = subject.outputs(subject.new_model(repeat), inputs, train=True)
    if subject.form.kind is Kind.VALUES:
        # Where the outputs start is the business of the scale of the targets: here, how far they spread.
        constant = best_constant(subject, (inputs, targets)).expand_as(outputs)
        loss = loss_of(subject, outputs - outputs.mean(dim=0, keepdim=True) + constant, targets)
        references = [loss_of(subject, constant, targets)]
    else:
        loss = loss_of(subject, outputs, targets)
        references = [loss_of(subject, uninformed(subject.form, outputs), targets)]
        references.append(constant_loss(subject, outputs, targets))
    ratios = [loss / reference for reference in references if abs(reference) > 1e-12]
    return min(ratios, key=lambda ratio: abs(math.log(ratio)) if ratio > 0 else math.inf, default=1.0)


@check(
    name="base_rate_bias",
    group="code",
    title="the final bias starts at the base rate where classes are rare",
    source="recipe.md C2, C1; preflight.md, base-rate bias",
    applies=(is_classification, is_not_pretrained),
)
def base_rate_bias(subject: Subject, settings: CheckSettings) -> Finding:
    """What an untrained network loses by not knowing how frequent the classes are."""
    limits = settings.base_rate_bias
    batch = subject.train_examples(limits.examples)
    outputs = subject.outputs(subject.model, batch[0], train=True)
    constant_output = best_constant(subject, batch)
    entropy = constant_loss_on(subject, constant_output, batch)
    started, nothing = (
        loss_of(subject, outputs, batch[1]),
        loss_of(subject, uninformed(subject.form, outputs), batch[1]),
    )
    excess = (started - entropy) / entropy if entropy > 1e-9 else 0.0
    shares = _shares(subject.form, batch[1])
    rarest = min((share for share in shares if share > 0), default=1.0)
    # Ten balanced classes have a tenth each; and an initial loss far off is init_loss's business.
    rare = rarest < min(limits.rarest, 0.5 / (len(shares) if subject.form.kind is Kind.CLASSES else 2))
    found = excess > limits.excess and rare and started < settings.init_loss.warn * nothing
    # Language models start 42 to 45 % above the base rate when healthy (preflight.md).
    severity = Severity.WARN if len(shares) <= limits.classes and excess > limits.warn else Severity.INFO
    values = constant_output.flatten().tolist()
    bias = ", ".join(f"{value:.3g}" for value in values[:10])
    explanation = Explanation(
        meaning="The first epochs will be spent on learning the base rates, which are known.",
        causes=("the bias of the last layer starts at zero although some classes are rare",),
        advice=f"set the bias of the last layer to {bias}{' ...' if len(values) > 10 else ''}",
    )
    return judged(
        severity if found else Severity.PASS,
        f"initial loss is {excess:.1%} above that of the base rates; the rarest class has {rarest:.2%}",
        f"at most {limits.excess:.0%} where a class has less than {limits.rarest:.0%}",
        explanation,
        {"excess": excess, "rarest": rarest},
    )


def _shares(form: Form, targets: Tensor) -> list[float]:
    if form.kind is Kind.CLASSES:
        counts = torch.bincount(targets[targets >= 0].flatten(), minlength=form.classes).double()
        return [float(share) for share in counts / counts.sum()]
    rates = targets.double().reshape(len(targets), -1).mean(dim=0)
    return [float(rate) for rate in rates]
