"""The page in a real browser: no errors on its console, nothing wider than the screen, pictures drawn."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_page import SHORT, sweep

from orchestrator.report.page import render
from orchestrator.report.view import view_of

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs a headless browser: Debian's package chromium")

PROBE = """<script>
const errors = [];
window.addEventListener("error", e => errors.push(String(e.message || e.target.outerHTML)), true);
window.addEventListener("load", () => {
  const wide = [...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, svg")
    && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1);
  const svgs = [...document.querySelectorAll("figure svg")].map(e => e.getBoundingClientRect());
  const found = {errors, width: document.documentElement.clientWidth, scroll: document.documentElement.scrollWidth,
    wide: wide.map(e => e.outerHTML.slice(0, 200)), pictures: svgs.length,
    flat: svgs.filter(r => r.width < 200 || r.height < 60).length,
    dark: getComputedStyle(document.body).backgroundColor};
  document.body.innerHTML = "";
  document.title = "found" + JSON.stringify(found) + "end";
});
</script>"""
"""Put into a copy of the page; the browser's DOM then holds what it measured."""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    return render(view_of(sweep(tmp_path_factory.mktemp("sweep"), "stage=all", *SHORT)))


def opened(page: str, folder: Path, width: int, *flags: str) -> tuple[dict, str]:
    """What the probe measured at ``width`` pixels, and the browser's console.

    Headless Chromium has no window narrower than 500 pixels, so the page lies in a frame of that width.
    """
    (folder / "page.html").write_text(page.replace("<title>", PROBE + "<title>", 1), encoding="utf-8")
    frame = f'<iframe src="page.html" style="width:{width}px;height:3000px;border:0"></iframe>'
    reader = (
        "<script>addEventListener('load', () => {document.title = frames[0].document.title;"
        "document.body.textContent = document.title})</script>"
    )
    (folder / "outer.html").write_text(f"<!doctype html><meta charset=utf-8>{reader}<body>{frame}", encoding="utf-8")
    assert CHROMIUM is not None
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500) + 60},3000",
         "--enable-logging=stderr",
         "--allow-file-access-from-files", "--hide-scrollbars", "--virtual-time-budget=5000", *flags, "--dump-dom",
         (folder / "outer.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    found = re.search(r"<title>found(\{.*\})end</title>", done.stdout)
    assert found, done.stdout[:500] + done.stderr[-2000:]
    console = "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)
    return json.loads(found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")), console


@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_the_screen_without_errors(page: str, tmp_path: Path, width: int) -> None:
    found, console = opened(page, tmp_path, width)
    assert found["width"] == width
    assert found["errors"] == []
    assert console == ""
    assert found["scroll"] <= width, found["wide"][:3]
    assert found["wide"] == []
    assert found["pictures"] == page.count("<svg")
    assert found["flat"] == 0


def test_the_probe_sees_what_is_too_wide_and_what_fails(page: str, tmp_path: Path) -> None:
    broken = page.replace("<main>", '<main><div style="width:900px">x</div><script>nothing()</script>', 1)
    found, console = opened(broken, tmp_path, 400)
    assert found["scroll"] > 400
    assert found["wide"]
    assert "nothing is not defined" in found["errors"][0] + console
