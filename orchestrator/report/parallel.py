"""Parallel coordinates: every training as a line through its hyperparameters to its objective."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from orchestrator.report.axes import Axis, epochs_text
from orchestrator.report.drawing import BLUE, GREEN, INK, MUTED, draw
from orchestrator.report.html import Picture
from orchestrator.report.view import ASIDE, SweepView, Training

_LINES = 150
"""Lines in the picture; more hide each other, and make the page heavy."""
_NAMES = 6
"""Hyperparameters in it: the most important ones."""
_FEWEST = 8
"""Trainings below which the table of trials says more: our guess."""
_BEST_SHARE = 0.1
"""What is read off the picture are the best tenth (our choice)."""
_AGAINST_ALL = 0.5
"""And share of what nine tenths of all trainings span there: where all run together nothing else was tried."""
_NARROW = 0.35
"""Share of an axis within which the best tenth lie, where the picture is said to show a preference: our guess."""


def parallel_coordinates(view: SweepView) -> Picture | None:
    """None with fewer than ``_FEWEST`` comparable trainings, or fewer than two hyperparameters that vary."""
    every = [t for t in view.trainings if t.outcome not in ASIDE]
    level = view.common_epoch(every)
    ranked = sorted(
        ((view.direction.cost(value), t) for t in every if level and (value := t.best_by(level)) is not None),
        key=lambda pair: pair[0],
    )
    names = [n for n in view.importance if len({t.configuration[n] for _, t in ranked}) > 1][:_NAMES]
    if len(ranked) < _FEWEST or len(names) < 2:
        return None
    axes_of = [Axis(view, name) for name in names]
    spans = [axis.ends([axis.at(t.configuration[axis.name]) for _, t in ranked]) for axis in axes_of]
    rows = np.array(
        [[*_places(t, axes_of, spans), 1 - rank / (len(ranked) - 1)] for rank, (_, t) in enumerate(ranked)]
    )
    best = round(_BEST_SHARE * len(ranked)) or 1

    def paint(axes: Axes) -> None:
        kept = [*range(best), *np.linspace(best, len(rows) - 1, max(0, _LINES - best)).astype(int)][:_LINES]
        for index in sorted(set(kept), reverse=True):
            good = index < best
            axes.plot(
                rows[index],
                color=BLUE if good else MUTED,
                linewidth=1.3 if good else 0.7,
                alpha=0.8 if good else 0.25,
            )
        axes.plot(rows[0], color=GREEN, linewidth=2.6)
        _frame(axes, axes_of, spans)

    title = "parallel coordinates"
    shows = (
        "Every training as a line: where it crosses an upright axis it has that value; the last axis is "
        "its place in "
        f"the order by {view.objective} within {epochs_text(level)}, the best at the top. Blue: the best "
        "tenth; green: "
        f"the best. {min(len(ranked), _LINES)} of {len(ranked)} trainings are drawn."
    )
    return Picture(title, draw(title, paint, height=3.9, left=0.45), shows, _read(axes_of, rows, best))


def _places(training: Training, axes_of: Sequence[Axis], spans: Sequence[tuple[float, float]]) -> list[float]:
    return [
        (axis.at(training.configuration[axis.name]) - low) / (high - low)
        for axis, (low, high) in zip(axes_of, spans, strict=True)
    ]


def _frame(axes: Axes, axes_of: Sequence[Axis], spans: Sequence[tuple[float, float]]) -> None:
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlim(-0.25, len(axes_of) + 0.25)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.grid(False)
    short = [axis.name.rpartition(".")[2] for axis in axes_of]
    axes.set_xticks(range(len(axes_of) + 1), [*short, "order"], fontsize=8.5, color=INK, rotation=18)
    axes.tick_params(axis="x", length=0)
    for place in range(len(axes_of) + 1):
        axes.axvline(place, color=MUTED, linewidth=0.8)
    for place, (axis, (low, high)) in enumerate(zip(axes_of, spans, strict=True)):
        for at, label in zip(*axis.ticks(low, high), strict=True):
            axes.text(place + 0.04, (at - low) / (high - low), label, fontsize=7.5, color=INK, va="center")


def _read(axes_of: Sequence[Axis], rows: NDArray[np.float64], best: int) -> str:
    """Where the best lines run close together although others do not, and where they fan out."""
    spread = {axis.name: float(np.ptp(rows[:best, index])) for index, axis in enumerate(axes_of)}
    tried = {axis.name: float(np.ptp(np.percentile(rows[:, index], [5, 95]))) for index, axis in enumerate(axes_of)}
    narrow = [name for name, width in spread.items() if width <= min(_NARROW, _AGAINST_ALL * tried[name])]
    count = f"The best {best} " + ("lines" if best > 1 else "line")
    if best < 3:
        return f"{count} alone say little; look where the blue lines run together."
    if not narrow:
        return f"{count} do not run closer together than all do: no single value stands out as needed."
    others = [name for name in spread if name not in narrow]
    told = f"{count} run together at {', '.join(narrow)}: these values seem to be needed."
    return told + (
        f" Not so at {', '.join(others)}: there other values do as well, or little else was tried." if others else ""
    )
