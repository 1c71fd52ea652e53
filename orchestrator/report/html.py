"""Pieces of HTML. Whatever comes from outside passes :func:`text`, which escapes it and masks secrets."""

import html
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.masking import mask


def text(value: object) -> str:
    """``value`` as text of a page."""
    return html.escape(mask(str(value)))


def paragraph(value: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(kind)}>{text(value)}</p>"


def bullets(values: Sequence[str]) -> str:
    """A list of plain texts; nothing for no texts."""
    return "<ul>" + "".join(f"<li>{text(value)}</li>" for value in values) + "</ul>" if values else ""


def table(rows: Sequence[Sequence[object]], kind: str = "") -> str:
    """Rows of plain text; the first row and the first column are headings. It scrolls by itself if too wide."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in rows[0])
    body = "".join(
        f'<tr><th scope="row">{text(row[0])}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows[1:]
    )
    return (
        f'<div class="scroll" tabindex="0"><table{_class(kind)}><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def details(summary: str, body: str) -> str:
    """``body`` (HTML), folded away under a line of plain text."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>"


def code(value: str) -> str:
    """A block of plain text as it is."""
    return f'<pre tabindex="0">{text(value)}</pre>'


@dataclass(frozen=True)
class Picture:
    """A picture with what it shows and what to conclude, in plain words."""

    title: str
    drawn: str
    """An ``<svg>`` or ``<img>`` element."""
    shows: str
    conclude: str
    wide: bool = False
    """Whether it takes the whole width of the page."""


def figure(picture: Picture) -> str:
    """A picture and its words."""
    told = f"<p><b>What it shows.</b> {text(picture.shows)}</p>"
    told += f"<p><b>What to conclude.</b> {text(picture.conclude)}</p>" if picture.conclude else ""
    kind = _class("wide" if picture.wide else "")
    return f"<figure{kind}>{picture.drawn}<figcaption>{told}</figcaption></figure>"


def figures(pictures: Sequence[Picture]) -> str:
    """Pictures side by side where there is room; nothing for none."""
    return f'<div class="figures">{"".join(map(figure, pictures))}</div>' if pictures else ""


def section(key: str, title: str, body: str) -> str:
    """A part of the page that a link can name."""
    return f'<section id="{text(key)}"><h2>{text(title)}</h2>{body}</section>'


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""
