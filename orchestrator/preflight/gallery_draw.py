"""Pictures of examples: images, table rows, series, tokens. Figures are made without any global state."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from orchestrator.files import replacing
from orchestrator.preflight.data_table import Floats

Shown = Sequence[Any]
"""Decoded examples: arrays or strings."""
Group = tuple[str, Shown, Sequence[str]]
"""Name of a row, its examples and their captions."""

GOOD, BAD, PLAIN = "#1b7837", "#b2182b", "#4575b4"
DOTS = 110
"""Dots per inch of every picture."""


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, atomically."""
    with replacing(path) as aside:
        figure.savefig(aside, format="png", dpi=DOTS, facecolor="white")
    return path


def is_picture(example: Any) -> bool:
    """Whether an example is drawn as an image: (height, width), (1 or 3, height, width) or (height, width, 3).

    Anything less than 4 high or wide is drawn as a row of a table.
    """
    if isinstance(example, str) or example.ndim not in (2, 3) or min(picture(example).shape[:2]) < 4:
        return False
    return example.ndim == 2 or example.shape[0] in (1, 3) or example.shape[-1] in (1, 3)


def picture(example: Any) -> Floats:
    """(height, width) or (height, width, 3)."""
    values: Floats = np.nan_to_num(np.asarray(example, dtype=float))
    if values.ndim == 3 and values.shape[0] in (1, 3):
        values = np.moveaxis(values, 0, -1)
    return values[..., 0] if values.ndim == 3 and values.shape[-1] == 1 else values


def mosaic(rows: Sequence[Shown]) -> tuple[Floats, int, int]:
    """All pictures on one canvas, a gap of a few pixels between them; height and width of a cell with its gap.

    Grey levels and colours are those of the whole canvas, between its 0.5 and 99.5 percentiles.
    """
    pictures = [[picture(example) for example in row] for row in rows]
    every = [one for row in pictures for one in row]
    height, width = (max(one.shape[axis] for one in every) for axis in (0, 1))
    step = height + max(2, height // 4), width + max(1, width // 12)
    colours = (3,) if any(one.ndim == 3 for one in every) else ()
    low, high = np.percentile(np.concatenate([one.ravel() for one in every]), [0.5, 99.5])
    canvas = np.ones((len(rows) * step[0], max(len(row) for row in rows) * step[1], *colours))
    for line, row in enumerate(pictures):
        for place, one in enumerate(row):
            shaded = np.clip((one - low) / max(high - low, 1e-12), 0, 1)
            if colours and shaded.ndim == 2:
                shaded = shaded[..., None]
            top, left = line * step[0] + step[0] - height, place * step[1]
            canvas[top : top + one.shape[0], left : left + one.shape[1]] = shaded
    return canvas, step[0], step[1]


def bare(axes: Axes) -> None:
    """No ticks and no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    for side in axes.spines.values():
        side.set_visible(False)


def draw_pictures(
    axes: Axes, rows: Sequence[Shown], captions: Sequence[Sequence[str]], colours: Sequence[Sequence[str]] = ()
) -> None:
    """Rows of pictures with their captions above them, in one pair of axes."""
    canvas, height, width = mosaic(rows)
    bare(axes)
    axes.imshow(canvas, cmap="gray", vmin=0, vmax=1, aspect="equal", interpolation="nearest")
    axes.set_anchor("W")
    own = picture(rows[0][0]).shape
    for line, texts in enumerate(captions):
        for place, text in enumerate(texts):
            colour = colours[line][place] if colours else "black"
            left, below = place * width + own[1] / 2 - 0.5, line * height + height - own[0] - 0.8
            axes.text(left, below, text, fontsize=6, color=colour, ha="center", va="bottom")


def draw_lines(axes: Axes, lines: Sequence[tuple[str, str, str]], width: int = 110) -> None:
    """Lines of text: caption, text, colour."""
    bare(axes)
    axes.set_ylim(len(lines), -1)
    for place, (caption, text, colour) in enumerate(lines):
        cut = text if len(text) <= width else text[: width - 4] + " ..."
        axes.text(0.0, place, caption, fontsize=7, color=colour, va="center", weight="bold")
        axes.text(0.17, place, cut, fontsize=7, family="monospace", va="center")


def draw_table(figure: Figure, axes: Axes, groups: Sequence[Group], title: str) -> None:
    """Table rows one below the other, a stripe per group; colours are deviations from each column's mean."""
    values = np.concatenate(
        [np.stack([np.asarray(row, dtype=float).ravel() for row in rows]) for _, rows, _ in groups]
    )
    values = np.nan_to_num(values)
    std = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(std > 0, std, 1.0)
    shown = axes.imshow(scaled, cmap="RdBu_r", vmin=-3, vmax=3, aspect="auto", interpolation="nearest")
    figure.colorbar(shown, ax=axes, label="deviations from the column's mean", shrink=0.7, pad=0.1)
    ends = np.cumsum([len(rows) for _, rows, _ in groups])
    starts = np.concatenate([[0], ends[:-1]])
    for end in ends[:-1]:
        axes.axhline(end - 0.5, color="black", linewidth=1)
    axes.set_yticks((starts + ends - 1) / 2, [name for name, _, _ in groups], fontsize=7)
    axes.set_xlabel("feature", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.set_title(title, fontsize=9)
    for place, caption in enumerate(caption for _, _, group in groups for caption in group):
        axes.text(values.shape[1] - 0.3, place, caption, fontsize=5, va="center")


def sheet(groups: Sequence[Group], title: str) -> Figure:
    """One figure of all groups, drawn as what they are: pictures, lines of text or table rows."""
    first = groups[0][1][0]
    if isinstance(first, str):
        return _text_sheet(groups, title)
    if is_picture(first):
        return _picture_sheet(groups, title)
    count, features = sum(len(rows) for _, rows, _ in groups), np.asarray(first).size
    figure = Figure(figsize=(min(14.0, 4.5 + 0.2 * features), 1.5 + 0.15 * count))
    room = figure.get_figheight()
    axes = figure.add_axes((0.12, 0.55 / room, 0.86, 1 - 0.95 / room))
    draw_table(figure, axes, groups, title)
    return figure


def _picture_sheet(groups: Sequence[Group], title: str) -> Figure:
    canvas, height, _ = mosaic([examples for _, examples, _ in groups])
    shape = canvas.shape[0] / canvas.shape[1]
    wide = 9.5
    figure = Figure(figsize=(wide + 1.3, min(30.0, wide * shape) + 0.5))
    axes = figure.add_axes((1.25 / (wide + 1.3), 0.01, wide / (wide + 1.3), 1 - 0.45 / figure.get_figheight()))
    draw_pictures(axes, [examples for _, examples, _ in groups], [captions for _, _, captions in groups])
    for line, (name, _, _) in enumerate(groups):
        axes.text(-0.02 * canvas.shape[1], (line + 0.6) * height, name, fontsize=8, ha="right", va="center")
    figure.suptitle(title, fontsize=9)
    return figure


def _text_sheet(groups: Sequence[Group], title: str) -> Figure:
    lines = [
        (f"{name}: {caption}" if caption else name, text, "black")
        for name, examples, captions in groups
        for text, caption in zip(examples, captions, strict=True)
    ]
    figure = Figure(figsize=(11, 0.6 + 0.17 * len(lines)))
    axes = figure.add_axes((0.02, 0.01, 0.97, 1 - 0.45 / figure.get_figheight()))
    draw_lines(axes, lines)
    figure.suptitle(title, fontsize=9)
    return figure
