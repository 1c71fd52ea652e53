"""What kind of problem a task is, inferred from its outputs, its targets and its loss.

Nothing is inferred from class names: users subclass :class:`~orchestrator.tasks.base.Task` directly.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor

LossFunction = Callable[[Tensor, Tensor], Tensor]

SURE = 20.0
"""Logit of a sure prediction: its cross-entropy is below 1e-6 up to hundreds of classes."""


class Kind(StrEnum):
    """What the outputs are compared with."""

    CLASSES = "classes"
    """Whole-number class targets; outputs have one more axis, the classes."""
    BINARY = "binary"
    """Targets 0 or 1 and one output each, or several labels at once; outputs have the targets' shape."""
    VALUES = "values"
    """Regression: outputs and targets are numbers of the same shape."""
    OTHER = "other"
    """None of these: a contrastive loss, a likelihood with several outputs per value, and so on."""


class Encoding(StrEnum):
    """What the loss takes outputs for."""

    LOGITS = "logits"
    """Any real numbers, or logarithms of probabilities."""
    PROBABILITIES = "probabilities"
    VALUES = "values"


@dataclass(frozen=True)
class Form:
    """Kind of the problem and layout of its outputs."""

    kind: Kind
    encoding: Encoding = Encoding.VALUES
    classes: int = 0
    """CLASSES: number of outputs along the class axis; BINARY: 2."""
    axis: int = 1
    """CLASSES: the axis of the classes in the outputs."""
    flattened: bool = False
    """CLASSES: the outputs have one row per target of all examples together."""

    def onehot(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """CLASSES: 1 at the target's class and 0 elsewhere, in the shape of ``outputs``.

        A target below 0 (ignored by convention) counts as class 0.
        """
        known = targets.clamp_min(0)
        if self.flattened:
            known = known.flatten()
        hot = torch.nn.functional.one_hot(known.long(), self.classes).movedim(-1, self.axis)
        return hot.to(outputs.dtype).reshape(outputs.shape)


def infer_form(outputs: Tensor, targets: Tensor, loss: LossFunction) -> Form:
    """The form of a task with these ``outputs`` for these ``targets``."""
    if not outputs.is_floating_point():
        return Form(Kind.OTHER)
    if not targets.is_floating_point() and not targets.is_complex():
        return _of_whole_targets(outputs, targets, loss)
    if not _same_values(outputs, targets):
        return Form(Kind.OTHER)
    if bool(((targets == 0) | (targets == 1)).all()) and _labels(targets):
        return _of_labels(outputs, targets, loss)
    return Form(Kind.VALUES) if _in_target_units(outputs, targets, loss) else Form(Kind.OTHER)


def _in_target_units(outputs: Tensor, targets: Tensor, loss: LossFunction) -> bool:
    """Whether outputs equal to the targets cost little, taken one by one, against two deviations off.

    In size, because a negated loss is a fault of its own. Not so where outputs are logarithms of rates, or
    where the loss scales the targets: there one of the two sides is cheaper.
    """
    right = targets.to(outputs.dtype).reshape(outputs.shape)
    step = 2 * right.std().clamp_min(1e-6)
    ratios = []
    for row in range(min(8, len(targets))):
        one = slice(row, row + 1)
        cost = _size(loss, right[one], targets[one])
        reference = min(_size(loss, right[one] + step, targets[one]), _size(loss, right[one] - step, targets[one]))
        ratios.append(cost / reference if reference > 0 else math.inf)
    return sorted(ratios)[len(ratios) // 2] < 0.1


def _labels(targets: Tensor) -> bool:
    return bool((targets == 0).any()) and bool((targets == 1).any())


def _same_values(outputs: Tensor, targets: Tensor) -> bool:
    """Whether one output belongs to each target, up to axes of length 1."""
    return _squeezed(outputs) == _squeezed(targets)


def _squeezed(tensor: Tensor) -> list[int]:
    return [tensor.shape[0] if tensor.ndim else 1, *(length for length in tensor.shape[1:] if length != 1)]


def _of_whole_targets(outputs: Tensor, targets: Tensor, loss: LossFunction) -> Form:
    binary = bool(((targets == 0) | (targets == 1)).all())
    candidates = [form for form in _class_forms(outputs, targets) if form.classes > 1]
    scored = [
        (value, form) for form in candidates if (value := best_ideal(form, outputs, targets, loss)[0]) < math.inf
    ]
    if scored:
        _, form = min(scored, key=lambda pair: pair[0])
        _, encoding = best_ideal(form, outputs, targets, loss)
        return Form(form.kind, encoding, form.classes, form.axis, form.flattened)
    if candidates:
        return candidates[0]
    if _same_values(outputs, targets):
        return _of_labels(outputs, targets, loss) if binary else Form(Kind.VALUES)
    return Form(Kind.OTHER)


def _class_forms(outputs: Tensor, targets: Tensor) -> list[Form]:
    largest = int(targets.max()) if targets.numel() else 0
    forms = []
    for axis in {1, outputs.ndim - 1}:
        rest = [*outputs.shape[:axis], *outputs.shape[axis + 1 :]]
        if axis >= 1 and axis < outputs.ndim and rest == list(targets.shape) and outputs.shape[axis] > largest:
            forms.append(Form(Kind.CLASSES, Encoding.LOGITS, outputs.shape[axis], axis))
    if outputs.ndim == 2 and targets.ndim > 1 and len(outputs) == targets.numel() and outputs.shape[1] > largest:
        forms.append(Form(Kind.CLASSES, Encoding.LOGITS, outputs.shape[1], 1, flattened=True))
    return forms


def _of_labels(outputs: Tensor, targets: Tensor, loss: LossFunction) -> Form:
    form = Form(Kind.BINARY, Encoding.LOGITS, 2)
    value, encoding = best_ideal(form, outputs, targets, loss)
    if encoding is Encoding.VALUES or value == math.inf:
        return Form(Kind.VALUES)
    return Form(Kind.BINARY, encoding, 2)


def ideal(form: Form, outputs: Tensor, targets: Tensor, encoding: Encoding, sureness: float = SURE) -> Tensor:
    """Outputs that predict ``targets`` surely, in the shape of ``outputs``.

    LOGITS of classes are logarithms of probabilities, which softmax leaves alone: they suit both a loss
    that applies softmax and one that does not.
    """
    if form.kind is Kind.CLASSES:
        hot = form.onehot(outputs, targets)
        return (hot * sureness).log_softmax(form.axis) if encoding is Encoding.LOGITS else hot
    wanted = targets.to(outputs.dtype).reshape(outputs.shape)
    if encoding is Encoding.LOGITS:
        return (2 * wanted - 1) * sureness
    return wanted


def uninformed(form: Form, outputs: Tensor) -> Tensor:
    """Outputs that say nothing: equal probabilities of all classes, or zeros."""
    zeros = torch.zeros_like(outputs)
    if form.kind is Kind.CLASSES:
        return zeros - math.log(form.classes) if form.encoding is Encoding.LOGITS else zeros + 1 / form.classes
    if form.kind is Kind.BINARY and form.encoding is Encoding.PROBABILITIES:
        return zeros + 0.5
    return zeros


def best_ideal(form: Form, outputs: Tensor, targets: Tensor, loss: LossFunction) -> tuple[float, Encoding]:
    """The smallest loss, in size, of sure and right outputs, and the encoding that has it.

    In size, so that a negated loss does not choose the wrong encoding. Infinite where the loss takes none.
    """
    tried: list[tuple[float, Encoding]] = []
    for sureness in (SURE, 8.0, 4.0, 2.0, 1.0):
        made = ideal(form, outputs, targets, Encoding.LOGITS, sureness)
        tried.append((_size(loss, made, targets), Encoding.LOGITS))
    other = Encoding.PROBABILITIES
    tried.append((_size(loss, ideal(form, outputs, targets, other), targets), other))
    if form.kind is Kind.BINARY and tried[-1][0] < 1e-6 and _is_quadratic(loss, targets, outputs):
        return tried[-1][0], Encoding.VALUES
    return min(tried, key=lambda pair: pair[0])


def _is_quadratic(loss: LossFunction, targets: Tensor, outputs: Tensor) -> bool:
    """Whether labels are treated as numbers: predicting 2 for 1 costs something finite."""
    beyond = targets.to(outputs.dtype).reshape(outputs.shape) + 1.0
    return _size(loss, beyond, targets) < math.inf


def _size(loss: LossFunction, outputs: Tensor, targets: Tensor) -> float:
    """The absolute loss; infinite where the loss refuses these outputs or gives no number."""
    try:
        value = abs(float(loss(outputs, targets).detach()))
    except (RuntimeError, ValueError, TypeError, IndexError):
        # Not an error: a loss that takes another encoding or layout refuses this one.
        return math.inf
    return value if math.isfinite(value) else math.inf
