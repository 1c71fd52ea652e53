"""Maps of the objective over two hyperparameters: the learning-rate window of a stage, and pairs that interact."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from numpy.typing import NDArray

from orchestrator.report.axes import Axis, epochs_text
from orchestrator.report.drawing import GRID, INK, RED, draw, draw_figure
from orchestrator.report.html import Picture
from orchestrator.report.view import ASIDE, INFEASIBLE, SweepView, Training

_CELLS = (8, 7)
"""Columns and rows of a map."""
_PAIRED = 4
"""Hyperparameters of which pairs are looked at: the most important ones (our choice)."""
_MAPS = 6
_INTERACTS = 0.03
"""Share explained only together from which a pair is said to interact. Our guess."""
_CLEAR = 10.0
"""F below which a product term is taken for chance: about one pair in 500 (F distribution, 1 and 50 degrees)."""
_FEWEST_FITTED = 30
"""Trainings below which no share is given: five for each of the fit's six terms (rule of thumb)."""


def rate_map(view: SweepView, stage: str) -> Picture | None:
    """The best objective over the stage's hyperparameter and the learning rate; None where it was not
    tuned again."""
    trainings = view.by_stage.get(stage, ())
    asked = view.asked(stage)
    if "optimizer.lr" not in view.space or "optimizer.lr" in asked or not asked or len(trainings) < 6:
        return None
    name = max(asked, key=lambda n: len({t.configuration[n] for t in trainings}))
    across, up = Axis(view, name), Axis(view, "optimizer.lr")
    level = view.common_epoch(trainings)
    if not level or any(len({t.configuration[n] for t in trainings}) < 3 for n in (name, "optimizer.lr")):
        return None

    def paint(axes: Axes) -> None:
        _cells(axes, view, trainings, (across, up), level)

    told = (
        f"Each cell holds the best {view.objective} within {epochs_text(level)} (an epoch that at least half of the "
        "trainings reached) of all trainings in it; blank: nothing was tried. Red crosses: infeasible. Star: "
        "the best "
        "of the sweep."
    )
    ideal = (
        "If the good cells form a slope, the two must be tuned together; if they form an upright or a level "
        "band, one "
        "does not depend on the other. Good cells at an edge of the map ask for a wider window."
    )
    title = f"{stage}: {name} and optimizer.lr"
    return Picture(title, draw(title, paint, right=0.6), told, ideal)


