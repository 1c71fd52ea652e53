"""The report: one HTML page that stands by itself."""

from pathlib import Path

from orchestrator.files import write_text
from orchestrator.report import sections
from orchestrator.report.html import text
from orchestrator.report.style import STYLE
from orchestrator.report.view import SweepView

REPORT_FILE = "report.html"

_PARTS = (
    ("answer", "What was found", sections.answer),
    ("path", "The recipe as a path", sections.path),
    ("stages", "Stage by stage", sections.stages),
    ("importance", "What mattered", sections.mattered),
    ("preflight", "Preflight", sections.preflight),
    ("ensemble", "Ensemble", sections.ensemble),
    ("cost", "What it cost", sections.cost),
    ("lineage", "How the winner came about", sections.lineage),
    ("reproduce", "How to reproduce it", sections.reproduce),
)
"""Key, title and body of each part; one without anything to say is left out."""


def render(view: SweepView) -> str:
    """The page as text; the same for the same sweep."""
    bodies = [(key, title, body) for key, title, make in _PARTS if (body := make(view))]
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


def write_report(view: SweepView) -> Path:
    """Write the page into the sweep's folder; returns its path."""
    path = view.folder / REPORT_FILE
    write_text(path, render(view))
    return path
