"""The regret plot: mean regret against what was spent, a panel for each setting."""

from pathlib import Path

import matplotlib as mpl
import numpy as np

from search_methods.results import EPOCHS_PER_FT, Row
from search_methods.tables import Pairing, Setting

FLOOR = 1e-3  # regret below which the axis ends


def draw(settings: dict[Setting, dict[str, dict[Pairing, Row]]], product: str, path: Path) -> None:
    """Write a PNG to ``path``; the line of ``product`` is black and thick, a band is two standard errors."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, len(settings), figsize=(5.5 * len(settings), 4.5), sharey=True, squeeze=False)
    names = sorted({name for methods in settings.values() for name in methods})
    colours = {name: plt.get_cmap("tab20")(index % 20) for index, name in enumerate(names)}
    for panel, (setting, methods) in zip(panels[0], settings.items(), strict=True):
        for name, rows in sorted(methods.items()):
            style = {"color": "black", "lw": 2.5} if name == product else {"color": colours[name], "lw": 1.3}
            times, mean, error = mean_curve(rows, setting)
            panel.plot(times, np.maximum(mean, FLOOR), label=name, **style)
            low, high = np.maximum(mean - 2 * error, FLOOR), np.maximum(mean + 2 * error, FLOOR)
            panel.fill_between(times, low, high, color=style["color"], alpha=0.08, lw=0)
        unit = "full trainings" if setting.workers == 1 else "simulated time (full trainings of one worker)"
        panel.set(title=str(setting), xlabel=unit, xscale="log", yscale="log")
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, loc="lower left")
    panels[0][0].set_ylabel("mean normalised regret")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def mean_curve(rows: dict[Pairing, Row], setting: Setting) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Times in full trainings, mean regret there, and its standard error over instances; each of shape (n,)."""
    end = max(row.max_ft for row in rows.values()) / setting.workers
    times = np.geomspace(max(0.2, 1 / EPOCHS_PER_FT), end, 150)
    curves: dict[str, list[np.ndarray]] = {}
    for (instance, _), row in rows.items():
        curves.setdefault(instance, []).append(row.regret_by_time(times * EPOCHS_PER_FT))
    means = np.array([np.mean(group, axis=0) for group in curves.values()])
    return times, means.mean(axis=0), means.std(axis=0) / np.sqrt(len(means))
