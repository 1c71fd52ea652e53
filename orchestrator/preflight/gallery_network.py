"""Look at the network: statistics of every layer, and a batch learnt by heart with labels and predictions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from torch import Tensor, nn, optim

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.forms import Kind
from orchestrator.preflight.gallery import caption, decoded, no_folder
from orchestrator.preflight.gallery_draw import (
    BAD,
    GOOD,
    PLAIN,
    draw_lines,
    draw_pictures,
    draw_table,
    is_picture,
    save,
)
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Finding, passed
from orchestrator.preflight.subject import Subject

LAYERS = 60
"""Most layers drawn (our choice)."""


@dataclass(frozen=True)
class Layer:
    """Statistics of one layer's output and weights on one batch."""

    name: str
    mean: float
    std: float
    zeros: float
    """Share of outputs that are exactly 0."""
    gradient: float
    """Norm of the weights' gradient over the norm of the weights; NaN where there are none or all are 0."""


def layers(model: nn.Module, forward: Callable[[nn.Module], Tensor]) -> list[Layer]:
    """Every innermost module in the order of its first call; ``forward`` gives the loss of a batch."""
    seen: dict[str, tuple[nn.Module, Tensor]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, given: Any, result: Any) -> None:
            output = result[0] if isinstance(result, tuple) else result
            if isinstance(output, Tensor) and output.is_floating_point() and name not in seen:
                seen[name] = (module, output.detach().float().clone())

        return hook

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_hook(note(name or type(module).__name__))
    torch.autograd.backward(forward(model))
    return [
        Layer(
            f"{name} ({type(module).__name__})",
            float(output.mean()),
            float(output.std(correction=0)),
            float((output == 0).float().mean()),
            _relative_gradient(module),
        )
        for name, (module, output) in seen.items()
    ]


def _relative_gradient(module: nn.Module) -> float:
    own = [p for p in module.parameters(recurse=False) if p.grad is not None]
    if not own:
        return float("nan")
    gradient = torch.stack([p.grad.norm() for p in own if p.grad is not None]).norm()
    weights = torch.stack([p.detach().norm() for p in own]).norm()
    return float(gradient / weights) if weights > 0 else float("nan")


@check(
    name="gallery_layers",
    group="look",
    title="a picture of every layer's activations and gradients at initialisation",
    source="recipe.md B31, B32, C6, K5",
    applies=no_folder,
)
def gallery_layers(subject: Subject, settings: CheckSettings) -> Finding:
    """Writes ``layers.png``: deviation and zero share of the outputs, gradient relative to the weights."""
    assert subject.folder is not None
    inputs, targets = subject.train_examples(settings.gallery.examples)
    found = layers(subject.new_model().train(), lambda model: subject.loss(model(inputs), targets))[:LAYERS]
    figure = _layer_figure(found)
    figure.suptitle(
        f"{type(subject.task).__name__}: layers of an untrained network, {len(inputs)} examples", fontsize=9
    )
    path = save(figure, subject.folder / "layers.png")
    subject.pictures.append(path)
    spread = [layer.std for layer in found if layer.std > 0]
    text = f"{len(found)} layers in {path.name}"
    return passed(text + (f"; deviations {min(spread):.3g} ... {max(spread):.3g}" if spread else ""))


def _layer_figure(found: list[Layer]) -> Figure:
    panels = (
        ("deviation of the outputs", [layer.std for layer in found], "log"),
        ("share of outputs that are 0", [layer.zeros for layer in found], "linear"),
        ("gradient / weights (norms; none if 0)", [layer.gradient for layer in found], "log"),
    )
    figure = Figure(figsize=(11, 1.4 + 0.24 * max(4, len(found))))
    room = 0.6 / figure.get_figheight()
    sides = {"left": 0.24, "right": 0.98, "top": 1 - room, "bottom": room, "wspace": 0.06}
    cells = figure.subplots(1, 3, sharey=True, gridspec_kw=sides)
    for axes, (title, values, scale) in zip(cells, panels, strict=True):
        positive = [value for value in values if value > 0]
        axes.barh(np.arange(len(found)), [value if value > 0 else 0.0 for value in values], color=PLAIN)
        if scale == "log" and positive:
            axes.set_xscale("log")
            axes.set_xlim(min(positive) / 3, max(positive) * 3)
            axes.xaxis.set_minor_formatter(NullFormatter())
        elif scale == "linear":
            axes.set_xlim(0, 1)
        axes.set_title(title, fontsize=8)
        axes.tick_params(labelsize=6, which="both")
    cells[0].set_yticks(np.arange(len(found)), [layer.name for layer in found])
    cells[0].invert_yaxis()
    return figure


@dataclass(frozen=True)
class Learnt:
    """A batch after training on it alone."""

    inputs: Tensor
    targets: Tensor
    before: Tensor
    after: Tensor
    losses: tuple[float, ...]


