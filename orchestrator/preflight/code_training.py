"""The user's training step and schedule: every step counts, starts from a fresh gradient, at a sane rate."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import optim

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.code_parameters import listed, traffic
from orchestrator.preflight.drill import drill
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject

LONGEST_DRY_RUN = 30_000
"""Steps of a schedule's dry run at most; a longer training is run with proportionally shorter epochs."""


@check(
    name="parameter_updates",
    group="code",
    title="training steps change every parameter that gets a gradient",
    source="recipe.md B5; preflight.md, LR 0, missing step",
)
def parameter_updates(subject: Subject, settings: CheckSettings) -> Finding:
    """Bit-exact comparison of weights before and after a few of the user's own steps."""
    found, reached = drill(subject), set(traffic(subject).moving)
    if not reached:
        return skipped("no parameter gets a gradient, see gradient_reach")
    if not found.losses:
        return skipped("an epoch has no batch")
    still = [name for name in reached if not found.moved.get(name, True)]
    if len(still) <= len(reached) / 2:
        # The gradient of a bias before a norm is rounding noise, which a step of SGD may lose.
        weights = {name for name, p in subject.model.named_parameters() if p.ndim >= 2}
        still = [name for name in still if name in weights]
    explanation = Explanation(
        meaning="What does not change cannot learn.",
        causes=(
            "optimizer.step() is not called, or zero_grad() comes between backward() and step()",
            "the learning rate is 0, or so small that it is lost in rounding",
            "the optimizer holds other tensors than the model",
        ),
        advice="zero_grad, forward, loss, backward, step: in this order, for every batch",
    )
    severity = Severity.PASS if not still else (Severity.FAIL if len(still) > len(reached) / 2 else Severity.WARN)
    statistic = (
        f"{len(still)} of {len(reached)} tensors unchanged after {len(found.losses)} batches and {found.steps} steps"
        + (f": {listed(sorted(still))}" if still else "")
    )
    return judged(severity, statistic, "all change", explanation, {"unchanged": len(still)})


