"""The watch during a trial: what is seen of the training's health, and the end of a trial that diverges.

It draws no random numbers and changes nothing of the training. Single minibatch losses are never judged:
they are compared as medians of windows. What the next epoch's figures depend on is in :meth:`Watch.state`.

Metrics (all per epoch, in the trial's logbook and in MLflow):

- ``watch/flip_rate``: share of fixed validation examples whose likeliest class changed since the last
  epoch. High to the end: the rate is too large; 0 early: too small (recipe.md K2, K3).
- ``watch/prediction_change``: the same for predicted values: root mean square of their change, in
  standard deviations of the targets.
- ``watch/overfitting``: 1 from the epoch on in which validation has been rising while training falls.
  A label, not an alarm: it happens to healthy trials (preflight.md, "In-trial watch").
- ``watch/dead_units``: share of hidden units that give the same value on every validation example
  (a ReLU that is always 0, recipe.md B31); at about ten epochs of the trial.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.errors import InfeasibleTrialError
from orchestrator.tasks.base import Task
from orchestrator.training.data import load, size
from orchestrator.training.followed import Followed
from orchestrator.types import Reason

WINDOW = 20
"""Steps whose median loss is one observation (preflight.md, "In-trial watch")."""
RISING = 3
"""Windows, each above the one before, that make a rise (preflight.md, "In-trial watch")."""
DIVERGED = 2.0
"""Diverged: so many times the loss of the constant predictor, and of the first step (preflight.md).

Measured on 368 trials of the shipped tasks, 12 epochs, learning rates up to 10: 10 are ended, and none of
these would have come below 0.9 times the constant predictor later."""
CONSTANT_EXAMPLES = 512
"""Training targets that the constant predictor is fitted on (preflight.md, row "Init loss")."""
WATCHED = 4096
"""Validation examples, the first ones, whose predictions are followed. Our guess: an error of 1 % in a share."""
OVERFIT_ERRORS = 4.0
"""Standard errors of the paired difference to the best epoch that count as a rise.

