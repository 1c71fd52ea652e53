"""The pictures of one stage: response curves, learning curves, and the map of its learning-rate window."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogLocator, MaxNLocator

from orchestrator.progress import short
from orchestrator.report.drawing import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    draw,
    legend,
    plain_numbers,
    unit_ticks,
    worst_shown,
)
from orchestrator.report.html import figure
from orchestrator.report.view import FINISHED, INFEASIBLE, SweepView, Training
from orchestrator.types import Value

_POINTS = 250
"""Points of one colour in a picture; more hide each other, and make the page heavy."""
_CURVES = 60
"""Learning curves in a picture."""
_BINS = 14
"""Places along a response curve at which the best over the other hyperparameters is taken."""
_LONGEST_UNIT = 16
"""Characters; a longer one is a sentence and does not fit beside an axis."""
_FEWEST = 4
"""Trainings of equal length below which nothing is compared."""
_CELLS = (8, 7)
"""Columns and rows of a map."""


@dataclass(frozen=True)
class _Axis:
    """Where values of one hyperparameter lie in a picture: its unit coordinate, or a choice's place."""

    view: SweepView
    name: str

    @property
    def choices(self) -> Sequence[Value]:
        return self.view.space[self.name].choices

    def at(self, value: Value) -> float:
        item = self.view.space[self.name]
        return float(self.choices.index(value)) if item.is_choice else item.to_unit(value)

    def ends(self, places: Sequence[float]) -> tuple[float, float]:
        """What the picture spans: the searched range and all trials."""
        if self.choices:
            return -0.5, len(self.choices) - 0.5
        low, high = self.view.space[self.name].searched
        low, high = min([low, *places]), max([high, *places])
        return low - 0.04 * (high - low), high + 0.04 * (high - low)

    def ticks(self, low: float, high: float) -> tuple[list[float], list[str]]:
        values = self.choices or unit_ticks(self.view.space[self.name], max(low, 0.0), min(high, 1.0))
        return [self.at(value) for value in values], [f"{v:g}" if isinstance(v, float) else str(v) for v in values]

    @property
    def label(self) -> str:
        unit = self.view.space[self.name].config.unit
        return f"{self.name} ({unit})" if 0 < len(unit) <= _LONGEST_UNIT else self.name


