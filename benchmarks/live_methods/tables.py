"""What the runs say: epochs and seconds to target, and how many times fewer ours needs than the best peer."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from live_methods.jobs import Run
from live_methods.pool import Target

OURS = "ours"
Measure = Callable[[Run], float]


@dataclass(frozen=True)
class Cell:
    """One method on one task: the median over its seeds, counting a run without the target as longer than any."""

    median: float
    """Infinite if half of the runs, or more, did not reach the target."""
    reached: int
    runs: int
    beyond: float
    """Where the runs that missed were given up, at the earliest; infinite if none missed."""

    def __str__(self) -> str:
        shown = f"{self.median:.0f}" if math.isfinite(self.median) else f">{self.beyond:.0f}"
        return f"{shown} ({self.reached}/{self.runs})"


def cell(runs: Sequence[Run], measure: Measure, last: Measure) -> Cell | None:
    """The cell of some runs; None if there are none."""
    if not runs:
        return None
    values = [measure(run) for run in runs]
    missed = [last(run) for run, value in zip(runs, values, strict=True) if not math.isfinite(value)]
    return Cell(statistics.median(values), len(runs) - len(missed), len(runs), min(missed, default=math.inf))


def last_epochs(run: Run) -> float:
    """Where a run was given up, in epochs."""
    return run.reports[-1].epochs if run.reports else 0.0


def last_seconds(run: Run) -> float:
    """Where a run was given up, in seconds."""
    return run.reports[-1].seconds if run.reports else 0.0


Cells = Mapping[tuple[str, str], Cell]
"""By task and method."""


def cells(runs: Sequence[Run], measure: Measure, last: Measure) -> dict[tuple[str, str], Cell]:
    found = {}
    for key in dict.fromkeys((run.task, run.method) for run in runs):
        own = cell([run for run in runs if (run.task, run.method) == key], measure, last)
        assert own is not None
        found[key] = own
    return found


@dataclass(frozen=True)
class Ratio:
    """How many times more the best peer needs than ours."""

    value: float
    bound: str
    """'>=' if the peers' figure is only a lower bound, '<=' if ours is; empty if both are known."""

    def __str__(self) -> str:
        return f"{self.bound}{self.value:.2f}"


def ratio(found: Cells, task: str, methods: Sequence[str]) -> Ratio | None:
    """The ratio of a task; None where ours or every peer is missing, or both missed the target."""
    ours = found.get((task, OURS))
    peers = [found[task, name] for name in methods if name != OURS and (task, name) in found]
    if ours is None or not peers:
        return None
    best = min(peers, key=lambda item: (item.median, -item.beyond))
    if math.isfinite(ours.median) and math.isfinite(best.median):
        return Ratio(best.median / ours.median, "")
    if math.isfinite(ours.median):
        return Ratio(min(peer.beyond for peer in peers) / ours.median, ">=")
    if math.isfinite(best.median):
        return Ratio(best.median / ours.beyond, "<=")
    return None


def to_target(found: Cells, tasks: Sequence[str], methods: Sequence[str], random: Mapping[str, float]) -> str:
    """A row for each task: random search on the pool (if given), each method, and the ratio."""
    rows = [["task", *(["random"] if random else []), *methods, "best peer / ours"]]
    ratios = []
    for task in tasks:
        own = ratio(found, task, methods)
        ratios += [own] if own is not None else []
        shown = [str(found.get((task, name), "-")) for name in methods]
        rows.append([task, *([f"{random[task]:.0f}"] if random else []), *shown, str(own or "-")])
    text = table(rows)
    if ratios:
        middle = statistics.median(item.value for item in ratios)
        sure = " (bounds taken as values)" if any(item.bound for item in ratios) else ""
        text += f"\nmedian ratio over {len(ratios)} tasks: {middle:.2f}{sure}"
    return text


def target_table(targets: Mapping[str, Target], facts: Mapping[str, Sequence[str]]) -> str:
    """The targets with what is known of their error, and ``facts`` of the pools under their own heading."""
    rows = [["task", "target", "5 %", "95 %", "reached by", "random matches default", *facts["heading"]]]
    for task, item in targets.items():
        shown = [f"{value:.4f}" for value in (item.loss, item.low, item.high)]
        rows.append([task, *shown, str(item.reaching), f"{item.default_needs:.1f}", *facts[task]])
    return table(rows)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(word.rjust(width) for word, width in zip(row, widths, strict=True)) for row in rows)