def learn(subject: Subject, count: int, steps: int, rate: float = 3e-3) -> Learnt:
    """Train a new network on ``count`` examples, dropout off; an optimizer of our own (Adam)."""
    inputs, targets = subject.train_examples(count)
    model = subject.new_model().train()
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.Adam(parameters, lr=rate)
    with torch.no_grad():
        before = model(inputs).detach()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = subject.loss(model(inputs), targets)
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(float(loss.detach()))
    with torch.no_grad():
        after = model(inputs).detach()
    return Learnt(inputs.cpu(), targets.cpu(), before.cpu(), after.cpu(), tuple(losses))


@check(
    name="gallery_overfit",
    group="look",
    title="a picture of a batch learnt by heart, with labels and predictions",
    source="recipe.md B13, B14, K4",
    applies=no_folder,
)
def gallery_overfit(subject: Subject, settings: CheckSettings) -> Finding:
    """Writes ``overfit.png``: the loss curve, and each example with its label and what the network says."""
    assert subject.folder is not None
    limits = settings.gallery
    done = learn(subject, limits.overfit_examples, limits.overfit_steps)
    figure = Figure(figsize=(13, 5.6))
    axes = figure.add_axes((0.04, 0.09, 0.24, 0.81))
    axes.plot(done.losses, color=PLAIN)
    if min(done.losses) > 0:
        axes.set_yscale("log")
    axes.set_xlabel("step", fontsize=8)
    axes.set_title(f"loss of {len(done.inputs)} examples: {done.losses[0]:.3g} to {done.losses[-1]:.3g}", fontsize=8)
    axes.tick_params(labelsize=6, which="both")
    if subject.form.kind is Kind.VALUES and done.after.numel() == done.targets.numel():
        _scatter(figure.add_axes((0.36, 0.09, 0.6, 0.81)), done)
    else:
        _examples(figure, subject, done)
    figure.suptitle(f"{type(subject.task).__name__}: a batch learnt by heart (Adam, dropout off)", fontsize=9)
    path = save(figure, subject.folder / "overfit.png")
    subject.pictures.append(path)
    return passed(f"loss {done.losses[0]:.4g} to {done.losses[-1]:.4g} in {len(done.losses)} steps, {path.name}")


def _answers(subject: Subject, done: Learnt) -> Tensor | None:
    """Predicted classes or labels in the shape of the targets; None where they are not known."""
    form = subject.form
    if form.kind is Kind.CLASSES:
        return done.after.argmax(dim=form.axis).reshape(done.targets.shape)
    if form.kind is Kind.BINARY:
        border = 0.5 if form.encoding.value == "probabilities" else 0.0
        return (done.after > border).to(done.targets.dtype).reshape(done.targets.shape)
    return None


def _scatter(axes: Axes, done: Learnt) -> None:
    targets = done.targets.flatten()
    axes.scatter(targets, done.before.flatten(), s=14, color="#bbbbbb", label="output before")
    axes.scatter(targets, done.after.flatten(), s=14, color=GOOD, label="output after")
    ends = [float(targets.min()), float(targets.max())]
    axes.plot(ends, ends, color="black", linewidth=0.6)
    axes.set_xlabel("target", fontsize=8)
    axes.legend(fontsize=7)
    axes.tick_params(labelsize=6)


def _examples(figure: Figure, subject: Subject, done: Learnt) -> None:
    """Every example with its label and what the network says: green where it is right."""
    shown = decoded(subject, done.inputs)
    captions, colours = _verdicts(done.targets, _answers(subject, done))
    whole = (0.31, 0.03, 0.68, 0.88)
    if isinstance(shown[0], str):
        lines = [(note, text, colour) for text, note, colour in zip(shown, captions, colours, strict=True)]
        draw_lines(figure.add_axes(whole), lines, width=90)
    elif is_picture(shown[0]):
        cut = [slice(start, start + 6) for start in range(0, len(shown), 6)]
        draw_pictures(
            figure.add_axes(whole), [shown[c] for c in cut], [captions[c] for c in cut], [colours[c] for c in cut]
        )
    else:
        rows = sorted(range(len(shown)), key=lambda row: captions[row])
        group = ("", [shown[row] for row in rows], [captions[row] for row in rows])
        draw_table(figure, figure.add_axes((0.33, 0.09, 0.66, 0.81)), [group], "rows, with label and prediction")


def _verdicts(targets: Tensor, answers: Tensor | None) -> tuple[list[str], list[str]]:
    """Caption and colour of every example."""
    if answers is None:
        return [caption(target) for target in targets], ["black"] * len(targets)
    texts, colours = [], []
    for target, answer in zip(targets, answers, strict=True):
        right = answer == target
        colours.append(GOOD if bool(right.all()) else BAD)
        many = target.numel() > 6
        share = f"{float(right.double().mean()):.0%} of {target.numel()} right"
        texts.append(share if many else f"{caption(target)}: says {caption(answer)}")
    return texts, colours
