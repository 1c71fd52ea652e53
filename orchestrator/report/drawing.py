"""From a matplotlib figure to an SVG inside the page, in the page's own colours and type.

matplotlib, because it is there already and draws SVG: a page of such pictures is well below a megabyte, needs
no script (so MLflow's artifact viewer and a printer show it as it is) and follows light and dark by itself.
plotly's library alone would add 4 to 5 megabytes of script to every page.
"""

import io
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from orchestrator.report.html import text
from orchestrator.study.space import Hyperparameter
from orchestrator.types import Direction, Value

INK, MUTED, GRID = "#010203", "#020304", "#030405"
BLUE, ORANGE, GREEN, RED, PURPLE = "#040506", "#050607", "#060708", "#070809", "#08090a"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    BLUE: "--c1",
    ORANGE: "--c2",
    GREEN: "--c3",
    RED: "--c4",
    PURPLE: "--c5",
}
"""Colours that stand for a variable of the style sheet until the SVG is written."""
_SETTINGS: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.unicode_minus": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "grid.color": GRID,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.0,
}
_SIZE = (5.4, 3.5)
"""Inches: small enough that its type stays readable on a phone."""


def draw(
    name: str, paint: Callable[[Axes], None], *, height: float = _SIZE[1], left: float = 0.78, right: float = 0.14
) -> str:
    """One picture as an ``<svg>`` element.

    Args:
        name: what it is, for those who cannot see it; the ids inside are derived from it.
        paint: draws on the axes.
        height: in inches; the width is that of all pictures.
        left: inches for the labels on the left.
        right: inches on the right; the labels of a colour bar need 0.6.
    """

    def whole(figure: Figure) -> None:
        # Margins in inches; a layout engine would draw everything twice.
        ends = {"left": left / _SIZE[0], "right": 1 - right / _SIZE[0]}
        figure.subplots_adjust(**ends, bottom=0.52 / height, top=1 - 0.32 / height)
        paint(figure.add_subplot(facecolor="none"))

    return draw_figure(name, whole, height=height)


def draw_figure(name: str, paint: Callable[[Figure], None], *, height: float = _SIZE[1]) -> str:
    """As :func:`draw`, for a picture with axes of its own making; those want ``facecolor="none"``."""
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(_SIZE[0], height), facecolor="none")
        paint(figure)
        written = io.StringIO()
        FigureCanvasSVG(figure).print_svg(written, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return _inline(written.getvalue(), name)


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<style type="text/css">.*?</style>', "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*", "font-family: inherit", svg)
    svg = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 system-ui, sans-serif", svg)
    box = re.search(r'viewBox="[^"]*"', svg)
    assert box is not None
    svg = re.sub(r"<svg [^>]*>", f'<svg {box[0]} role="img" aria-label="{text(name)}">', svg, count=1)
    svg = svg.replace("xlink:href", "href")
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var({variable})")
    return re.sub(r"\n\s*", "\n", svg)


def legend(axes: Axes) -> None:
    """The legend above the axes, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=5, borderaxespad=0.2)


def plain_numbers(axes: Axes, values: Sequence[float]) -> None:
    """Scale and ticks of the objective: in logarithms where positive values span more than a factor of 8."""
    shown = [value for value in values if math.isfinite(value)]
    if shown and min(shown) > 0 and max(shown) > 8 * min(shown):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
        axes.yaxis.set_minor_locator(LogLocator(subs=(), numticks=2))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))


def worst_shown(values: Sequence[float], direction: Direction) -> float:
    """The worst value that a picture shows in its place, so that a few very bad ones do not flatten the rest.

    The 80th percentile of costs and half the way from the best to it again (our guess).
    """
    costs = np.array([direction.cost(value) for value in values])
    cap = float(np.percentile(costs, 80))
    if costs.min() > 0:
        cap = cap * math.sqrt(cap / float(costs.min()))
    else:
        cap += 0.5 * (cap - float(costs.min()))
    return direction.cost(min(cap, float(costs.max())))


def unit_ticks(item: Hyperparameter, low: float, high: float) -> list[Value]:
    """Round values of a hyperparameter between two unit coordinates, at most about seven."""
    first, last = float(item.from_unit(low)), float(item.from_unit(high))
    if item.config.scale == "log" and item.config.type == "int":
        values = [2.0**power for power in range(24)]
    elif item.config.scale == "log":
        values = [digit * 10.0**power for power in range(-12, 9) for digit in (1, 2, 5)]
        if last > 200 * max(first, item.config.hard_limits[0]):
            values = values[::3]
    elif item.config.scale == "log_complement":
        values = [0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999]
    else:
        values = list(MaxNLocator(5, integer=item.config.type == "int").tick_values(first, last))
    inside = [value for value in values if first * (1 - 1e-9) <= value <= last * (1 + 1e-9)]
    inside = inside[:: max(1, math.ceil(len(inside) / 7))]
    zero = [0.0] if item.config.zero and low <= 0 and 0.0 not in inside else []
    if zero:
        # It lies where the lower limit does.
        inside = [value for value in inside if value > item.config.hard_limits[0]]
    return [*zero, *inside]
