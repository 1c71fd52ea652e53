"""The pictures of one stage: response curves and learning curves."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from orchestrator.progress import short
from orchestrator.report.axes import Axis, compared_at, cost_of, epochs_text, thinned
from orchestrator.report.drawing import (
    BLUE,
    GREEN,
    MUTED,
    ORANGE,
    PURPLE,
    RED,
    draw,
    legend,
    plain_numbers,
    worst_shown,
)
from orchestrator.report.html import Picture
from orchestrator.report.view import FINISHED, INFEASIBLE, SweepView, Training
from orchestrator.types import Value

_POINTS = 250
"""Points of one colour in a picture; more hide each other, and make the page heavy."""
_FEWEST_CURVES = 3
"""Trainings of a stage below which their curves are not drawn: there is nothing to compare (our choice)."""
_CURVES = 60
"""Learning curves in a picture."""
_NEAR = 0.03
"""Share of the hard range: half of the least width of a stretch that is shaded between feasible trainings: our
guess."""
_BINS = 14
"""Places along a response curve at which the best over the other hyperparameters is taken."""


def _best_over_the_rest(
    points: Sequence[tuple[float, float]], view: SweepView, axis: Axis
) -> list[tuple[float, float]]:
    """The isolation view: of all points at (nearly) one place the best, from left to right."""
    low, high = axis.ends([place for place, _ in points])
    found: dict[float, tuple[float, float]] = {}
    for place, value in points:
        key = place if axis.choices else float(int((place - low) / (high - low) * _BINS))
        if key not in found or view.direction.better(value, found[key][1]):
            found[key] = (place, value)
    return sorted(found.values())


def response(view: SweepView, stage: str, name: str) -> Picture | None:
    """The objective against one hyperparameter that the stage asked about; None without anything to show."""
    trainings = view.by_stage.get(stage, ())
    axis = Axis(view, name)
    levels = compared_at(trainings, view)
    if not levels or len({t.configuration[name] for t in trainings}) < 2:
        return None
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
    title = f"{stage}: {view.objective} against {name}"
    return Picture(title, draw(title, paint), shows, told)


def _points(
    axes: Axes,
    axis: Axis,
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


def _frame(axes: Axes, view: SweepView, axis: Axis, places: Sequence[float], values: Sequence[float]) -> None:
    low, high = axis.ends(places)
    axes.set_xlim(low, high)
    axes.set_xticks(*axis.ticks(low, high))
    axes.set_xlabel(axis.label)
    axes.set_ylabel(view.objective)
    plain_numbers(axes, values)


def _marks(
    axes: Axes, view: SweepView, axis: Axis, trainings: Sequence[Training], failed: Sequence[float], *, full: bool
) -> None:
    if not axis.choices:
        for end in view.space[axis.name].searched:
            axes.axvline(end, color=MUTED, linestyle=":", linewidth=1.2)
    best, (noise, _) = view.searched_best, view.noise
    if full and best is not None and best.value is not None:
        if noise:
            axes.axhspan(best.value - noise, best.value + noise, color=GREEN, alpha=0.18, linewidth=0)
        if any(best in t.trials for t in trainings):
            place = axis.at(best.configuration[axis.name])
            axes.plot([place], [best.value], "*", color=GREEN, markersize=12, mew=0, label="best of all")
    for low, high in infeasible_spans(trainings, axis):
        axes.axvspan(low, high, color=RED, alpha=0.1, linewidth=0)
    if failed:
        # On the edge of the axes, whatever the objective's scale.
        axes.plot(failed[:_POINTS], [0.985] * len(failed[:_POINTS]), "x", color=RED, markersize=6, mew=1.4,
                  transform=axes.get_xaxis_transform(), label="infeasible")  # fmt: skip


def infeasible_spans(trainings: Sequence[Training], axis: Axis) -> Sequence[tuple[float, float]]:
    """Stretches of the axis in which every training was infeasible, half way to their feasible neighbours.

    A narrow one between feasible trainings is left out: there it was not the place that made it fail.
    """
    if axis.choices:
        return []
    ended = sorted((axis.at(t.configuration[axis.name]), t.outcome == INFEASIBLE) for t in trainings)
    found: list[tuple[float, float]] = []
    for failed, group in itertools.groupby(range(len(ended)), key=lambda index: ended[index][1]):
        if not failed:
            continue
        places = list(group)
        first, last = ended[places[0]][0], ended[places[-1]][0]
        before = ended[places[0] - 1][0] if places[0] > 0 else None
        after = ended[places[-1] + 1][0] if places[-1] + 1 < len(ended) else None
        if before is None or after is None or last - first >= 2 * _NEAR:
            low = first - _NEAR if before is None else (before + first) / 2
            found.append((low, last + _NEAR if after is None else (last + after) / 2))
    return found


def _read_response(view: SweepView, axis: Axis, points: Sequence[tuple[float, float, Training]], level: int) -> str:
    """In words: where the best lies, how wide the good region is, and whether an end of the range holds it."""
    _, value, training = min(points, key=lambda point: view.direction.cost(point[1]))
    at = training.configuration[axis.name]
    told = f"The best of this stage is at {short(at)} ({view.objective} {value:.4g} after {epochs_text(level)})."
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


def _read_ends(view: SweepView, axis: Axis, value: Value) -> str:
    """Where ``value`` lies at an end of the searched range that may be widened."""
    first, last = view.space[axis.name].searched
    place, near = axis.at(value), 0.02 * (last - first)
    if place < first - near or place > last + near:
        return " That is beyond the range that was given: the search went on where the best lay at its end."
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


def curves(view: SweepView, stage: str) -> Picture | None:
    """The objective against epochs of the stage's trainings; None for fewer than three."""
    every = [t for t in view.by_stage.get(stage, ()) if t.last.curve]
    if len(every) < _FEWEST_CURVES:
        return None
    shown = thinned(every, _CURVES, view)
    values = [value for t in shown for value in t.last.curve.values() if math.isfinite(value)]
    if not values:
        return None
    cap = worst_shown(values, view.direction)
    best = min((t for t in every if t.outcome == FINISHED), key=lambda t: cost_of(t, view), default=None)

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
    title = f"{stage}: learning curves"
    return Picture(title, draw(title, paint), shows, _read_curves(view, every, best))


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