@check(
    name="gradient_reset",
    group="code",
    title="every step starts from a fresh gradient",
    source="preflight.md, missing zero_grad",
)
def gradient_reset(subject: Subject, settings: CheckSettings) -> Finding:
    """The gradient that is applied, as a sum of a fresh one and the last one."""
    found = [value for value in drill(subject).carried if not math.isnan(value)]
    if not found:
        return skipped("the applied gradient cannot be split into a fresh and an old part")
    share = sorted(found)[len(found) // 2]
    explanation = Explanation(
        meaning="Gradients pile up over the steps, so the network follows batches of long ago.",
        causes=("zero_grad() is missing, or is called on another optimizer",),
        advice="call optimizer.zero_grad() before every backward()",
    )
    severity = Severity.FAIL if abs(share) > 0.1 else Severity.PASS
    statistic = f"each gradient holds {share:.2f} times the one of the step before"
    return judged(severity, statistic, "0", explanation, {"share": share})


@check(
    name="training_mode",
    group="code",
    title="training runs in training mode",
    source="preflight.md, BN stuck in eval",
)
def training_mode(subject: Subject, settings: CheckSettings) -> Finding:
    """Modes of dropout and batch norm seen at the forward passes of training."""
    found = drill(subject)
    frozen = {name for name, p in subject.model.named_parameters() if not p.requires_grad}
    stuck = [name for name in found.untrained_mode if not any(item.startswith(name) for item in frozen)]
    explanation = Explanation(
        meaning="Dropout is off and batch norm does not learn its statistics.",
        causes=("model.eval() at the end of an evaluation, and no model.train() after it",),
        advice="call model.train() at the start of every epoch",
    )
    severity = Severity.FAIL if stuck else Severity.PASS
    return judged(severity, f"{len(stuck)} modules in evaluation mode: {listed(stuck)}", "none", explanation)


@check(
    name="learning_rate",
    group="code",
    title="a training can move the weights by a useful amount",
    source="preflight.md, update ratio; recipe.md E14",
)
def learning_rate(subject: Subject, settings: CheckSettings) -> Finding:
    """Median relative change of a weight in one step at the peak rate, and over all steps of a training."""
    changes = sorted(value for value in drill(subject).changes.values() if value > 0)
    if not changes:
        return skipped("no weight changes, see parameter_updates")
    planned = dry_run(subject)
    peak, steps = max(planned.rates), planned.steps
    ratio = changes[len(changes) // 2] * peak
    total = ratio * steps * sum(planned.rates) / len(planned.rates) / peak if peak > 0 else 0.0
    limits = settings.learning_rate
    severity = Severity.PASS
    if not subject.task.pretrained and total < limits.total_warn:
        severity = Severity.FAIL if total < limits.total_fail else Severity.WARN
    if ratio > limits.step_warn:
        severity = Severity.FAIL if ratio > limits.step_fail else Severity.WARN
    explanation = Explanation(
        meaning="The weights end where they started." if ratio < 1 else "A single step replaces the weights.",
        causes=("the learning rate is too small" if ratio < 1 else "the learning rate is too large",),
        advice="let the lr stage find it, or start from 1e-3 with Adam",
    )
    return judged(
        severity,
        f"a step changes weights by {ratio:.1e} of their size, {steps} steps by at most {total:.2g}",
        f"at least {limits.total_warn:g} in all, at most {limits.step_warn:g} in a step",
        explanation,
        {"ratio": ratio, "total": total},
    )


@check(
    name="weight_decay",
    group="code",
    title="weight decay leaves the weights time to be learned",
    source="recipe.md G4; preflight.md, weight decay 100",
)
def weight_decay(subject: Subject, settings: CheckSettings) -> Finding:
    """Share of a weight that decay takes away in one step, from the settings of the optimizer."""
    optimizer = subject.procedure.optimizer(subject.new_model())
    share = max((_decay(optimizer, group) for group in optimizer.param_groups), default=0.0)
    limits = settings.weight_decay
    severity = Severity.PASS if share < limits.warn else (Severity.FAIL if share >= limits.fail else Severity.WARN)
    explanation = Explanation(
        meaning=f"Weights forget what they learned within about {1 / max(share, 1e-9):.0f} steps.",
        causes=("weight decay too large", "a value meant for another optimizer or learning rate"),
        advice="start without weight decay; 1e-4 to 0.1 are usual",
    )
    statistic = f"decay takes {share:.2%} of a weight in a step"
    return judged(severity, statistic, f"below {limits.warn:.1%}", explanation, {"share": share})


def _decay(optimizer: optim.Optimizer, group: dict[str, Any]) -> float:
    rate, decay = float(group.get("lr", 0.0)), float(group.get("weight_decay", 0.0))
    if isinstance(optimizer, optim.Adam) and not isinstance(optimizer, optim.AdamW):
        # An L2 penalty is divided by its own size: it takes at most the learning rate, from 1 on most of it.
        return min(rate * decay, rate) if decay < 1 else 1.0 - 1.0 / (1.0 + decay)
    momentum = float(group.get("momentum", 0.0)) if isinstance(optimizer, optim.SGD) else 0.0
    return rate * decay / (1 - momentum)


@dataclass(frozen=True)
class DryRun:
    """The learning rate over a whole training."""

    rates: tuple[float, ...]
    """Of every step, as simulated."""
    alone: tuple[float, ...]
    """The same if the scheduler were stepped after every step and at no other time."""
    steps: int
    """Optimizer steps of the whole training, before any shortening."""
    per_epoch: int
    """Steps of an epoch, as simulated."""


def dry_run(subject: Subject) -> DryRun:
    """Step optimizer and scheduler through a whole training without any data."""
    if "dry_run" not in subject.kept:
        subject.kept["dry_run"] = _dry_run(subject)
    found: DryRun = subject.kept["dry_run"]
    return found


def _dry_run(subject: Subject) -> DryRun:
    procedure, epochs = subject.procedure, subject.trainer.epochs
    true_length = max(1, len(procedure.training_order(subject.train_size(), 0)))
    per_epoch = max(1, min(true_length, LONGEST_DRY_RUN // epochs))
    rates = []
    with untouched_globals():
        optimizer = _without_gradients(subject)
        scheduler = procedure.scheduler(optimizer, per_epoch * epochs, per_epoch)
        for _ in range(epochs):
            for _ in range(per_epoch):
                rates.append(_rate(optimizer))
                optimizer.step()
                procedure.after_step(scheduler)
            procedure.after_epoch(scheduler)
        optimizer = _without_gradients(subject)
        scheduler = procedure.scheduler(optimizer, per_epoch * epochs, per_epoch)
        alone = []
        for _ in range(per_epoch * epochs):
            alone.append(_rate(optimizer))
            optimizer.step()
            scheduler.step()
    return DryRun(tuple(rates), tuple(alone), true_length * epochs, per_epoch)


def _without_gradients(subject: Subject) -> optim.Optimizer:
    """The user's optimizer, whose steps do nothing because no parameter has a gradient."""
    return subject.procedure.optimizer(subject.new_model())


def _rate(optimizer: optim.Optimizer) -> float:
    return max(float(group["lr"]) for group in optimizer.param_groups)


@check(
    name="schedule",
    group="code",
    title="the learning rate follows its schedule over the whole training",
    source="recipe.md F3; preflight.md, LR schedule",
)
def schedule(subject: Subject, settings: CheckSettings) -> Finding:
    """Dry run of optimizer and scheduler over the true number of steps."""
    found, limits = dry_run(subject), settings.schedule
    rates, peak = found.rates, max(found.rates)
    if peak == 0 or len(rates) < 10:
        return skipped("the training has fewer than ten steps" if peak else "the learning rate is 0 throughout")
    low = sum(rate < limits.low * peak for rate in rates) / len(rates)
    tail = next((i for i, rate in enumerate(reversed(rates)) if rate > limits.low * peak), 0) / len(rates)
    fixed, wanted = _span(rates) < 1.02, _span(found.alone) > 2 or _is_scheduled(subject)
    late = rates.index(peak) > 0.9 * len(rates) and _span(rates) > 2
    cycles = _cycles(rates, peak)
    severity, fault = Severity.PASS, ""
    if low > limits.fail_share:
        severity, fault = Severity.FAIL, f"below {limits.low:.0%} of its peak in {low:.0%} of the steps"
    elif fixed and wanted:
        severity, fault = Severity.FAIL, "never changes although a schedule is set"
    elif cycles > limits.cycles:
        severity, fault = Severity.WARN, f"falls to zero and comes back {cycles} times"
    elif late:
        severity, fault = Severity.WARN, "still rises at the end of the training"
    elif tail > limits.tail_share:
        severity, fault = Severity.WARN, f"is near zero for the last {tail:.0%} of the steps"
    values = {"low_share": low, "tail_share": tail, "cycles": float(cycles), "first": rates[0], "last": rates[-1]}
    if not fault:
        return passed(f"from {rates[0]:.3g} over {peak:.3g} to {rates[-1]:.3g} in {found.steps} steps", "", values)
    explanation = Explanation(
        meaning="A large part of the training is spent at a learning rate that was not meant.",
        causes=(
            "a length counted in epochs while the scheduler is stepped after every batch, or the other way round",
            "scheduler.step() is not called",
            "a schedule made for another number of epochs",
        ),
        advice="give the scheduler the number of times it will be stepped in the whole training",
    )
    return judged(severity, f"the learning rate {fault}", "the schedule over the true steps", explanation, values)


def _span(rates: tuple[float, ...]) -> float:
    """Largest over smallest rate; infinite if one is 0."""
    return max(rates) / min(rates) if min(rates) > 0 else math.inf


def _is_scheduled(subject: Subject) -> bool:
    settings = subject.hyperparameters.schedule
    return settings.warmup > 0 or (settings.kind != "constant" and settings.final < 1)


def _cycles(rates: tuple[float, ...], peak: float) -> int:
    """How often the rate rises above half its peak after having been below a twentieth of it."""
    count, was_low = 0, False
    for rate in rates[len(rates) // 20 :]:
        if rate < 0.05 * peak:
            was_low = True
        elif rate > 0.5 * peak and was_low:
            count, was_low = count + 1, False
    return count


@check(
    name="scheduler_order",
    group="code",
    title="the scheduler is stepped after the optimizer",
    source="preflight.md, scheduler.step before optimizer",
)
def scheduler_order(subject: Subject, settings: CheckSettings) -> Finding:
    """PyTorch's own warning, raised in a short run of the user's epoch."""
    # PyTorch warns about it itself; the short run of the epoch has collected warnings.
    wrong = [text for text in drill(subject).warned if "before `optimizer.step()`" in text]
    explanation = Explanation(
        meaning="The first learning rate of the schedule is skipped, and every later one comes a step early.",
        causes=("scheduler.step() is called before optimizer.step()",),
        advice="step the optimizer first",
    )
    # Without a single optimizer step the order says nothing.
    severity = Severity.WARN if wrong and drill(subject).steps else Severity.PASS
    return judged(severity, f"{len(wrong)} warnings of PyTorch", "none", explanation)


@check(
    name="mixed_precision",
    group="code",
    title="mixed precision gives the loss of full precision",
    source="recipe.md E10",
)
def mixed_precision(subject: Subject, settings: CheckSettings) -> Finding:
    """The loss under autocast against that in float32, on a GPU only."""
    if subject.device.type != "cuda" or not subject.trainer.amp:
        return skipped("no GPU, or mixed precision is off")
    inputs, targets = subject.train_examples(256)
    kind = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    full = subject.loss(subject.outputs(subject.model, inputs).float(), targets)
    with torch.autocast("cuda", dtype=kind):
        half = subject.loss(subject.outputs(subject.model, inputs), targets)
    gap = float((half.float() - full).abs() / full.abs().clamp_min(1e-6))
    severity = Severity.WARN if gap > settings.mixed_precision.warn or math.isnan(gap) else Severity.PASS
    explanation = Explanation(
        meaning="Rounding to 16 bits changes the loss.",
        causes=("large intermediate values", "a sum over many elements in half precision"),
        advice="set trainer.amp=false, or keep the sensitive part in float32",
    )
    threshold = f"at most {settings.mixed_precision.warn:.0%}"
    return judged(severity, f"the loss differs by {gap:.2%}", threshold, explanation, {"gap": gap})


@check(
    name="accumulation",
    group="code",
    title="gradients of parts of a batch add up to that of the whole",
    source="recipe.md E11",
)
def accumulation(subject: Subject, settings: CheckSettings) -> Finding:
    """Gradient of a batch against that of its parts, weighted by their sizes, in evaluation mode."""
    if subject.trainer.microbatch_size == 0:
        return skipped("trainer.microbatch_size=0: gradients are not accumulated")
    inputs, targets = subject.train_examples(32)
    model = subject.new_model().eval()
    whole = _gradient(subject, model, [(inputs, targets)])
    part = min(subject.trainer.microbatch_size, max(1, len(inputs) // 2))
    parts = _gradient(subject, model, list(zip(torch.split(inputs, part), torch.split(targets, part), strict=True)))
    gap = float((whole - parts).norm() / whole.norm().clamp_min(1e-12))
    severity = Severity.WARN if gap > settings.accumulation.warn else Severity.PASS
    explanation = Explanation(
        meaning="The result depends on how a batch is cut up to fit into memory.",
        causes=("the loss is a sum, or a mean weighted by what the batch holds", "the loss compares examples"),
        advice="set trainer.microbatch_size=0, or make the loss a plain mean over examples",
    )
    threshold = f"at most {settings.accumulation.warn:g}"
    return judged(severity, f"the gradients differ by {gap:.2g}", threshold, explanation, {"gap": gap})


def _gradient(
    subject: Subject, model: torch.nn.Module, parts: list[tuple[torch.Tensor, torch.Tensor]]
) -> torch.Tensor:
    model.zero_grad()
    total = sum(len(inputs) for inputs, _ in parts)
    for inputs, targets in parts:
        torch.autograd.backward(subject.loss(model(inputs), targets) * (len(inputs) / total))
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])
