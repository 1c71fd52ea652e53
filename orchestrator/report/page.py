"""The report: one HTML page that stands by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.files import write_text
from orchestrator.report import committee, outcome, sections
from orchestrator.report.html import text
from orchestrator.report.pictures import Pictures, draw_all, write_pictures
from orchestrator.report.style import STYLE
from orchestrator.report.view import SweepView

REPORT_FILE = "report.html"

_PARTS = (
    ("answer", "What was found", sections.answer),
    ("path", "The recipe as a path", sections.path),
    ("stages", "Stage by stage", sections.stages),
    ("importance", "What mattered", outcome.mattered),
    ("winner", "What the winner predicts", outcome.winner),
    ("finalists", "Finalists", outcome.finalists),
    ("ensemble", "Ensemble", outcome.ensemble),
    ("ship", "What to ship", committee.ship),
    ("cost", "What it cost", outcome.cost),
    ("preflight", "Preflight", outcome.preflight),
    ("lineage", "How the winner came about", outcome.lineage),
    ("reproduce", "How to reproduce it", outcome.reproduce),
)
"""Key, title and body of each part; one without anything to say is left out."""


def render(view: SweepView, pictures: Pictures | None = None) -> str:
    """The page as text; the same for the same sweep. ``pictures``: those of :func:`draw_all`, if they are drawn."""
    drawn = draw_all(view) if pictures is None else pictures
    bodies = [(key, title, body) for key, title, make in _PARTS if (body := make(view, drawn))]
    links = "".join(f'<a href="#{key}">{text(title)}</a>' for key, title, _ in bodies)
    parts = "".join(f'<section id="{key}"><h2>{text(title)}</h2>\n{body}</section>\n' for key, title, body in bodies)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{text(view.name)}: report</title>\n<link rel="icon" href="data:,">\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<header>{sections.head(view)}</header>\n"
        f"<nav>{links}</nav>\n<main>\n{parts}</main>\n"
        "<footer>Everything on this page is on validation data unless it says test. The page needs no network; "
        "python run.py stage=report writes it again.</footer>\n</body>\n</html>\n"
    )


@dataclass(frozen=True)
class Report:
    """What was written."""

    page: Path
    pictures: Mapping[str, Sequence[Path]]
    """By part of the page, or ``stage-NAME``."""


def write_report(view: SweepView) -> Report:
    """Write the page and its pictures into the sweep's folder."""
    path, pictures = view.folder / REPORT_FILE, draw_all(view)
    write_text(path, render(view, pictures))
    return Report(path, write_pictures(pictures, view.folder))
