"""Look at the data: what enters the network, per class, extremes and outliers; how features and labels are spread."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.data_table import columns, part, rows
from orchestrator.preflight.gallery_draw import Group, Shown, save, sheet
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Finding, passed
from orchestrator.preflight.subject import Subject

PER_ROW = 10
"""Examples per class, and of each kind of extreme (our choice)."""
CLASSES = 12
"""Most classes shown (our choice)."""


def no_folder(subject: Subject) -> str | None:
    """Reason for pictures."""
    return None if subject.folder is not None else "no folder was given for pictures"


@dataclass(frozen=True)
class Entered:
    """What the network was given in training, just before ``model(inputs)``, with the targets of the loss."""

    inputs: Tensor
    targets: Tensor


def entered(subject: Subject, count: int) -> Entered:
    """Read training batches and step on them with the user's own procedure; note what reaches the model."""
    model = subject.new_model().train()
    optimizer = subject.procedure.optimizer(model)
    inputs: list[Tensor] = []
    targets: list[Tensor] = []

    def note(module: nn.Module, given: tuple[Any, ...]) -> None:
        if len(inputs) == len(targets):
            inputs.append(given[0].detach().cpu())

    model.register_forward_pre_hook(note)
    for some, others in subject.procedure.loader(subject.splits.train, train=True, epoch=0):
        subject.procedure.step(model, optimizer, some.to(subject.device), others.to(subject.device))
        targets.append(others.cpu())
        if sum(len(batch) for batch in targets) >= count:
            break
    pairs = [(x[: len(y)], y[: len(x)]) for x, y in zip(inputs, targets, strict=False)]
    return Entered(torch.cat([x for x, _ in pairs])[:count], torch.cat([y for _, y in pairs])[:count])


@check(
    name="gallery_inputs",
    group="look",
    title="a picture of what enters the network: per class, extremes, outliers",
    source="recipe.md A1, A8, A30, B33",
    applies=no_folder,
)
def gallery_inputs(subject: Subject, settings: CheckSettings) -> Finding:
    """Writes ``gallery.png`` to the folder."""
    assert subject.folder is not None
    seen = entered(subject, settings.gallery.examples)
    groups = [*_by_target(subject, seen), *_extremes(subject, seen)]
    kind = type(subject.task).__name__
    title = (
        f"{kind}: what enters the network, shape {tuple(seen.inputs.shape[1:])}, {len(seen.inputs)} examples drawn"
    )
    path = save(sheet(groups, title), subject.folder / "gallery.png")
    subject.pictures.append(path)
    return passed(f"{len(groups)} groups of examples in {path.name}: look at them")


def decoded(subject: Subject, inputs: Tensor) -> Shown:
    """Examples as a person would look at them: arrays, or text for whole numbers and what the task decodes so."""
    shown = subject.task.decode(inputs)
    if not isinstance(shown, Tensor):
        return list(shown)
    if not shown.is_floating_point() and shown.ndim == 2:
        return [" ".join(str(number) for number in row) for row in shown.tolist()]
    return list(shown.double().numpy() if shown.ndim > 1 else shown.double().numpy()[:, None])


def caption(target: Tensor) -> str:
    """A target in a few characters; nothing for one of many numbers."""
    if target.numel() > 6:
        return ""
    numbers = target.flatten().tolist()
    return " ".join(f"{number:.3g}" for number in numbers)


def _group(
    subject: Subject, name: str, seen: Entered, chosen: Tensor, notes: list[str] | None = None, named: bool = True
) -> Group:
    captions = [caption(target) if named else "" for target in seen.targets[chosen]]
    if notes is not None:
        captions = [f"{text} ({note})".strip() for text, note in zip(captions, notes, strict=True)]
    return name, decoded(subject, seen.inputs[chosen]), captions


