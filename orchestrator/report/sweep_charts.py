"""The pictures of the whole sweep: best so far against what it cost, and what mattered."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from orchestrator.report.drawing import BLUE, GREEN, GRID, INK, MUTED, draw, legend, plain_numbers
from orchestrator.report.html import Picture
from orchestrator.report.view import SweepView
from orchestrator.stages.visits import stage_of
from orchestrator.study.records import searched

_BARS = 12
"""Hyperparameters in the picture of importance."""


def incumbents(view: SweepView) -> Sequence[tuple[int, float, int]]:
    """Epochs paid until then, objective and trial number of each best so far, in the order of trial numbers."""
    found: list[tuple[int, float, int]] = []
    spent = 0
    for record in searched(view.records):
        spent += record.epochs_paid
        value = record.value
        if value is None or not record.feasible or record.repeats is not None:
            continue
        if not found or view.direction.better(value, found[-1][1]):
            found.append((spent, value, record.number))
    return found


def best_so_far(view: SweepView) -> Picture | None:
    """The best finished training against epochs paid; None before the first."""
    steps = incumbents(view)
    if not steps:
        return None
    total = sum(record.epochs_paid for record in searched(view.records))

    def paint(axes: Axes) -> None:
        _spans(axes, view)
        xs = [epochs for epochs, _, _ in steps]
        ys = [value for _, value, _ in steps]
        axes.step(
            [*xs, max(total, xs[-1])], [*ys, ys[-1]], where="post", color=BLUE, linewidth=2, label="best so far"
        )
        axes.plot(xs, ys, "o", color=BLUE, markersize=4)
        noise, _ = view.noise
        if noise:
            axes.axhspan(ys[-1] - noise, ys[-1] + noise, color=GREEN, alpha=0.18, linewidth=0, label="seed noise")
        axes.set_xlim(0, total * 1.02)
        axes.set_xlabel("epochs paid by the whole search")
        axes.set_ylabel(view.objective)
        plain_numbers(axes, ys)
        legend(axes)

    half = next((epochs for epochs, value, _ in steps if value == steps[-1][1]), total)
    shows = (
        f"The best {view.objective} of a training that ran to its end, against all epochs paid so far, stopped and "
        "failed ones included. Shaded stripes: one visit of a stage each."
    )
    told = f"The best was there after {half} of {total} epochs ({half / max(total, 1):.0%})."
    late = half > 0.85 * total
    told += " It was still improving near the end: a larger budget may pay." if late else (
        " What came after did not improve it: a smaller budget would have done, or what was searched is exhausted."
        if half < 0.5 * total else "")  # fmt: skip
    title = "best so far against epochs"
    return Picture(title, draw(title, paint), shows, told)


def _spans(axes: Axes, view: SweepView) -> None:
    """A stripe behind every second visit, with the stage's name where there is room."""
    spent, begin, number = 0, 0, 0
    total = sum(record.epochs_paid for record in view.records) or 1
    for index, record in enumerate(view.records):
        spent += record.epochs_paid
        last = index + 1 == len(view.records)
        if last or view.records[index + 1].stage != record.stage:
            if number % 2 == 0:
                axes.axvspan(begin, spent, color=GRID, alpha=0.35, linewidth=0)
            name = stage_of(record.stage)
            # Where there is room, and where the line is not: it falls from left to right, or rises.
            if begin and spent - begin > 0.018 * len(name) * total:
                top = view.direction.cost(1.0) > 0
                place = (begin + spent) / 2, 0.97 if top else 0.03
                axes.text(*place, name, color=MUTED, ha="center", fontsize=8.5,
                          va="top" if top else "bottom", transform=axes.get_xaxis_transform())  # fmt: skip
            begin, number = spent, number + 1


def importance(view: SweepView) -> Picture | None:
    """Optuna's importance of each hyperparameter; None where there are too few finished trials."""
    shares = dict(list(view.importance.items())[:_BARS])
    if not shares:
        return None

    def paint(axes: Axes) -> None:
        names = list(shares)[::-1]
        bars = axes.barh(names, [shares[name] for name in names], color=BLUE, height=0.7)
        axes.bar_label(bars, [f"{shares[name]:.0%}" for name in names], padding=3, color=INK, fontsize=9.5)
        axes.set_xlim(0, max(shares.values()) * 1.15)
        axes.xaxis.set_visible(False)
        axes.spines["bottom"].set_visible(False)
        axes.grid(False)

    first = next(iter(shares))
    shows = (
        "How much each hyperparameter explains which trainings were good (Optuna's mean decrease in impurity), all "
        "compared after as many epochs as at least half of them reached; infeasible ones count as worst."
    )
    told = (
        f"{first} mattered most ({shares[first]:.0%}). Trials were not drawn evenly and are compared early, so read "
        "this as a hint: what was searched in narrow windows only may matter more than it seems."
    )
    title = "importance of hyperparameters"
    return Picture(title, draw(title, paint, height=0.9 + 0.3 * len(shares), left=2.1), shows, told)
