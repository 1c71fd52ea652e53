"""A few steps of the user's own training, watched from outside.

The loss, the model's forward pass and the optimizer's step are observed through hooks; nothing is
changed but the seed at each forward pass, so that a gradient can be computed again.
"""

import copy
import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn, optim

from orchestrator.preflight.procedure import Procedure
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject
from orchestrator.seeds import derive_seed
from orchestrator.tasks.base import Task
from orchestrator.training.loop import seed_everything

WATCHED_STEPS = 6
"""Enough for a gradient that piles up to show three times (our choice)."""


@dataclass
class Drill:
    """What was seen in one short epoch."""

    steps: int = 0
    """Calls of the optimizer's step."""
    losses: list[float] = field(default_factory=list)
    """Every value that the task's loss gave."""
    carried: list[float] = field(default_factory=list)
    """From the second step on: the weight of the last step's gradient in this one, where this one is a
    sum of a fresh gradient and the last one; 0 where it is fresh; NaN where it is neither."""
    untrained_mode: list[str] = field(default_factory=list)
    """Modules that behave differently in training, seen in evaluation mode."""
    moved: dict[str, bool] = field(default_factory=dict)
    """For each trainable parameter, whether it changed."""
    changes: dict[str, float] = field(default_factory=dict)
    """For each trainable weight matrix that is not tiny, mean absolute change over mean absolute value, of a
    step and per unit of learning rate; steps are taken to add up like a random walk."""
    rates: list[float] = field(default_factory=list)
    """Learning rate of every step."""
    warned: list[str] = field(default_factory=list)
    """Warnings raised on the way."""


MODAL = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
"""Modules whose mode matters."""


class _EnoughSeen(Exception):  # noqa: N818  (a signal, not an error)
    """Ends the epoch of a drill."""


