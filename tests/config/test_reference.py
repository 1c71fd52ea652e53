"""The reference in docs/ is what the schema says now."""

from pathlib import Path

from orchestrator.config.reference import reference

PAGE = Path(__file__).resolve().parents[2] / "docs" / "configuration.md"


def test_the_page_is_not_stale() -> None:
    again = "python -m orchestrator.config.reference > docs/configuration.md"
    assert PAGE.read_text(encoding="utf-8") == reference(), f"the schema or the YAML changed: {again}"


def test_every_setting_says_what_it_is() -> None:
    rows = [line.split(" | ") for line in reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 150
    silent = [row[0] for row in rows if len(row) == 4 and len(row[3].strip(" |")) < 5]
    assert not silent