def thinned(trainings: Sequence[Training], most: int, view: SweepView) -> Sequence[Training]:
    """At most ``most`` of them: the best third of that many, and the others evenly from the rest."""
    if len(trainings) <= most:
        return trainings
    order = sorted(trainings, key=lambda t: (-t.last.epochs_run, _cost(t, view)))
    kept = order[: most // 3]
    rest = order[most // 3 :]
    return [*kept, *(rest[i] for i in np.linspace(0, len(rest) - 1, most - len(kept)).astype(int))]


def _cost(training: Training, view: SweepView) -> float:
    value = training.best_by(training.last.epochs_run)
    return math.inf if value is None else view.direction.cost(value)


def compared_at(trainings: Sequence[Training], view: SweepView) -> Sequence[int]:
    """Up to three epochs at which at least ``_FEWEST`` trainings can be compared: early, between, last."""
    reached = [e for e in view.levels if sum(t.best_by(e) is not None for t in trainings) >= _FEWEST]
    return sorted({reached[0], reached[len(reached) // 2], reached[-1]}) if reached else []


def _best_over_the_rest(
    points: Sequence[tuple[float, float]], view: SweepView, axis: _Axis
) -> list[tuple[float, float]]:
    """The isolation view: of all points at (nearly) one place the best, from left to right."""
    low, high = axis.ends([place for place, _ in points])
    found: dict[float, tuple[float, float]] = {}
    for place, value in points:
        key = place if axis.choices else float(int((place - low) / (high - low) * _BINS))
        if key not in found or view.direction.better(value, found[key][1]):
            found[key] = (place, value)
    return sorted(found.values())


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' if count != 1 else ''}"


def response(view: SweepView, stage: str, name: str) -> str:
    """The objective against one hyperparameter that the stage asked about; empty without anything to show."""
    trainings = view.by_stage.get(stage, ())
    axis = _Axis(view, name)
    levels = compared_at(trainings, view)
    if not levels or len({t.configuration[name] for t in trainings}) < 2:
        return ""
    series = {level: [(axis.at(t.configuration[name]), value, t) for t in trainings
                      if (value := t.best_by(level)) is not None] for level in levels}  # fmt: skip
    failed = [axis.at(t.configuration[name]) for t in trainings if t.outcome == INFEASIBLE]
    values = [value for points in series.values() for _, value, _ in points]
    cap = worst_shown(values, view.direction)

    def paint(axes: Axes) -> None:
        places = [axis.at(t.configuration[name]) for t in trainings]
        for level, colour in zip(reversed(levels), (BLUE, ORANGE, PURPLE), strict=False):
            _points(axes, axis, series[level], cap, colour, f"epoch {level}")
        _frame(axes, view, axis, places, [v for v in values if not view.direction.better(cap, v)])
        _marks(axes, view, axis, trainings, failed, full=levels[-1] == view.epochs)
        legend(axes)

    shows = (
        f"The response of {view.objective} to {name}: one dot for each training, a line along the best at "
        f"each value, "
        "one colour for each length of training."
    )
    told = _read_response(view, axis, series[levels[-1]], levels[-1]) + _read_failed(view, name, trainings)
    return figure(draw(f"{stage}: {view.objective} against {name}", paint), shows, told)


def _points(
    axes: Axes,
    axis: _Axis,
    points: Sequence[tuple[float, float, Training]],
    cap: float,
    colour: str,
    label: str,
) -> None:
    view = axis.view
    kept = {id(t) for t in thinned([t for _, _, t in points], _POINTS, view)}
    inside = [(x, y) for x, y, t in points if id(t) in kept and not view.direction.better(cap, y)]
    beyond = [x for x, y, t in points if id(t) in kept and view.direction.better(cap, y)]
    axes.plot(*np.array(inside).reshape(-1, 2).T, "o", color=colour, alpha=0.55, markersize=4, mew=0)
    mark = "^" if view.direction.cost(1.0) > 0 else "v"
    axes.plot(beyond, [cap] * len(beyond), mark, color=colour, alpha=0.6, markersize=5, mfc="none")
    line = _best_over_the_rest([(x, y) for x, y, _ in points], view, axis)
    line = [(x, y if not view.direction.better(cap, y) else cap) for x, y in line]
    axes.plot(*np.array(line).T, "-", color=colour, linewidth=1.6, label=label)


def _frame(axes: Axes, view: SweepView, axis: _Axis, places: Sequence[float], values: Sequence[float]) -> None:
    low, high = axis.ends(places)
    axes.set_xlim(low, high)
    axes.set_xticks(*axis.ticks(low, high))
    axes.set_xlabel(axis.label)
    axes.set_ylabel(view.objective)
    plain_numbers(axes, values)


def _marks(
    axes: Axes, view: SweepView, axis: _Axis, trainings: Sequence[Training], failed: Sequence[float], *, full: bool
) -> None:
    if not axis.choices:
        for end in view.space[axis.name].searched:
            axes.axvline(end, color=MUTED, linestyle=":", linewidth=1.2)
    best, (noise, _) = view.best, view.noise
    if full and best is not None and best.value is not None:
        if noise:
            axes.axhspan(best.value - noise, best.value + noise, color=GREEN, alpha=0.18, linewidth=0)
        if any(best in t.trials for t in trainings):
            place = axis.at(best.configuration[axis.name])
            axes.plot([place], [best.value], "*", color=GREEN, markersize=12, mew=0, label="best of all")
    if failed:
        # On the edge of the axes, whatever the objective's scale.
        axes.plot(failed[:_POINTS], [0.985] * len(failed[:_POINTS]), "x", color=RED, markersize=6, mew=1.4,
                  transform=axes.get_xaxis_transform(), label="infeasible")  # fmt: skip


def _read_response(view: SweepView, axis: _Axis, points: Sequence[tuple[float, float, Training]], level: int) -> str:
    """In words: where the best lies, how wide the good region is, and whether an end of the range holds it."""
    _, value, training = min(points, key=lambda point: view.direction.cost(point[1]))
    at = training.configuration[axis.name]
    told = f"The best of this stage is at {short(at)} ({view.objective} {value:.4g} after {_epochs(level)})."
    if level < view.epochs:
        return told + f" Too few ran all {view.epochs} epochs to say more: the best of short trainings may differ."
    noise = view.noise[0]
    if axis.choices:
        return told
    if noise:
        good = [t.configuration[axis.name] for _, v, t in points if abs(v - value) <= 2 * noise]
        low, high = min(good, key=axis.at), max(good, key=axis.at)
        told += (
            f" Trainings from {short(low)} to {short(high)} came within two seed noises of it."
            if low != high
            else " No training at another value came within two seed noises of it."
        )
    return told + _read_ends(view, axis, at)


def _read_ends(view: SweepView, axis: _Axis, value: Value) -> str:
    """Where ``value`` lies at an end of the searched range that may be widened."""
    first, last = view.space[axis.name].searched
    place, near = axis.at(value), 0.02 * (last - first)
    if place <= first + near and first > 0:
        return f" It lies at the low end of the searched range: widen space.{axis.name}.low."
    if place >= last - near and last < 1:
        return f" It lies at the high end of the searched range: widen space.{axis.name}.high."
    return ""


def _read_failed(view: SweepView, name: str, trainings: Sequence[Training]) -> str:
    failed = [t.configuration[name] for t in trainings if t.outcome == INFEASIBLE]
    if not failed:
        return ""
    told = f" {len(failed)} of {len(trainings)} were infeasible"
    if view.space[name].is_choice:
        return told + "."
    item = view.space[name]
    low, high = min(failed, key=item.to_unit), max(failed, key=item.to_unit)
    return told + (f", from {short(low)} to {short(high)}." if low != high else f", at {short(low)}.")


def curves(view: SweepView, stage: str) -> str:
    """The objective against epochs of the stage's trainings; empty without any."""
    every = [t for t in view.by_stage.get(stage, ()) if t.last.curve]
    if not every:
        return ""
    shown = thinned(every, _CURVES, view)
    values = [value for t in shown for value in t.last.curve.values() if math.isfinite(value)]
    if not values:
        return ""
    cap = worst_shown(values, view.direction)
    best = min((t for t in every if t.outcome == FINISHED), key=lambda t: _cost(t, view), default=None)

    def paint(axes: Axes) -> None:
        for training in sorted(shown, key=lambda t: t.outcome == FINISHED):
            _curve(axes, training, training is best)
        if best is not None and best not in shown:
            _curve(axes, best, True)
        inside = [value for value in values if not view.direction.better(cap, value)]
        plain_numbers(axes, inside)
        axes.set_ylim(*_limits(axes, min(inside), max(inside)))
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_ylabel(view.objective)
        axes.set_xlim(0.5, view.epochs + 0.5)
        for label, colour, alpha in (("finished", BLUE, 0.8), ("stopped early", MUTED, 0.5)):
            axes.plot([], [], color=colour, alpha=alpha, label=label)
        legend(axes)

    left = f" {len(shown)} of {len(every)} are drawn." if len(shown) < len(every) else ""
    shows = f"{view.objective} on validation after each epoch. Faded: stopped early. Green: the stage's best.{left}"
    return figure(draw(f"{stage}: learning curves", paint), shows, _read_curves(view, every, best))


def _curve(axes: Axes, training: Training, best: bool) -> None:
    curve = sorted(training.last.curve.items())
    done = training.outcome == FINISHED
    colour = GREEN if best else RED if training.outcome == INFEASIBLE else BLUE if done else MUTED
    label = "best" if best else None
    axes.plot(*np.array(curve).T, "-" if len(curve) > 1 else ".", color=colour, label=label, markersize=3,
              linewidth=2.4 if best else 1.0, alpha=1.0 if best else 0.6 if done else 0.3)  # fmt: skip


def _limits(axes: Axes, low: float, high: float) -> tuple[float, float]:
    if axes.get_yscale() == "log":
        pad = (high / low) ** 0.05
        return low / pad, high * pad
    pad = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    return low - pad, high + pad


def _read_curves(view: SweepView, every: Sequence[Training], best: Training | None) -> str:
    stopped = sum(t.last.epochs_run < view.epochs and t.outcome != INFEASIBLE for t in every)
    told = f"{stopped} of {len(every)} trainings were stopped before epoch {view.epochs}."
    if best is None:
        return told + " None was trained to its end here."
    at = min(best.last.curve, key=lambda epoch: view.direction.cost(best.last.curve[epoch]))
    where = "near its end: more trainer.epochs may pay" if at > 0.9 * view.epochs else "well before its end"
    return f"{told} The stage's best was reached in epoch {at} of {view.epochs}, {where}."


def rate_map(view: SweepView, stage: str) -> str:
    """The best objective over the stage's hyperparameter and the learning rate; empty where it was not "
    "tuned again."""
    trainings = view.by_stage.get(stage, ())
    asked = view.asked(stage)
    if "optimizer.lr" not in view.space or "optimizer.lr" in asked or not asked or len(trainings) < 6:
        return ""
    name = max(asked, key=lambda n: len({t.configuration[n] for t in trainings}))
    across, up = _Axis(view, name), _Axis(view, "optimizer.lr")
    level = view.common_epoch(trainings)
    if not level or any(len({t.configuration[n] for t in trainings}) < 3 for n in (name, "optimizer.lr")):
        return ""

    def paint(axes: Axes) -> None:
        _cells(axes, view, trainings, (across, up), level)

    told = (
        f"Each cell holds the best {view.objective} within {_epochs(level)} (an epoch that at least half of the "
        "trainings reached) of all trainings in it; blank: nothing was tried. Red crosses: infeasible. Star: "
        "the best "
        "of the sweep."
    )
    ideal = (
        "If the good cells form a slope, the two must be tuned together; if they form an upright or a level "
        "band, one "
        "does not depend on the other. Good cells at an edge of the map ask for a wider window."
    )
    return figure(draw(f"{stage}: {name} and optimizer.lr", paint), told, ideal)


def _cells(axes: Axes, view: SweepView, trainings: Sequence[Training], both: tuple[_Axis, _Axis], level: int) -> None:
    places = [[axis.at(t.configuration[axis.name]) for t in trainings] for axis in both]
    spans = [_span(axis, xs) for axis, xs in zip(both, places, strict=True)]
    sizes = [len(axis.choices) or cells for axis, cells in zip(both, _CELLS, strict=True)]
    grid = np.full((sizes[1], sizes[0]), np.nan)
    failed = []
    for training, x, y in zip(trainings, *places, strict=True):
        if training.outcome == INFEASIBLE:
            failed.append((x, y))
        value = training.best_by(level)
        if value is not None:
            column, row = (
                min(int((at - low) / (high - low) * size), size - 1)
                for at, (low, high), size in zip((x, y), spans, sizes, strict=True)
            )
            if np.isnan(grid[row, column]) or view.direction.better(value, grid[row, column]):
                grid[row, column] = value
    edges = [np.linspace(low, high, size + 1) for (low, high), size in zip(spans, sizes, strict=True)]
    values = grid[np.isfinite(grid)]
    norm = LogNorm() if values.min() > 0 and values.max() > 8 * values.min() else None
    colours = "viridis_r" if view.direction.cost(1.0) > 0 else "viridis"
    mesh = axes.pcolormesh(edges[0], edges[1], np.ma.masked_invalid(grid), cmap=colours, norm=norm,
                           edgecolor=GRID, linewidth=0.4)  # fmt: skip
    bar = axes.figure.colorbar(
        mesh, ax=axes, label=f"{view.objective} by epoch {level}", format=lambda v, _: f"{v:.3g}"
    )
    if norm is not None:
        bar.set_ticks(LogLocator(subs=(1.0, 2.0, 5.0)))
    bar.minorticks_off()
    bar.outline.set_visible(False)
    if failed:
        axes.plot(*np.array(failed).T, "x", color=RED, mew=1.4)
    if view.best is not None and any(view.best in t.trials for t in trainings):
        place = [axis.at(view.best.configuration[axis.name]) for axis in both]
        axes.plot(*place, "*", color=INK, markersize=12)
    axes.set_xticks(*both[0].ticks(*spans[0]))
    axes.set_yticks(*both[1].ticks(*spans[1]))
    axes.set_xlabel(both[0].label)
    axes.set_ylabel(both[1].label)
    axes.grid(False)


def _span(axis: _Axis, places: Sequence[float]) -> tuple[float, float]:
    if axis.choices:
        return -0.5, len(axis.choices) - 0.5
    pad = 0.03 * (max(places) - min(places))
    return min(places) - pad, max(places) + pad