def _by_target(subject: Subject, seen: Entered) -> list[Group]:
    """Random examples of each class; of each quarter for numbers; else simply random ones."""
    flat = seen.targets.reshape(len(seen.targets), -1)
    if flat.shape[1] != 1:
        return [
            _group(subject, "random", seen, some)
            for some in torch.split(torch.arange(len(flat))[: 4 * PER_ROW], PER_ROW)
        ]
    values = flat[:, 0]
    if subject.is_classification or not values.is_floating_point():
        labels = torch.unique(values)[:CLASSES]
        return [
            _group(subject, f"class {label:g}", seen, torch.nonzero(values == label).flatten()[:PER_ROW], named=False)
            for label in labels.tolist()
        ]
    order = values.argsort()
    names = ("lowest", "second", "third", "highest")
    quarters = [part[:: max(1, len(part) // PER_ROW)][:PER_ROW] for part in order.tensor_split(4) if len(part)]
    return [_group(subject, f"{name} quarter", seen, some) for name, some in zip(names, quarters, strict=False)]


def _extremes(subject: Subject, seen: Entered) -> list[Group]:
    """The largest numbers, and the examples farthest from the rest (root mean square robust deviation)."""
    if not seen.inputs.is_floating_point():
        return []
    table = np.nan_to_num(rows(seen.inputs), nan=0.0, posinf=1e300, neginf=-1e300)
    largest = np.abs(table).max(axis=1)
    middle = np.median(table, axis=0)
    spread = 1.4826 * np.median(np.abs(table - middle), axis=0)
    usual = np.where(spread > 0, spread, max(columns(table).scale, 1e-300))
    distance = np.sqrt(np.mean(((table - middle) / usual) ** 2, axis=1))
    found = []
    for name, score in (("largest value", largest), ("outliers", distance)):
        chosen = torch.as_tensor(np.argsort(-score, kind="stable")[:PER_ROW].copy())
        found.append(_group(subject, name, seen, chosen, [f"{score[index]:.3g}" for index in chosen.tolist()]))
    return found


@check(
    name="gallery_distributions",
    group="look",
    title="a picture of targets and features in training and validation",
    source="recipe.md A2, A11, K6",
    applies=no_folder,
)
def gallery_distributions(subject: Subject, settings: CheckSettings) -> Finding:
    """Writes ``distributions.png``: the targets, the features that differ or vary most, all features' moments."""
    assert subject.folder is not None
    train, validation = part(subject, "train"), part(subject, "validation")
    figure = Figure(figsize=(11, 5.6))
    cells = figure.subplots(2, 4, gridspec_kw={"left": 0.05, "right": 0.99, "top": 0.9, "bottom": 0.05}).ravel()
    _histogram(cells[0], rows(train.targets).ravel(), rows(validation.targets).ravel(), "target")
    first, second = rows(train.inputs), rows(validation.inputs)
    _histogram(cells[1], first.ravel(), second.ravel(), "all inputs")
    same = first.shape[1:] == second.shape[1:]
    if same:
        _moments(cells[2], first, second)
    for axes, feature in zip(cells[3:], _telling(first, second) if same else [], strict=False):
        _histogram(axes, first[:, feature], second[:, feature], f"feature {feature}")
    for axes in cells:
        if not axes.has_data():
            axes.set_axis_off()
    figure.suptitle(f"{type(subject.task).__name__}: training (blue) and validation (orange), shares", fontsize=9)
    path = save(figure, subject.folder / "distributions.png")
    subject.pictures.append(path)
    return passed(f"targets and features of both splits in {path.name}")


def _histogram(axes: Axes, train: np.ndarray, validation: np.ndarray, name: str) -> None:
    kept = [values[np.isfinite(values)] for values in (train, validation)]
    both = np.concatenate(kept)
    axes.set_title(name, fontsize=8)
    axes.tick_params(labelsize=6)
    if not len(both):
        return
    whole = bool((both == np.round(both)).all()) and np.ptp(both) <= 60
    bins = np.arange(both.min() - 0.5, both.max() + 1) if whole else np.histogram_bin_edges(both, 40)
    for values, colour in zip(kept, ("#4575b4", "#f46d43"), strict=True):
        if len(values):
            shares = np.histogram(values, bins)[0] / len(values)
            axes.stairs(shares, bins, fill=True, alpha=0.5, color=colour)
            if shares.max() > 0.8:
                axes.set_yscale("log")


def _moments(axes: Axes, train: np.ndarray, validation: np.ndarray) -> None:
    first, second = columns(np.nan_to_num(train)), columns(np.nan_to_num(validation))
    axes.scatter(first.mean, second.mean, s=6, label="mean", color="#4575b4")
    axes.scatter(first.std, second.std, s=6, label="deviation", color="#d73027")
    ends = [min(axes.get_xlim()[0], axes.get_ylim()[0]), max(axes.get_xlim()[1], axes.get_ylim()[1])]
    axes.plot(ends, ends, color="black", linewidth=0.5)
    axes.set_title("every feature: training against validation", fontsize=8)
    axes.tick_params(labelsize=6)
    axes.legend(fontsize=6)


def _telling(train: np.ndarray, validation: np.ndarray) -> list[int]:
    """Features by the gap between the splits, largest first."""
    first, second = columns(np.nan_to_num(train)), columns(np.nan_to_num(validation))
    spread = np.where(first.std > 0, first.std, np.inf)
    gap = np.abs(first.mean - second.mean) / spread + np.abs(second.std - first.std) / spread
    return [int(index) for index in np.argsort(-gap, kind="stable")[:5]]
