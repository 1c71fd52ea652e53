"""What the network can say at all: the range of its outputs over random weights.

A squashed output (softmax, sigmoid, ReLU, tanh) stays squashed whatever the weights are, while the
outputs of a linear last layer go everywhere; so no guess from a single initialisation is needed.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.conditions import has_known_form
from orchestrator.preflight.forms import Encoding, Kind
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed
from orchestrator.preflight.subject import Subject


@dataclass(frozen=True)
class Reach:
    """Outputs over all examples and random weights."""

    lowest: float
    highest: float
    sums_to_one: bool
    """Along the class axis, in every row."""
    constant: bool
    """Every output is the same number, whatever the example and the weights."""


def _shake(model: nn.Module, scale: float, generator: torch.Generator) -> None:
    """Add normal noise to every parameter, ``scale`` times the size of its tensor's values (at least 0.1)."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                size = parameter.abs().mean().clamp_min(0.1)
                parameter.add_(scale * size * noise)


def reach(subject: Subject, settings: CheckSettings) -> Reach:
    """The outputs of the evaluation mode over random weights of growing size; overflow is left out."""
    if "reach" not in subject.kept:
        subject.kept["reach"] = _reach(subject, settings)
    found: Reach = subject.kept["reach"]
    return found


def _reach(subject: Subject, settings: CheckSettings) -> Reach:
    limits = settings.output_range
    inputs, _ = subject.train_examples(limits.examples)
    generator = torch.Generator().manual_seed(0)
    outputs: list[Tensor] = []
    for draw in range(limits.draws):
        model = subject.new_model(draw)
        _shake(model, 0.5 * draw, generator)
        found = subject.outputs(model, inputs).double()
        outputs.append(found[torch.isfinite(found.reshape(len(found), -1)).all(dim=1)])
    together = torch.cat(outputs)
    sums = together.sum(dim=subject.form.axis) if subject.form.kind is Kind.CLASSES else torch.zeros(())
    return Reach(
        lowest=float(together.min()),
        highest=float(together.max()),
        sums_to_one=bool(((sums - 1).abs() < 1e-3).all()),
        constant=bool(together.max() - together.min() < 1e-9 * together.abs().max().clamp_min(1e-9)),
    )


@check(
    name="double_softmax",
    group="code",
    title="the model does not squash outputs that the loss squashes again",
    source="recipe.md B6, D13; preflight.md, softmax twice, sigmoid before BCE-with-logits",
    applies=has_known_form,
)
def double_softmax(subject: Subject, settings: CheckSettings) -> Finding:
    """Outputs within [0, 1] for all weights although the loss is smallest for outputs far outside."""
    if subject.form.encoding is not Encoding.LOGITS:
        return passed(f"the loss takes {subject.form.encoding}")
    found = reach(subject, settings)
    values = {"lowest": found.lowest, "highest": found.highest}
    statistic = f"outputs from {found.lowest:.4g} to {found.highest:.4g} over random weights"
    squashed = found.lowest >= 0 and found.highest <= 1
    explanation = Explanation(
        meaning="The outputs are probabilities, but the loss takes logits: it can never come near zero.",
        causes=(
            "softmax or sigmoid at the end of the model" if found.sums_to_one else "sigmoid at the end of the model",
        ),
        advice="return logits from the model, and turn them into probabilities in predictions() only",
    )
    return judged(Severity.FAIL if squashed else Severity.PASS, statistic, "beyond [0, 1]", explanation, values)


@check(
    name="output_range",
    group="code",
    title="the outputs can reach the targets",
    source="recipe.md D13, A22; preflight.md, ReLU on logits, softmax on one column",
    applies=has_known_form,
)
def output_range(subject: Subject, settings: CheckSettings) -> Finding:
    """Range of the outputs over random weights, against that of the targets or of logits."""
    found = reach(subject, settings)
    values = {"lowest": found.lowest, "highest": found.highest}
    statistic = f"outputs from {found.lowest:.4g} to {found.highest:.4g} over random weights"
    severity, wanted, cause = Severity.PASS, "", ""
    if found.constant:
        severity, wanted, cause = Severity.FAIL, "not constant", "softmax over an axis of length 1, or a final clamp"
    elif subject.form.encoding is Encoding.LOGITS:
        severity, wanted, cause = _logits(found)
    elif subject.form.kind is Kind.VALUES:
        severity, wanted, cause = _values(subject, found)
    explanation = Explanation(
        meaning="Some targets are out of reach for every choice of weights.",
        causes=(cause, "the targets are not on the scale that the model was made for"),
        advice="end the model with a plain linear layer, or scale the targets into the range of its outputs",
    )
    return judged(severity, statistic, wanted, explanation, values)


def _logits(found: Reach) -> tuple[Severity, str, str]:
    if found.lowest >= 0 and found.highest > 1:
        return Severity.FAIL, "some below 0", "ReLU, or another function that is never negative, on the logits"
    # log_softmax before a loss that applies it again changes nothing; its outputs are bounded by 0 above.
    if found.lowest >= -1.0001 and found.highest <= 1.0001 and found.lowest < 0:
        return Severity.WARN, "beyond [-1, 1]", "tanh, or cosine similarity without a scale, as logits"
    return Severity.PASS, "unbounded logits", ""


def _values(subject: Subject, found: Reach) -> tuple[Severity, str, str]:
    _, targets = subject.train_examples(4096)
    low, high = float(targets.min()), float(targets.max())
    spread = max(high - low, 1e-12)
    missed = max(found.lowest - low, high - found.highest) / spread
    wanted = f"{low:.4g} to {high:.4g}, the range of the targets"
    # An unbounded output moves with the weights; only a bound that no draw crosses is a fault.
    bounded_below = found.lowest in (0.0, -1.0) or 0 <= found.lowest < 0.05
    bounded_above = found.highest <= 1.0
    if missed <= 0.02 or not (bounded_below or bounded_above):
        return Severity.PASS, wanted, ""
    # What is compared is the bound itself: random weights come near it, and need not reach it.
    floor = -1.0 if found.lowest < 0 else 0.0
    below = bounded_below and floor - low > 0.02 * spread
    above = bounded_above and found.highest > 0.5 and high - 1.0 > 0.02 * spread
    return (Severity.FAIL if below or above else Severity.PASS), wanted, "ReLU, sigmoid, softmax or tanh as last step"