def interactions(view: SweepView) -> Picture | None:
    """Maps of the pairs among the most important hyperparameters; None with fewer than two of them."""
    trainings = [t for t in view.trainings if t.outcome not in ASIDE]
    level = view.common_epoch(trainings)
    names = [n for n in view.importance if len({t.configuration[n] for t in trainings}) > 2][:_PAIRED]
    pairs = list(itertools.combinations(names, 2))
    if not level or not pairs:
        return None
    shares = {pair: joint_share(view, trainings, pair, level) for pair in pairs}
    shown = sorted(pairs, key=lambda pair: -(shares[pair] or 0.0))[:_MAPS]
    rows = -(-len(shown) // 2)
    height = 0.35 + 2.45 * rows

    def paint(figure: Figure) -> None:
        figure.subplots_adjust(
            left=0.14, right=0.975, bottom=0.52 / height, top=1 - 0.3 / height, wspace=0.48, hspace=0.42
        )
        for place, pair in enumerate(shown, start=1):
            axes = figure.add_subplot(rows, 2, place, facecolor="none")
            both = (Axis(view, pair[0]), Axis(view, pair[1]))
            _cells(axes, view, trainings, both, level, bar=False)
            axes.tick_params(labelsize=7.5)
            for ticks in (axes.xaxis, axes.yaxis):
                labels = ticks.get_ticklabels()
                for index, label in enumerate(labels):
                    label.set_visible(len(labels) < 5 or index % 2 == 0)
            axes.xaxis.label.set_fontsize(8.5)
            axes.yaxis.label.set_fontsize(8.5)
            share = shares[pair]
            axes.set_title("too few to say" if share is None else f"together {share:.0%}", fontsize=8.5, pad=3)

    title = "pairs of hyperparameters"
    shows = (
        f"The best {view.objective} within {epochs_text(level)} over pairs of the most important hyperparameters: "
        "brighter is better, blank was not tried, red crosses are infeasible, the star is the best of the "
        "sweep. Above "
        "each map: the share of the order of the better trainings that only both together explain (the product "
        "term of a quadratic fit to the ranks of the better half)."
    )
    known = {pair: share for pair, share in shares.items() if share is not None}
    return Picture(title, draw_figure(title, paint, height=height), shows, _read_pairs(known))


def _read_pairs(shares: Mapping[tuple[str, str], float]) -> str:
    strong = [pair for pair in sorted(shares, key=lambda p: -shares[p]) if shares[pair] >= _INTERACTS]
    if strong:
        listed = ", ".join(f"{one} with {other} ({shares[one, other]:.0%})" for one, other in strong[:3])
        return f"These must be tuned together: {listed}. Good cells on a slope say the same."
    if not shares:
        return "Too few trainings to tell pairs apart; look whether good cells lie on a slope."
    return (
        "No pair stands out beyond chance. Trials were not drawn evenly, and a stage tries little of what "
        "it does not "
        "ask about: take it as a hint, not as proof that each can be judged by itself."
    )


def joint_share(view: SweepView, trainings: Sequence[Training], pair: tuple[str, str], level: int) -> float | None:
    """Share of the variance of ranks that the product of two unit coordinates explains beyond a quadratic in each.

    Looked at is the better half of the trainings: far from the optimum one bad value decides alone. On a simulated
    sweep of 1,000 trials in which only learning rate and batch size interact, that pair had 5 % and the others 0.

    Returns:
        None with fewer than ``_FEWEST_FITTED`` trainings in that half; 0 where chance would do as much (F below
        ``_CLEAR``).
    """
    known = [(view.direction.cost(value), t) for t in trainings if (value := t.best_by(level)) is not None]
    half = sorted(known, key=lambda item: item[0])[: -(-len(known) // 2)]
    if len(half) < _FEWEST_FITTED:
        return None
    ranks = np.arange(len(half), dtype=float)
    x, z = (np.array([Axis(view, name).at(t.configuration[name]) for _, t in half]) for name in pair)
    x, z = x - x.mean(), z - z.mean()
    alone = np.stack([np.ones_like(x), x, x**2, z, z**2], axis=1)
    left = [_residual(design, ranks) for design in (alone, np.column_stack([alone, x * z]))]
    gained = left[0] - left[1]
    if gained * (len(half) - 6) < _CLEAR * left[1]:
        return 0.0
    return gained / float(((ranks - ranks.mean()) ** 2).sum())


def _residual(design: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Sum of squares that a least-squares fit leaves."""
    weights = np.linalg.lstsq(design, target, rcond=None)[0]
    return float(((target - design @ weights) ** 2).sum())


def _cells(
    axes: Axes,
    view: SweepView,
    trainings: Sequence[Training],
    both: tuple[Axis, Axis],
    level: int,
    *,
    bar: bool = True,
) -> None:
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
    if bar:
        _bar(axes, mesh, f"{view.objective} by epoch {level}", logarithmic=norm is not None)
    if failed:
        axes.plot(*np.array(failed).T, "x", color=RED, mew=1.4)
    best = view.searched_best
    if best is not None and any(best in t.trials for t in trainings):
        place = [axis.at(best.configuration[axis.name]) for axis in both]
        axes.plot(*place, "*", color=INK, markersize=12)
    axes.set_xticks(*both[0].ticks(*spans[0]))
    axes.set_yticks(*both[1].ticks(*spans[1]))
    axes.set_xlabel(both[0].label)
    axes.set_ylabel(both[1].label)
    axes.grid(False)


def _bar(axes: Axes, mesh: QuadMesh, label: str, *, logarithmic: bool) -> None:
    bar = axes.figure.colorbar(mesh, ax=axes, label=label, format=lambda v, _: f"{v:.3g}")
    if logarithmic:
        bar.set_ticks(LogLocator(subs=(1.0, 2.0, 5.0)))
    bar.minorticks_off()
    bar.outline.set_visible(False)


def _span(axis: Axis, places: Sequence[float]) -> tuple[float, float]:
    if axis.choices:
        return -0.5, len(axis.choices) - 0.5
    pad = 0.03 * (max(places) - min(places))
    return min(places) - pad, max(places) + pad
