"""Two examples must be learned by heart: the surest sign that model, loss and gradient fit together."""

import torch
from torch import Tensor

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.conditions import has_known_form
from orchestrator.preflight.forms import SURE, Encoding, Kind, ideal
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.shorts import loss_on, trained, without_dropout
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject
from orchestrator.training.data import Batch
from orchestrator.training.loop import seed_everything


def two_examples(subject: Subject) -> Batch | None:
    """Two training examples with different inputs and targets; four where batch norm sees one value each.

    None where there are no such two. Of sequences, two that differ at the first position: a causal model
    cannot tell them apart there otherwise.
    """
    inputs, targets = subject.train_examples(256)
    chosen = [0]
    for i in range(1, len(inputs)):
        differ = not torch.equal(targets[i], targets[0]) and not torch.equal(inputs[i], inputs[0])
        first = inputs[i].flatten()[:1] if inputs.ndim > 1 else inputs[i]
        same_start = subject.task.causal and torch.equal(first, inputs[0].flatten()[:1])
        if differ and not same_start:
            chosen.append(i)
            break
    if len(chosen) < 2:
        return None
    index = torch.tensor(chosen, device=inputs.device)
    return inputs[index], targets[index]


def right_share(subject: Subject, outputs: Tensor, targets: Tensor) -> float:
    """Share of classes or labels that are right; of values, the share within 15 % of the batch's range."""
    form = subject.form
    if form.kind is Kind.CLASSES:
        known = targets.flatten() if form.flattened else targets
        right = (outputs.argmax(dim=form.axis) == known)[known >= 0]
        return float(right.double().mean())
    wanted = targets.to(outputs.dtype).reshape(outputs.shape)
    if form.kind is Kind.BINARY:
        limit = 0.0 if form.encoding is Encoding.LOGITS else 0.5
        return float(((outputs > limit) == (wanted > 0.5)).double().mean())
    spread = (wanted.max() - wanted.min()).clamp_min(1e-12)
    return float(((outputs - wanted).abs() <= 0.15 * spread).double().mean())


def floor(subject: Subject, outputs: Tensor, targets: Tensor) -> float:
    """The smallest loss that sure and right outputs have (label smoothing inside the loss has one)."""
    form = subject.form
    surenesses = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, SURE)
    with torch.no_grad():
        tried = [float(subject.loss(ideal(form, outputs, targets, form.encoding, s), targets)) for s in surenesses]
    return min(tried)


@check(
    name="overfit_two",
    group="learn",
    title="two examples can be learned by heart",
    source="recipe.md B13, B14, D3; preflight.md, overfit 2",
    applies=has_known_form,
)
def overfit_two(subject: Subject, settings: CheckSettings) -> Finding:
    """Adam at three rates, regularisation off; loss near its floor and every prediction right."""
    limits = settings.overfit_two
    batch = two_examples(subject)
    if batch is None:
        return skipped("there are no two training examples with different inputs and targets")
    least, best_right = float("inf"), 0.0
    for rate in (3e-3, 1e-3, 1e-2):
        steps, share, right = _learn_by_heart(subject, batch, rate, settings)
        if share < limits.loss and right == 1.0:
            return passed(f"learned in {steps} steps at rate {rate:g}", "", {"steps": steps, "share": share})
        least, best_right = min(least, share), max(best_right, right)
    # Neighbouring pixels or positions may look the same to a small receptive field and differ in target.
    local = batch[1].ndim > 1 and batch[1][0].numel() > 1
    severity = Severity.WARN if local and least < 0.5 else Severity.FAIL
    explanation = Explanation(
        meaning="A network that cannot learn two examples by heart has a fault, or far too little capacity.",
        causes=(
            "the loss does not fit the outputs (softmax twice, wrong shape, wrong sign)",
            "gradients do not reach the layers, or vanish",
            "inputs do not reach the output, or are the same for both examples",
            "dead units, or weights that all start equal",
        ),
        advice="train on this one batch by hand and print loss, outputs and gradients",
    )
    statistic = f"after {limits.steps} steps at three rates, {least:.1%} of the loss is left, {best_right:.0%} right"
    threshold = f"below {limits.loss:.0%} of the loss, all right"
    return judged(severity, statistic, threshold, explanation, {"share": least, "right": best_right})


def _learn_by_heart(subject: Subject, batch: Batch, rate: float, settings: CheckSettings) -> tuple[int, float, float]:
    """Steps used, share of the initial loss (above its floor) left, share of predictions right."""
    limits = settings.overfit_two
    model = subject.new_model()
    with without_dropout(model):
        outputs = subject.outputs(model, batch[0], train=True)
        lowest = floor(subject, outputs, batch[1])
        start = loss_on(subject, model, batch, train=True)
    checkpoints = range(10, limits.steps + 1, 10)
    step, share, right = 0, float("inf"), 0.0
    for done, current in trained(subject, batch, checkpoints, rate, model=model):
        step = done
        outputs = subject.outputs(current, batch[0], train=True)
        loss = float(subject.loss(outputs, batch[1]))
        share = (loss - lowest) / max(abs(start - lowest), 1e-9)
        right = right_share(subject, outputs, batch[1])
        # Whatever the start was: a loss this small is learned.
        if abs(loss - lowest) < 1e-4 and right == 1.0:
            share = 0.0
        if share < limits.loss and right == 1.0:
            break
    return step, share, right


@check(
    name="overfit_settings",
    group="learn",
    title="two examples can be learned by heart with the user's own step and settings",
    source="recipe.md G3; preflight.md, overfit 2, dropout 0.95",
    applies=has_known_form,
)
def overfit_settings(subject: Subject, settings: CheckSettings) -> Finding:
    """The user's optimizer, dropout, decay and label smoothing on two examples; judged in evaluation mode."""
    limits = settings.overfit_settings
    batch = two_examples(subject)
    if batch is None:
        return skipped("there are no two training examples with different inputs and targets")
    model = subject.new_model().train()
    outputs = subject.outputs(model, batch[0])
    lowest, start = floor(subject, outputs, batch[1]), float(subject.loss(outputs, batch[1]))
    share, right = 1.0, 0.0
    with untouched_globals():
        seed_everything(0)
        optimizer = subject.procedure.optimizer(model)
        for step in range(1, limits.steps + 1):
            loss = subject.procedure.step(model, optimizer, batch[0].clone(), batch[1].clone())
            if not bool(torch.isfinite(loss)):
                break
            if step % 25 == 0:
                outputs = subject.outputs(model, batch[0], train=False)
                now = float(subject.loss(outputs, batch[1]))
                share, right = (now - lowest) / max(start - lowest, 1e-9), right_share(subject, outputs, batch[1])
                if share < limits.loss and right == 1.0:
                    return passed(f"learned in {step} steps", "", {"steps": float(step), "share": share})
    explanation = Explanation(
        meaning="The settings keep the network from learning even two examples.",
        causes=("learning rate too small or too large", "dropout or weight decay too strong", "strong augmentation"),
        advice="take regularisation off and tune the learning rate first",
    )
    statistic = f"after {limits.steps} steps {share:.1%} of the loss is left, {right:.0%} right"
    return judged(Severity.WARN, statistic, f"below {limits.loss:.0%}, all right", explanation, {"share": share})
