"""The wheel brings the configuration along and works without the checkout."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert built.returncode == 0, built.stdout + built.stderr
    [found] = out.glob("*.whl")
    return found


def test_the_wheel_holds_the_package_and_its_configuration(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for folder, inside in (("conf", "orchestrator/conf"), ("search_spaces", "orchestrator/search_spaces")):
        files = [path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.yaml")]
        assert files
        assert {f"{inside}/{path.as_posix()}" for path in files} <= names
    assert {"orchestrator/conf/config.yaml", "orchestrator/search_spaces/optimizer.yaml"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"orchestrator"}


def test_the_unpacked_wheel_plans_a_sweep(wheel: Path, tmp_path: Path) -> None:
    installed, elsewhere = tmp_path / "installed", tmp_path / "elsewhere"
    elsewhere.mkdir()
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    code = (
        "import sys, orchestrator; from orchestrator.app.main import main; "
        "print(orchestrator.__file__); sys.exit(main(['stage=lr', 'dry_run=true']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    where, *lines = done.stdout.splitlines()
    assert Path(where).is_relative_to(installed)
    assert "optimizer.lr" in "\n".join(lines)
    assert lines[-1] == "dry run: nothing was started"
    assert list(elsewhere.iterdir()) == []
