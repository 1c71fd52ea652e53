"""Short trainings with an optimizer of our own, so that a fault of the user's settings does not hide others."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn, optim

from orchestrator.preflight.forms import Encoding, Kind, ideal
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject
from orchestrator.seeds import derive_seed
from orchestrator.training.data import Batch
from orchestrator.training.loop import seed_everything

BATCH = 64
"""Examples of a step (our choice)."""


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """Dropout modules pass everything on; recurrent layers and attention drop nothing."""
    kept: list[tuple[nn.Module, str, float]] = []
    for module in model.modules():
        for name in ("p", "dropout"):
            value = getattr(module, name, None)
            if isinstance(value, float) and 0 < value < 1 and type(module).__module__.startswith("torch.nn"):
                kept.append((module, name, value))
                setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def trained(
    subject: Subject,
    batch: Batch,
    checkpoints: Sequence[int],
    rate: float,
    *,
    repeat: int = 0,
    model: nn.Module | None = None,
) -> Iterator[tuple[int, nn.Module]]:
    """Train with Adam on ``batch``, in steps of at most :data:`BATCH` examples; yields at each checkpoint.

    Augmentation, label smoothing, decay and dropout are off. Ends early where the loss is no number.
    """
    model = (model or subject.new_model(repeat)).train()
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        return
    optimizer = optim.Adam(parameters, lr=rate)
    inputs, targets = batch
    generator = torch.Generator().manual_seed(derive_seed(subject.seed, "short", repeat))
    with untouched_globals(), without_dropout(model):
        seed_everything(derive_seed(subject.seed, "short", repeat))
        order = torch.randperm(len(inputs), generator=generator)
        place = 0
        for step in range(1, max(checkpoints) + 1):
            if place + min(BATCH, len(inputs)) > len(inputs):
                order, place = torch.randperm(len(inputs), generator=generator), 0
            chosen = order[place : place + BATCH].to(inputs.device)
            place += BATCH
            optimizer.zero_grad()
            loss = subject.loss(model(inputs[chosen]), targets[chosen])
            if not math.isfinite(float(loss.detach())):
                return
            torch.autograd.backward(loss)
            optimizer.step()
            if step in checkpoints:
                yield step, model


def loss_on(subject: Subject, model: nn.Module, batch: Batch, *, train: bool = False) -> float:
    """The task's loss over all of ``batch`` at once, in evaluation mode unless ``train``."""
    inputs, targets = batch
    with torch.no_grad():
        return float(subject.loss(subject.outputs(model, inputs, train=train), targets))


def best_constant(subject: Subject, train: Batch, *, by_position: bool = False) -> Tensor:
    """The constant output with the smallest loss on ``train``; one example's shape, a leading axis of 1.

    Fitted on the task's own loss, so that class weights and unusual losses are counted in. With
    ``by_position``, classes have a constant of their own at each position of a sequence or an image;
    labels and values always do.
    """
    inputs, targets = train
    outputs = subject.outputs(subject.model, inputs[: min(8, len(inputs))])
    form = subject.form
    like = outputs[:1].expand(len(targets), *outputs.shape[1:]) if not form.flattened else outputs[:1]
    shape = [1, *like.shape[1:]]
    if form.kind is Kind.CLASSES and not by_position:
        shape = [1] * like.ndim
        shape[form.axis] = form.classes
    size = (targets.numel(), form.classes) if form.flattened else like.shape
    start = _start(subject, torch.empty(size, device=inputs.device, dtype=outputs.dtype), targets, shape)
    constant = start.clone().requires_grad_(True)
    optimizer = optim.LBFGS([constant], max_iter=30, line_search_fn="strong_wolfe")
    if form.encoding is Encoding.PROBABILITIES:
        return start

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = subject.loss(constant.expand(size), targets)
        torch.autograd.backward(loss)
        return loss

    before = float(subject.loss(start.expand(size), targets))
    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    found = constant.detach()
    after = float(subject.loss(found.expand(size), targets))
    return found if math.isfinite(after) and after <= before else start


def _start(subject: Subject, like: Tensor, targets: Tensor, shape: list[int]) -> Tensor:
    """Mean of right predictions: base rates, or the mean target, in the encoding of the loss."""
    form = subject.form
    if form.kind is Kind.OTHER:
        return torch.zeros(shape, device=like.device, dtype=like.dtype)
    axes = [i for i in range(like.ndim) if shape[i] == 1]
    right = ideal(form, like, targets, Encoding.PROBABILITIES).mean(dim=axes, keepdim=True).reshape(shape)
    if form.encoding is not Encoding.LOGITS:
        return right
    right = right.clamp(1e-6, 1 - 1e-6)
    return right.log() if form.kind is Kind.CLASSES else right.logit()


def input_independent_loss(subject: Subject, train: Batch, batch: Batch) -> float:
    """The smallest loss on ``batch`` of the constants fitted on ``train``, shared by positions or not."""
    dense = batch[1].ndim > 1 and not subject.form.flattened
    kinds = (False, True) if dense and subject.form.kind is Kind.CLASSES else (False,)
    found = [best_constant(subject, train, by_position=by_position) for by_position in kinds]
    return min(constant_loss_on(subject, constant, batch) for constant in found)


def constant_loss_on(subject: Subject, constant: Tensor, batch: Batch) -> float:
    """The loss of predicting ``constant`` for every example of ``batch``."""
    _, targets = batch
    rows = targets.numel() if subject.form.flattened else len(targets)
    shape = subject.outputs(subject.model, batch[0][:2]).shape[1:]
    with torch.no_grad():
        return float(subject.loss(constant.expand(rows, *shape), targets))
