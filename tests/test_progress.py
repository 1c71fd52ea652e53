"""What the user sees while it runs: on a terminal, and where there is none."""

import io

import pytest

from orchestrator.progress import Progress, cut


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "30")


def shown(stream: io.StringIO) -> str:
    progress = Progress(stream)
    progress.whole = lambda: "sweep 40%, about 3 min left"
    progress.update("[lr] 12 trials done, 2 running, best loss 0.1")
    progress.update("too soon")
    progress.say("[lr] verdict")
    return stream.getvalue()


def test_on_a_terminal_one_line_is_rewritten_and_fits() -> None:
    text = shown(Terminal())
    live, _, rest = text.partition("\r\x1b[2K")
    assert live == "\x1b[1m[lr]\x1b[0m 12 trials done, 2 run..."
    assert len(live.replace("\x1b[1m", "").replace("\x1b[0m", "")) == 29
    assert rest == "\x1b[1m[lr]\x1b[0m verdict\n"


def test_without_a_terminal_there_are_plain_lines() -> None:
    lines = shown(io.StringIO()).splitlines()
    assert lines == ["[lr] 12 trials done, 2 running, best loss 0.1; sweep 40%, about 3 min left", "[lr] verdict"]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_colours_are_left_out_where_they_are_not_wanted(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert "\x1b[1m" not in shown(Terminal())
    assert ("\x1b" in shown(Terminal())) == (name == "NO_COLOR"), "a dumb terminal cannot rewrite a line"


def test_a_line_is_cut_to_the_width() -> None:
    assert cut("abcdef", 6) == "abcdef"
    assert cut("abcdefg", 6) == "abc..."
