"""Whether predictions are in the units of the targets, and each of its own example only."""

import torch
from torch import Tensor, optim

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.conditions import keeps_examples_apart
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, skipped
from orchestrator.preflight.subject import Subject

EXAMPLES = 16
"""Examples whose outputs are fitted, each alone (our choice)."""
WARN, FAIL = 0.1, 0.5
"""Median distance from prediction to target, in deviations of the targets. Healthy tasks of the mutation
benchmark (squared error, Huber, scaling inside the loss, Poisson): at most 0.0002; predictions left in
standardised units: 2.8."""
ALONE = 1e-5
"""Largest relative difference between predictions alone and together: float32 rounding is below 1e-6; a softmax
over the examples gives 5 and more."""


def _has_numbers_to_predict(subject: Subject) -> str | None:
    if subject.is_classification or not subject.train_examples(1)[1].is_floating_point():
        return "the targets are not numbers to be predicted"
    return keeps_examples_apart(subject)


@check(
    name="prediction_units",
    group="code",
    title="outputs that the loss likes best give predictions that equal the targets",
    source="recipe.md A22; preflight.md, predictions not unscaled",
    applies=_has_numbers_to_predict,
)
def prediction_units(subject: Subject, settings: CheckSettings) -> Finding:
    """Minimise the loss over free outputs, without a network, and compare their predictions with the targets."""
    inputs, targets = subject.train_examples(EXAMPLES)
    fitted = free_outputs(subject, subject.outputs(subject.model, inputs), targets)
    if fitted is None:
        return skipped("outputs that minimise the loss of single examples were not found")
    predictions = subject.task.predictions(fitted).cpu()
    if predictions.numel() != targets.numel():
        return skipped(f"predictions {tuple(predictions.shape)} are not one per target {tuple(targets.shape)}")
    wanted = targets.cpu().double()
    spread = wanted.std().clamp_min(1e-12)
    distance = float(((predictions.reshape(wanted.shape) - wanted).abs() / spread).median())
    severity = Severity.FAIL if distance > FAIL else Severity.WARN if distance > WARN else Severity.PASS
    explanation = Explanation(
        meaning="A network without training error would give wrong predictions: they are in other units.",
        causes=(
            "targets are scaled in the loss and predictions() does not scale back",
            "predictions() scales back what was never scaled, or with other statistics",
            "logarithm or exponential on one side only",
        ),
        advice="call task.predictions on outputs whose loss is 0 and compare with the targets",
    )
    return judged(
        severity,
        f"predictions of the best outputs are {distance:.2g} target deviations from the targets",
        f"at most {WARN:g}, blocked above {FAIL:g}",
        explanation,
        {"distance": distance},
    )


@check(
    name="prediction_rows",
    group="code",
    title="the prediction of an example does not depend on the other examples",
    source="recipe.md B19, for predictions() as for the model",
    applies=keeps_examples_apart,
)
def prediction_rows(subject: Subject, settings: CheckSettings) -> Finding:
    """Predictions of single outputs against those of all outputs together."""
    inputs, _ = subject.train_examples(EXAMPLES)
    outputs = subject.outputs(subject.model, inputs)
    together = subject.task.predictions(outputs).double()
    if len(together) != len(outputs):
        return skipped(f"there are {len(together)} predictions for {len(outputs)} outputs")
    alone = torch.cat([subject.task.predictions(outputs[row : row + 1]) for row in range(len(outputs))]).double()
    size = together.abs().mean().clamp_min(1e-12)
    change = float((together - alone).abs().max() / size)
    explanation = Explanation(
        meaning="Scores depend on how the examples are grouped, and a prediction for a single example is wrong.",
        causes=("softmax over the axis of the examples in predictions()", "predictions scaled by their own mean"),
        advice="predictions() must treat each example alone: softmax(dim=-1) or dim=1, never dim=0",
    )
    return judged(
        Severity.FAIL if change > ALONE else Severity.PASS,
        f"predictions of single examples differ by {change:.2g} of their size from those of all together",
        f"at most {ALONE:g}",
        explanation,
        {"change": change},
    )


def free_outputs(subject: Subject, start: Tensor, targets: Tensor) -> Tensor | None:
    """Outputs with the smallest loss of each example alone, found from ``start``; None where there is no minimum."""
    outputs = start.detach().clone().requires_grad_(True)
    optimizer = optim.LBFGS([outputs], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        each = [subject.loss(outputs[row : row + 1], targets[row : row + 1]) for row in range(len(targets))]
        loss = torch.stack(each).sum()
        torch.autograd.backward(loss)
        return loss

    with torch.enable_grad():
        if not closure().requires_grad:
            return None
        slope = float(_gradient(outputs).norm())
        optimizer.step(closure)  # type: ignore[no-untyped-call]
        closure()
    left = float(_gradient(outputs).norm())
    # A minimum has no slope; a loss without one (negated) keeps or steepens its own.
    return outputs.detach() if left < 1e-2 * slope else None


def _gradient(outputs: Tensor) -> Tensor:
    return outputs.grad if outputs.grad is not None else torch.zeros_like(outputs)
