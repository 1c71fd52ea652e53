"""A short training with the user's own step and settings: does it diverge, does it get anywhere?"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.code_activations import judge_dead, zero_units
from orchestrator.preflight.conditions import has_known_form
from orchestrator.preflight.drill import MODAL
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, skipped
from orchestrator.preflight.shorts import input_independent_loss, loss_on
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject
from orchestrator.training.loop import seed_everything


@dataclass(frozen=True)
class Trained:
    """A network after a short training with the user's step, at the peak learning rate."""

    model: nn.Module
    losses: tuple[float, ...]
    """Of every step, as the user's step returned them."""


def short_training(subject: Subject, settings: CheckSettings) -> Trained:
    """Steps over a fixed sample of the training split, run once; ends where the loss is no number."""
    if "short_training" not in subject.kept:
        subject.kept["short_training"] = _short_training(subject, settings)
    found: Trained = subject.kept["short_training"]
    return found


def _short_training(subject: Subject, settings: CheckSettings) -> Trained:
    limits = settings.divergence
    inputs, targets = subject.train_examples(limits.examples)
    batch = min(subject.hyperparameters.data.batch_size, limits.batch, len(inputs))
    model, losses = subject.new_model().train(), []
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(inputs), generator=generator)
    place = 0
    with untouched_globals():
        seed_everything(0)
        optimizer = subject.procedure.optimizer(model)
        for _ in range(limits.steps):
            if place + batch > len(order):
                order, place = torch.randperm(len(inputs), generator=generator), 0
            chosen = order[place : place + batch].to(inputs.device)
            place += batch
            loss = float(subject.procedure.step(model, optimizer, inputs[chosen], targets[chosen]))
            losses.append(loss)
            if not math.isfinite(loss):
                break
    return Trained(model, tuple(losses))


@check(
    name="divergence",
    group="learn",
    title="the user's settings do not blow up the loss",
    source="recipe.md E14; preflight.md, LR 10",
    applies=has_known_form,
)
def divergence(subject: Subject, settings: CheckSettings) -> Finding:
    """Median loss of the last steps of a short training against that of the best constant."""
    limits = settings.divergence
    losses = short_training(subject, settings).losses
    if not math.isfinite(losses[-1]):
        return judged(Severity.FAIL, f"the loss is {losses[-1]} at step {len(losses)}", "finite", _DIVERGED)
    train = subject.train_examples(limits.examples)
    constant = input_independent_loss(subject, train, train)
    if constant <= 0:
        return skipped(f"the loss of the best constant is {constant:.3g}, which gives no scale")
    last = sorted(losses[-20:])[len(losses[-20:]) // 2]
    reference = max(constant, losses[0])
    ratio = last / reference
    severity = Severity.PASS if ratio <= limits.warn else Severity.WARN
    if ratio > limits.fail and subject.hyperparameters.schedule.warmup == 0:
        severity = Severity.FAIL
    statistic = (
        f"after {len(losses)} steps the loss is {last:.4g}, {ratio:.2f} times that of a constant or at the start"
    )
    return judged(severity, statistic, f"at most {limits.warn}", _DIVERGED, {"ratio": ratio})


_DIVERGED = Explanation(
    meaning="The training runs away from the solution.",
    causes=("the learning rate is too large", "the loss is negated or not bounded below", "inputs are not scaled"),
    advice="lower optimizer.lr tenfold; set optimizer.clip_norm; scale the inputs",
)


@check(
    name="progress",
    group="learn",
    title="the user's settings lower the training loss",
    source="recipe.md E14, B24; preflight.md, skill",
    applies=has_known_form,
)
def progress(subject: Subject, settings: CheckSettings) -> Finding:
    """Loss over the training examples after a short training, against that of the best constant."""
    limits = settings.divergence
    found = short_training(subject, settings)
    train = subject.train_examples(limits.examples)
    constant = input_independent_loss(subject, train, train)
    start = loss_on(subject, subject.new_model(), train)
    now = min(loss_on(subject, found.model, train), loss_on(subject, found.model, train, train=True))
    if not math.isfinite(now) or constant <= 0:
        return skipped("the loss diverges or has no scale")
    gain, fell = 1 - now / constant, 1 - now / start if start else 0.0
    severity = Severity.PASS if gain > limits.gain or (fell > 0.05 and gain > -0.5) else Severity.WARN
    explanation = Explanation(
        meaning="With these settings the network does not even learn to beat a constant.",
        causes=("learning rate far too small or too large", "strong regularisation", "a fault in the training step"),
        advice="compare with overfit_two and skill: if they pass, the settings are to blame",
    )
    statistic = f"after {len(found.losses)} steps the training loss is {now:.4g}, of the best constant {constant:.4g}"
    return judged(severity, statistic, f"a gain of {limits.gain:.2f}", explanation, {"gain": gain, "fell": fell})


@check(
    name="trained_modes",
    group="learn",
    title="training and evaluation mode agree after some training",
    source="recipe.md C7; preflight.md, mode consistency",
)
def trained_modes(subject: Subject, settings: CheckSettings) -> Finding:
    """Loss over training examples in evaluation mode against that in training mode, after a short training."""
    if not any(isinstance(module, MODAL) for module in subject.model.modules()):
        return skipped("there is neither dropout nor batch norm")
    found = short_training(subject, settings)
    train = subject.train_examples(settings.divergence.examples)
    # Training mode moves the statistics of batch norm: it comes second.
    evaluation = loss_on(subject, found.model, train)
    with untouched_globals():
        training = loss_on(subject, found.model, train, train=True)
    if not 0 < training < math.inf:
        return skipped(f"the loss in training mode is {training:.3g}, which gives no ratio")
    ratio = evaluation / training
    explanation = Explanation(
        meaning="What is evaluated is not what was trained.",
        causes=("batch norm whose statistics lag behind (momentum, few steps)", "batch norm with tiny batches"),
        advice="check momentum and batch size of batch norm, or use another norm",
    )
    limit = settings.trained_modes.warn
    severity = Severity.WARN if ratio > limit and evaluation > 0.05 * abs(found.losses[0]) else Severity.PASS
    statistic = f"loss {evaluation:.4g} in evaluation mode, {training:.4g} in training mode: ratio {ratio:.2f}"
    return judged(severity, statistic, f"at most {limit:g}", explanation, {"ratio": ratio})


@check(
    name="dead_units_trained",
    group="learn",
    title="units are still alive after some training",
    source="recipe.md B31; preflight.md, dead ReLU",
)
def dead_units_trained(subject: Subject, settings: CheckSettings) -> Finding:
    """Silent units after a short training with the user's settings."""
    inputs, _ = subject.train_examples(settings.dead_units.examples)
    shares = zero_units(short_training(subject, settings).model, inputs)
    if not shares:
        return skipped("there is no layer that could be silent")
    return judge_dead(shares, settings, "after a short training")