class _Watcher:
    """Hooks on model, loss and optimizer for one drill."""

    def __init__(self, subject: Subject, model: nn.Module, seen: Drill) -> None:
        self.subject, self.model, self.seen = subject, model, seen
        self.batches: list[tuple[Tensor, Tensor, int]] = []
        self.last: list[Tensor | None] | None = None
        self.forwards = 0
        self.replaying = False
        self.inputs: Tensor | None = None
        model.register_forward_pre_hook(self._before_forward)

    def task(self) -> Task:
        """The task with its loss watched."""
        watched = copy.copy(self.subject.task)
        original = watched.loss

        def loss(outputs: Tensor, targets: Tensor, *more: Any, **named: Any) -> Tensor:
            if len(self.seen.losses) >= WATCHED_STEPS and torch.is_grad_enabled():
                raise _EnoughSeen
            value = original(outputs, targets, *more, **named)
            if not self.replaying and torch.is_grad_enabled() and self.inputs is not None:
                self.seen.losses.append(float(value.detach()))
                self.batches.append((self.inputs, targets, self.forwards))
            return value

        setattr(watched, "loss", loss)  # noqa: B010  (mypy: a method)
        return watched

    def _before_forward(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        if self.replaying or not torch.is_grad_enabled():
            return
        self.forwards += 1
        self.inputs = args[0].detach().clone()
        stuck = [name for name, part in module.named_modules() if isinstance(part, MODAL) and not part.training]
        self.seen.untrained_mode += [name for name in stuck if name not in self.seen.untrained_mode]
        seed_everything(derive_seed(self.subject.seed, "drill", self.forwards))

    def before_step(self, optimizer: optim.Optimizer, args: Any, named: Any) -> None:
        """Compare the gradient that is about to be applied with a fresh one."""
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        current = [None if p.grad is None else p.grad.detach().clone() for p in parameters]
        self.seen.steps += 1
        self.seen.rates.append(max(float(group["lr"]) for group in optimizer.param_groups))
        if self.last is not None and self.batches:
            self.seen.carried.append(_carried(current, self._fresh(parameters), self.last))
        self.last, self.batches = current, []

    def _fresh(self, parameters: list[nn.Parameter]) -> list[Tensor | None]:
        """The gradient of the batches since the last step, at the present weights."""
        kept = [p.grad for p in parameters]
        buffers = [b.clone() for b in self.model.buffers()]
        for p in parameters:
            p.grad = None
        self.replaying = True
        smoothing = self.subject.hyperparameters.loss.label_smoothing
        with untouched_globals(), torch.enable_grad():
            for inputs, targets, number in self.batches:
                seed_everything(derive_seed(self.subject.seed, "drill", number))
                torch.autograd.backward(self.subject.task.loss(self.model(inputs), targets, smoothing))
        self.replaying = False
        found = [p.grad for p in parameters]
        for p, gradient in zip(parameters, kept, strict=True):
            p.grad = gradient
        with torch.no_grad():
            for buffer, before in zip(self.model.buffers(), buffers, strict=True):
                buffer.copy_(before)
        return found


def _carried(
    current: Sequence[Tensor | None], fresh: Sequence[Tensor | None], last: Sequence[Tensor | None]
) -> float:
    """The weight b in ``current = a fresh + b last``, relative to a; NaN if that does not describe it."""
    now, new, old = _flat(current, current), _flat(fresh, current), _flat(last, current)
    if not bool(now.any()) or not bool(new.any()) or not bool(torch.isfinite(now).all()):
        return float("nan")
    scale = float(now @ new / (new @ new))
    if float((now - scale * new).norm() / now.norm()) < 1e-2:
        return 0.0
    fit = torch.linalg.lstsq(torch.stack([new, old], dim=1), now[:, None]).solution[:, 0]
    rest = now - fit[0] * new - fit[1] * old
    if float(rest.norm() / now.norm()) > 1e-2 or float(fit[0]) == 0:
        return float("nan")
    return float(fit[1] / fit[0])


def _flat(gradients: Sequence[Tensor | None], like: Sequence[Tensor | None]) -> Tensor:
    """All gradients as one vector in float64; zeros where there is none."""
    parts = [
        (torch.zeros_like(shape) if gradient is None else gradient).double().flatten()
        for gradient, shape in zip(gradients, like, strict=True)
        if shape is not None
    ]
    return torch.cat(parts) if parts else torch.zeros(1, dtype=torch.float64)


def drill(subject: Subject) -> Drill:
    """The drill of ``subject``, run once."""
    if "drill" not in subject.kept:
        subject.kept["drill"] = _drill(subject)
    found: Drill = subject.kept["drill"]
    return found


def _drill(subject: Subject) -> Drill:
    seen, model = Drill(), subject.new_model()
    watcher = _Watcher(subject, model, seen)
    procedure = rebuilt(subject, watcher.task(), data_workers=0)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    with untouched_globals(), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        seed_everything(derive_seed(subject.seed, "drill"))
        optimizer = procedure.optimizer(model)
        optimizer.register_step_pre_hook(watcher.before_step)
        per_epoch = max(1, len(procedure.training_order(subject.train_size(), 0)))
        scheduler = procedure.scheduler(optimizer, per_epoch * subject.trainer.epochs, per_epoch)
        with suppress(_EnoughSeen):
            procedure.train_epoch(model, optimizer, scheduler, subject.splits.train, 0)
    seen.warned = [str(item.message) for item in warned]
    for name, p in model.named_parameters():
        if name not in before:
            continue
        old = before[name]
        seen.moved[name] = not torch.equal(old, p.detach())
        size = float(old.abs().mean())
        if p.ndim >= 2 and size > 1e-8:
            walked = math.sqrt(sum(rate * rate for rate in seen.rates))
            seen.changes[name] = float((p.detach() - old).abs().mean()) / size / walked if walked > 0 else 0.0
    return seen


def rebuilt(subject: Subject, task: Task | None = None, **trainer: Any) -> Procedure:
    """The user's procedure for another task object, or with other trainer settings."""
    changed = copy.copy(subject.trainer)
    for name, value in trainer.items():
        object.__setattr__(changed, name, value)
    kind: Callable[..., Procedure] = type(subject.procedure)
    return kind(task or subject.task, subject.hyperparameters, changed, subject.seed)
