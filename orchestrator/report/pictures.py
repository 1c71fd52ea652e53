"""All pictures of a sweep, by the part of the page they belong to; and as files that stand by themselves."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from orchestrator.files import write_text
from orchestrator.report.html import Picture
from orchestrator.report.maps import interactions, rate_map
from orchestrator.report.parallel import parallel_coordinates
from orchestrator.report.stage_charts import curves, response
from orchestrator.report.style import DARK, LIGHT
from orchestrator.report.sweep_charts import best_so_far, importance
from orchestrator.report.view import SweepView
from orchestrator.report.winner_charts import calibration, confusion, dynamics, fit, growth

RESPONSES = 4
"""Response curves of one stage: those of the most important hyperparameters it asked about."""
_TRAININGS_A_PICTURE = 5
"""A stage with fewer trainings for each shows fewer response curves."""
FOLDER = "pictures"
"""Below the sweep's folder: every picture as an SVG file."""

Pictures = Mapping[str, Sequence[Picture]]
"""Key of a part of the page, or ``stage-NAME``, to its pictures."""


def draw_all(view: SweepView) -> Pictures:
    """Every picture there is something to show for."""
    found = {
        "answer": [best_so_far(view)],
        "importance": [importance(view), parallel_coordinates(view), interactions(view)],
        "winner": [dynamics(view), confusion(view), fit(view), calibration(view)],
        "ensemble": [growth(view, entry) for entry in view.finished.values() if "weights" in entry],
    }
    for name in view.by_stage:
        responses = [response(view, name, item) for item in responses_of(view, name)]
        found[f"stage-{name}"] = [*responses, rate_map(view, name), curves(view, name)]
    return {key: [picture for picture in pictures if picture is not None] for key, pictures in found.items()}


def responses_of(view: SweepView, stage: str) -> Sequence[str]:
    """The hyperparameters of which a stage's response is drawn: the most important that it asked about."""
    asked = sorted(view.asked(stage), key=lambda name: -view.importance.get(name, 0.0))
    return asked[: max(1, min(RESPONSES, len(view.by_stage[stage]) // _TRAININGS_A_PICTURE))]


def write_pictures(pictures: Pictures, folder: Path) -> Mapping[str, Sequence[Path]]:
    """Write each as an SVG file below ``folder``; returns the paths by key."""
    written: dict[str, list[Path]] = {}
    for key, some in pictures.items():
        for picture in some:
            name = re.sub(r"[^A-Za-z0-9.]+", "-", picture.title).strip("-").lower()
            path = folder / FOLDER / f"{name}.svg"
            write_text(path, standalone(picture))
            written.setdefault(key, []).append(path)
    return written


def standalone(picture: Picture) -> str:
    """The picture as a file of its own: with its colours, light or dark by what the reader's screen asks for."""
    colours = (
        f"svg{{{LIGHT};background:var(--page);font-family:system-ui,sans-serif}}"
        f"@media (prefers-color-scheme:dark){{svg{{{DARK}}}}}"
    )
    box = re.search(r'viewBox="([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)"', picture.drawn)
    assert box is not None, picture.title
    size = f'xmlns="http://www.w3.org/2000/svg" width="{float(box[3]) * 1.5:.0f}" height="{float(box[4]) * 1.5:.0f}"'
    return picture.drawn.replace("<svg ", f"<svg {size} ", 1).replace(">", f"><style>{colours}</style>", 1) + "\n"