preflight.md has 2; but the best of many epochs is a lucky one, and pure noise of 200 epochs then lies 1.9
above it on average."""
OVERFIT_EPOCHS = 3
"""Evaluations in a row with such a rise (preflight.md)."""
UNIT_LOOKS = 10
"""How often in a trial units are looked at. Our guess: they die slowly, and looking costs."""
UNIT_EXAMPLES = 1024
"""Examples on which a dead unit is constant (preflight.md, row "Dead ReLU"): at most one evaluation batch."""

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_FUSED = (nn.TransformerEncoderLayer, nn.MultiheadAttention)
"""Their evaluation takes a fused path, with other last bits, unless no layer inside is observed."""


@dataclass(frozen=True)
class _Form:
    """What the predictions are: told once, from shapes and types."""

    classes: int | None
    """Dimension of the classes, where predictions are their probabilities and targets their numbers."""
    spread: float
    """Standard deviation of targets that are predicted themselves; 0 where they are not."""


@dataclass(frozen=True)
class _Best:
    """The epoch with the lowest validation error so far."""

    errors: Tensor
    """Per example."""
    train_loss: float


@dataclass
class Watch:
    """Follows one trial. The loop tells it every step and every evaluation."""

    task: Task
    train: Dataset[Any]
    hp: Hyperparameters
    epochs: int
    """Budget of the trial."""
    workers: int = 0
    """Loader processes for reading training examples."""
    _first_loss: float = math.nan
    _lowest: float = math.inf
    _losses: list[float] = field(default_factory=list)
    """Of the window that is not yet full."""
    _windows: list[float] = field(default_factory=list)
    """Medians of the last full windows."""
    _constant: float | None = None
    _form: _Form | None = None
    _predictions: Tensor | None = None
    """Of the last evaluation; of classes the likeliest."""
    _errors: Tensor | None = None
    _best: _Best | None = None
    _followed: Followed = field(default_factory=Followed)
    _rises: int = 0
    _overfits: bool = False
    _metrics: dict[str, float] = field(default_factory=dict)

    def step(self, loss: float, model: nn.Module) -> None:
        """A training step was made with this mean loss of its batch.

        Raises:
            InfeasibleTrialError: the trial has diverged: the medians of three windows of 20 steps rise
                and the last is above twice the losses of the first step and of the best constant.
        """
        if math.isnan(self._first_loss):
            self._first_loss = loss
        self._losses.append(loss)
        if len(self._losses) < WINDOW:
            return
        self._lowest = min(self._lowest, *self._losses)
        self._windows = [*self._windows[1 - RISING :], median(self._losses)]
        self._losses.clear()
        last = self._windows[-1]
        rising = len(self._windows) == RISING and all(a < b for a, b in pairwise(self._windows))
        # A loss that goes below zero has no scale to measure a rise by.
        if not rising or self._lowest < 0 or last <= DIVERGED * self._first_loss:
            return
        if self._constant is None:
            self._constant = constant_loss(self.task, model, self.train, self.hp, self.workers)
        if last > DIVERGED * self._constant:
            raise InfeasibleTrialError(
                Reason.DIVERGED,
                f"training loss {last:.4g} (median of {WINDOW} steps) and rising; the best constant prediction has "
                f"{self._constant:.4g}, the first step had {self._first_loss:.4g}",
            )

    @contextmanager
    def units(self, model: nn.Module, epoch: int) -> Iterator[None]:
        """While ``model`` evaluates after ``epoch`` (from 1): count its dead units, at about ten epochs."""
        if epoch % -(-self.epochs // UNIT_LOOKS):
            yield
            return
        dead: dict[nn.Module, tuple[int, int]] = {}
        first: list[nn.Module] = []

        def look(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            # The layer called first reads the data, in which a constant feature is no unit.
            first.extend([layer] if not first else [])
            if layer is not first[0] and layer not in dead and inputs and torch.is_tensor(inputs[0]):
                dead[layer] = _constant_units(inputs[0], layer)

        hooks = [layer.register_forward_pre_hook(look) for layer in _observed(model)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        total = sum(units for _, units in dead.values())
        if total:
            self._metrics["watch/dead_units"] = sum(number for number, _ in dead.values()) / total

    def evaluated(self, predictions: Tensor, targets: Tensor) -> None:
        """The model's predictions of all validation examples, in the split's order, and their targets."""
        predictions, targets = predictions[:WATCHED], targets[:WATCHED]
        if self._form is None:
            self._form = _form(predictions, targets)
        form = self._form
        now = predictions.argmax(dim=form.classes) if form.classes is not None else predictions.clone()
        if self._predictions is not None and form.classes is not None:
            self._metrics["watch/flip_rate"] = float((now != self._predictions).double().mean())
        elif self._predictions is not None and form.spread > 0:
            change = (now - self._predictions).double().square().mean().sqrt()
            self._metrics["watch/prediction_change"] = float(change) / form.spread
        self._predictions = now
        self._followed.add(predictions, targets, form.classes)
        self._errors = example_errors(predictions, targets, form.classes)

    def end_epoch(self, train_loss: float) -> dict[str, float]:
        """The epoch's metrics; ``train_loss`` is the mean loss over it."""
        if self._errors is not None:
            self._compare(self._errors, train_loss)
            self._metrics["watch/overfitting"] = float(self._overfits)
        metrics, self._metrics, self._errors = self._metrics, {}, None
        return metrics

    def _compare(self, errors: Tensor, train_loss: float) -> None:
        """Whether validation rises above its own best, by more than chance, while training falls."""
        best = self._best
        if best is None or float(errors.mean()) < float(best.errors.mean()):
            self._best, self._rises = _Best(errors, train_loss), 0
            return
        difference = errors - best.errors
        error = float(difference.std()) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
        rises = float(difference.mean()) > OVERFIT_ERRORS * error and train_loss < best.train_loss
        self._rises = self._rises + 1 if rises else 0
        self._overfits = self._overfits or self._rises >= OVERFIT_EPOCHS

    def state(self) -> dict[str, Any]:
        """What the next epoch's figures depend on, as tensors and plain values."""
        best = self._best
        return {
            "first_loss": self._first_loss,
            "lowest": self._lowest,
            "losses": list(self._losses),
            "windows": list(self._windows),
            "constant": self._constant,
            "predictions": self._predictions,
            "best": {"errors": best.errors, "train_loss": best.train_loss} if best else None,
            "rises": self._rises,
            "overfits": self._overfits,
            "followed": self._followed.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self._first_loss, self._lowest = state["first_loss"], state["lowest"]
        self._losses, self._windows = list(state["losses"]), list(state["windows"])
        self._constant, self._predictions = state["constant"], state["predictions"]
        self._best = _Best(**state["best"]) if state["best"] else None
        self._rises, self._overfits = state["rises"], state["overfits"]
        self._followed.restore(state["followed"])


def constant_loss(task: Task, model: nn.Module, train: Dataset[Any], hp: Hyperparameters, workers: int = 0) -> float:
    """The training loss of the best output that is the same for all examples, on the first 512 training examples.

    Fitted from zero with L-BFGS. Infinite where the loss has no finite value there: then nothing is judged by it.
    """
    indices = torch.arange(min(size(train), CONSTANT_EXAMPLES))
    device = next(model.parameters()).device
    [(inputs, targets)] = load(train, [indices], workers)
    targets = targets.to(device)
    training = model.training
    with torch.no_grad():
        outputs = model.eval()(inputs.to(device)).float()
    model.train(training)
    constant = torch.zeros_like(outputs[:1], requires_grad=True)
    optimizer = torch.optim.LBFGS([constant], max_iter=50)
    lowest = math.inf

    def closure() -> Tensor:
        nonlocal lowest
        optimizer.zero_grad()
        loss = task.loss(constant.expand_as(outputs).contiguous(), targets, hp.loss.label_smoothing)
        torch.autograd.backward(loss)
        # A step too far gives a higher loss or NaN, and neither is less than the lowest.
        lowest = min(lowest, loss.item())
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return lowest


def example_errors(predictions: Tensor, targets: Tensor, classes: int | None) -> Tensor | None:
    """The error of each example, shape (examples,); None where shapes do not tell what an error is.

    With the dimension of the classes: minus the logarithm of the right one's probability (nats). Else, for
    predictions shaped as the targets: the squared difference.
    """
    if classes is not None:
        right = predictions.gather(classes, targets.unsqueeze(classes)).squeeze(classes)
        return _per_example(right.clamp_min(torch.finfo(right.dtype).tiny).log().neg())
    if predictions.shape == targets.shape:
        return _per_example((predictions.double() - targets.double()).square())
    return None


def _form(predictions: Tensor, targets: Tensor) -> _Form:
    dimension = class_dimension(predictions, targets)
    same = dimension is None and predictions.shape == targets.shape and len(targets) > 1
    return _Form(dimension, float(targets.double().std()) if same else 0.0)


def class_dimension(predictions: Tensor, targets: Tensor) -> int | None:
    """Where the classes are, if ``targets`` are class numbers: the last dimension, or PyTorch's place, the second."""
    if targets.dtype != torch.int64 or not predictions.is_floating_point() or not len(targets):
        return None
    for dimension in (predictions.dim() - 1, 1):
        if predictions.dim() == targets.dim() + 1 and _without(predictions.shape, dimension) == targets.shape:
            # Negative numbers leave positions out, in PyTorch's losses; a score may do as it likes with them.
            fits = int(targets.min()) >= 0 and int(targets.max()) < predictions.shape[dimension]
            return dimension if fits else None
    return None


def _without(shape: torch.Size, dimension: int) -> torch.Size:
    return shape[:dimension] + shape[dimension + 1 :]


def _per_example(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1).mean(dim=1)


def _observed(model: nn.Module) -> Iterator[nn.Module]:
    """The linear and convolutional layers, without those inside fused ones."""
    if isinstance(model, _FUSED):
        return
    if isinstance(model, _LAYERS):
        yield model
    for child in model.children():
        yield from _observed(child)


def _constant_units(inputs: Tensor, layer: nn.Module) -> tuple[int, int]:
    """How many of a layer's input units are the same on every example and place, and how many there are."""
    values = inputs[:UNIT_EXAMPLES]
    unit = values.dim() - 1 if isinstance(layer, nn.Linear) else 1
    others = [dimension for dimension in range(values.dim()) if dimension != unit]
    if not others or len(values) < 2:
        return 0, 0
    return int((values.amax(dim=others) == values.amin(dim=others)).sum()), values.shape[unit]
