"""Pictures of what the winner and the ensemble predict: dynamics, confusion, calibration, gain per member."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from orchestrator.ensemble.calibrate import Bins, expected_error
from orchestrator.report.drawing import BLUE, INK, MUTED, ORANGE, draw, legend, plain_numbers
from orchestrator.report.html import Picture
from orchestrator.report.view import SweepView

_LATE = 2 / 3
"""Share of the epochs after which a change of class counts as late: our guess."""
_TEXT_CLASSES = 12
"""Classes up to which a confusion matrix has its counts written into it."""


def dynamics(view: SweepView) -> Picture | None:
    """Predictions on fixed validation examples over the winner's epochs; None where they were not kept."""
    followed = view.predictions.get("followed") or {}
    if not followed.get("values") or len(followed["values"]) < 2:
        return None
    values = np.array(followed["values"], dtype=float)
    title = "prediction dynamics"
    if followed.get("likeliest"):
        return _class_dynamics(title, values, np.array(followed["likeliest"]), np.array(followed["targets"]))
    return _value_dynamics(title, values, np.array(followed["targets"], dtype=float))


def _class_dynamics(
    title: str, right: NDArray[np.float64], likeliest: NDArray[np.int64], targets: NDArray[np.int64]
) -> Picture:
    order = np.argsort(right.mean(axis=0))
    epochs, examples = right.shape

    def paint(axes: Axes) -> None:
        edges = np.arange(epochs + 1) + 0.5, np.arange(examples + 1)
        mesh = axes.pcolormesh(*edges, right[:, order].T, cmap="viridis", vmin=0, vmax=1)
        flips = np.argwhere((np.diff(likeliest[:, order], axis=0) != 0).T)
        axes.plot(flips[:, 1] + 1.5, flips[:, 0] + 0.5, "x", color=ORANGE, markersize=3.5, mew=1.1)
        bar = axes.figure.colorbar(mesh, ax=axes, label="probability of the right class")
        bar.outline.set_visible(False)
        axes.set_yticks([])
        axes.set_ylabel(f"{examples} validation examples")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.grid(False)

    changed = np.diff(likeliest, axis=0) != 0
    late = int(changed[max(0, int(_LATE * epochs) - 1) :].any(axis=0).sum())
    wrong = int((likeliest[-1] != targets).sum())
    told = f"In the last third {late} of {examples} examples still changed their class; {wrong} are wrong at the end."
    told += (
        " Many late changes: the learning rate is large for the end of training; decay or a smaller rate may pay."
        if late > 0.1 * examples
        else " The predictions have settled."
    )
    shows = (
        f"What the winner predicts after each epoch for {examples} fixed validation examples, one row each, "
        "the hardest "
        "below: dark is wrong and sure, bright is right and sure. A cross: the likeliest class changed."
    )
    return Picture(title, draw(title, paint, height=3.9, left=0.4, right=0.45), shows, told)


def _value_dynamics(title: str, values: NDArray[np.float64], targets: NDArray[np.float64]) -> Picture:
    spread = float(targets.std()) or 1.0
    errors = (values - targets) / spread
    epochs, examples = errors.shape

    def paint(axes: Axes) -> None:
        axes.plot(np.arange(1, epochs + 1), errors, color=BLUE, alpha=0.3, linewidth=0.9)
        axes.axhline(0, color=INK, linewidth=1)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_ylabel("prediction - target (deviations)")

    late = np.abs(np.diff(errors[max(0, int(_LATE * epochs) - 1) :], axis=0))
    moves = float(late.mean()) if late.size else 0.0
    told = f"In the last third a prediction moves by {moves:.2g} standard deviations of the targets an epoch."
    told += " Large: the learning rate is large for the end of training." if moves > 0.1 else " They have settled."
    shows = (
        f"The winner's error on {examples} fixed validation examples after each epoch, one line each, in standard "
        "deviations of the targets."
    )
    return Picture(title, draw(title, paint), shows, told)


def confusion(view: SweepView) -> Picture | None:
    """Right against predicted class; None for other problems, and for very many classes."""
    rows = view.predictions.get("confusion")
    if not rows:
        return None
    counts = np.array(rows)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    classes = len(counts)

    def paint(axes: Axes) -> None:
        off = np.where(np.eye(classes, dtype=bool) | (counts == 0), np.nan, shares)
        axes.imshow(
            np.ma.masked_invalid(off), cmap="Oranges", vmin=0, vmax=max(float(np.nanmax(off, initial=0.0)), 0.3)
        )
        if classes <= _TEXT_CLASSES:
            for row, column in np.argwhere(counts):
                colour = MUTED if row == column else "black"
                axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=8, color=colour)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("right class")
        axes.xaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(12, integer=True))
        axes.grid(False)

    missed = [(int(counts[r, c]), int(r), int(c)) for r, c in np.argwhere(counts) if r != c]
    total = sum(count for count, _, _ in missed)
    told = f"{total} of {counts.sum()} are wrong."
    if missed:
        listed = ", ".join(f"{r} taken for {c} ({n} x)" for n, r, c in sorted(missed, reverse=True)[:3])
        told += f" Most often: {listed}. A pair that stands out asks for a look at its examples and labels."
    title = "confusion matrix of the winner"
    shows = "How many validation examples of each class (rows) the winner takes for which class; errors in orange."
    return Picture(title, draw(title, paint, height=3.9), shows, told)


def fit(view: SweepView) -> Picture | None:
    """Predicted against true values; None where classes are predicted."""
    pairs = view.predictions.get("pairs")
    if not pairs:
        return None
    targets, predicted = (np.array(values, dtype=float) for values in pairs)

    def paint(axes: Axes) -> None:
        axes.plot(targets, predicted, "o", color=BLUE, alpha=0.5, markersize=4, mew=0)
        ends = [min(targets.min(), predicted.min()), max(targets.max(), predicted.max())]
        axes.plot(ends, ends, color=INK, linewidth=1, label="perfect")
        axes.set_xlabel("target")
        axes.set_ylabel("predicted")
        legend(axes)

    slope = float(np.polyfit(targets, predicted, 1)[0]) if np.ptp(targets) else 0.0
    told = f"Predictions rise by {slope:.2f} where targets rise by 1"
    told += (
        ": extremes are drawn to the middle, as with noisy targets or too little capacity." if slope < 0.8 else "."
    )
    title = "predicted against true values"
    shows = f"{len(targets)} validation examples; on the line the prediction is perfect."
    return Picture(title, draw(title, paint), shows, told)


def calibration(view: SweepView) -> Picture | None:
    """Confidence against the share that is right, of the winner and of the ensemble; None without classes."""
    shown: dict[str, Bins] = {}
    if view.predictions.get("calibration"):
        shown[f"winner (trial {view.predictions['trial']})"] = view.predictions["calibration"]
    for entry in view.finished.values():
        if entry.get("calibration"):
            shown["ensemble"] = entry["calibration"]["bins"]["ensemble"]
    if not shown:
        return None

    def paint(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        for (who, bins), colour in zip(shown.items(), (BLUE, ORANGE), strict=False):
            counts, sure, right = (np.array(column, dtype=float) for column in zip(*bins, strict=True))
            axes.plot(sure, right, "-", color=colour, linewidth=1.4, label=who)
            axes.scatter(
                sure, right, s=12 + 140 * np.sqrt(counts / counts.sum()), color=colour, alpha=0.6, linewidth=0
            )
        axes.set_xlim(0, 1.03)
        axes.set_ylim(0, 1.05)
        axes.set_xlabel("confidence: probability of the predicted class")
        axes.set_ylabel("share that is right")
        legend(axes)

    errors = {who: expected_error(bins) for who, bins in shown.items()}
    listed = ", ".join(f"{who} {error:.2%}" for who, error in errors.items())
    told = f"Expected calibration error: {listed}. "
    first = next(iter(shown.values()))
    over = sum(count * (sure - right) for count, sure, right in first)
    told += "Points below the dashed line are too sure of themselves; above it too modest. "
    told += "On the whole the winner is " + ("too sure." if over > 0 else "too modest.")
    title = "calibration"
    shows = (
        "Validation examples in bins of confidence: a well calibrated model is right as often as it is "
        "sure (dashed). "
        "The size of a dot stands for the number of examples; small dots say little."
    )
    return Picture(title, draw(title, paint), shows, told)


def growth(view: SweepView, entry: Mapping[str, Any]) -> Picture | None:
    """The objective by the number of members; None where only one was tried."""
    steps = entry.get("growth") or ()
    if len(steps) < 2:
        return None
    counts = np.array([step["members"] for step in steps])
    values = np.array([step["value"] for step in steps])
    errors = np.array([step["error"] for step in steps])
    knee = entry["knee"]

    def paint(axes: Axes) -> None:
        axes.fill_between(counts, values - errors, values + errors, color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(counts, values, "o-", color=BLUE, label="validation, cross-fitted")
        axes.plot(counts, [step["test"] for step in steps], "o-", color=ORANGE, label="test")
        axes.axvline(knee, color=MUTED, linestyle=":", linewidth=1.2, label="knee")
        axes.set_xticks(counts)
        axes.set_xlabel("most members")
        axes.set_ylabel(view.objective)
        plain_numbers(axes, [*values, *(step["test"] for step in steps)])
        axes.margins(x=0.08)
        legend(axes)

    gained = view.direction.cost(values[0]) - view.direction.cost(values[knee - 1])
    told = f"Up to {knee} member{'s' if knee > 1 else ''} the committee gains {gained:.2g} on validation over one. "
    told += (
        "What comes after that costs predictions and gains less than a standard error."
        if knee < len(steps)
        else "Every member still helps: ensemble.members may be raised."
    )
    title = "ensemble gain per member"
    shows = (
        f"{view.objective} of greedy selection with at most so many members: on validation, each fold by members "
        "that the other folds chose (band: standard error of the difference to the best number), and on test."
    )
    return Picture(title, draw(title, paint), shows, told)
