"""Files that cannot be written, or that come back damaged: named, and nothing lost or begun anew in silence."""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orchestrator.app.main import main
from orchestrator.study.storage import open_journal, quiet_optuna

TASK = """
import os
import torch
from torch import nn
from torch.utils.data import TensorDataset
from orchestrator import ClassificationTask, Splits


class Tiny(ClassificationTask):
    def splits(self):
        inputs = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
        targets = (inputs[:, 0] > 0).long()
        return Splits(*(TensorDataset(inputs[i::3], targets[i::3]) for i in range(3)))

    def model(self):
        network = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
        # Makes checkpoints large; nothing depends on it.
        network.register_buffer("padding", torch.zeros(int(os.environ.get("PADDING", 1))))
        return network
"""
WORDS = [
    *("stage=lr", "task=custom", "task.name=tiny", "task._target_=tiny_task.Tiny", "runner=local", "tracking=none"),
    *("trainer.epochs=27", "trainer.checkpoint_epochs=1", "n_trials=6"),
]


STUDY_FAILS = 18_000
"""Bytes of a file with which the study is the first to grow beyond: in the middle of a trial."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the undisturbed command."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny_task.py").write_text(TASK)
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main(WORDS) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tiny_task.py").write_text(TASK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sweep(finished: Path, folder: Path) -> Path:
    """A copy of the finished sweep, to be damaged."""
    return Path(shutil.copytree(finished / "sweeps" / "tiny-seed0", folder / "sweeps" / "tiny-seed0"))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """The kernel writes no file of this process beyond ``size`` bytes: it fails half way, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def trials(folder: Path) -> list[object]:
    """What a sweep's study holds, but for the times."""
    quiet_optuna()
    storage = open_journal(folder / "sweeps" / "tiny-seed0" / "study.journal", writable=False)
    [study] = storage.get_all_studies()
    found = storage.get_all_trials(study._study_id)
    return [
        (t.number, t.state, t.user_attrs["configuration"], t.user_attrs["seed"], t.intermediate_values) for t in found
    ]


def metrics(folder: Path) -> dict[str, list[int]]:
    """The epochs in each trial's logbook file."""
    paths = sorted(folder.glob("sweeps/*/trials/*/metrics.jsonl"))
    return {p.parent.name: [json.loads(line)["epoch"] for line in p.read_text().splitlines()] for p in paths}


def complaint(capsys: pytest.CaptureFixture[str], words: list[str] = WORDS, code: int = 1) -> str:
    capsys.readouterr()
    assert main(words) == code
    error = capsys.readouterr().err
    assert error.startswith("orchestrator: ")
    assert error.count("\n") == 1, error
    return error


@pytest.mark.parametrize(
    ("size", "what"), [(900, "ledger.json"), (STUDY_FAILS, "study.journal"), (20_000, "checkpoint.pt")]
)
def test_a_disk_that_fills_up_stops_the_command_and_the_next_one_goes_on(
    size: int,
    what: str,
    finished: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PADDING", "9000" if what == "checkpoint.pt" else "1")
    with largest_file(size):
        error = complaint(capsys)
    assert f"{what}: cannot be written" in error
    assert "cannot be written: File too large; make room or mend it, and run the same command again" in error
    assert str(folder) in error
    assert not list(folder.rglob("*.tmp"))
    assert main(WORDS) == 0
    assert trials(folder) == trials(finished)
    assert metrics(folder) == metrics(finished)


def test_a_place_that_is_no_folder_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "file").write_text("")
    for place in ("file", "file/below"):
        error = complaint(capsys, [*WORDS, f"sweep.dir={place}"], code=2)
        assert "cannot be written: " in error
        assert "give a folder that can be: sweep.dir=FOLDER" in error


READ_ONLY = """
import ctypes, os, sys
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
from orchestrator.files import exclusive_lock, write_text
from orchestrator.errors import OrchestratorError
from pathlib import Path
for act in (lambda: exclusive_lock(Path("fixed/mine/lock")).__enter__(), lambda: write_text(Path("fixed/f"), "")):
    try:
        act()
    except OrchestratorError as error:
        print(type(error).__name__, error)
"""


def test_a_folder_of_somebody_else_is_named(tmp_path: Path) -> None:
    """As a user who is not root, even where the tests run as root."""
    (tmp_path / "fixed").mkdir(mode=0o555)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_uid == os.geteuid():
            folder.chmod(0o555 if folder.name == "fixed" else 0o755)
    code = f"import os; os.chdir({str(tmp_path)!r})\n{READ_ONLY}"
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}); import orchestrator.files\n{code}"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    lock, text = done.stdout.splitlines()
    assert lock.startswith("ConfigError fixed/mine: cannot be written: Permission denied; give a folder")
    assert text.startswith("StorageError fixed/f: cannot be written: Permission denied; make room or mend it")


def test_half_lines_are_cut_off(finished: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A power loss in the middle of writing."""
    with largest_file(STUDY_FAILS):
        complaint(capsys)
    sweep = folder / "sweeps" / "tiny-seed0"
    [*_, running] = sorted(sweep.glob("trials/*/metrics.jsonl"))
    for path, text in ((sweep / "study.journal", '{"op_code": 8, "worker_id": "x'), (running, '{"epoch": 9, "tr')):
        with path.open("a") as handle:
            handle.write(text)
    assert main(WORDS) == 0
    assert trials(folder) == trials(finished)
    assert metrics(folder) == metrics(finished)


def cut(path: Path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])


def flip(path: Path) -> None:
    """A bit in each half a kilobyte: some lie in padding, where nothing depends on them."""
    content = bytearray(path.read_bytes())
    for at in range(250, len(content), 500):
        content[at] ^= 0x10
    path.write_bytes(content)


def lose_lines(path: Path) -> None:
    """The last two thirds, at the end of a line: what is left is a sound study of fewer trials."""
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[: len(lines) // 3]))


def garble(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:5], b"\x00" * 30 + b"\n", *lines[6:]]))


DAMAGES = {
    "study gone": ("study.journal", Path.unlink, "study.journal ends before trial 5"),
    "study empty": ("study.journal", lambda path: path.write_text(""), "study.journal ends before trial 5"),
    "study cut": ("study.journal", lose_lines, "study.journal ends before trial"),
    "study garbled": ("study.journal", garble, "study.journal: line 6 is damaged"),
    "study of nothing": ("study.journal", lambda path: path.write_text("3\n"), "line 1 is no line of a study"),
    "ledger gone": ("ledger.json", Path.unlink, "ledger.json is gone, and study.journal has trials"),
    "ledger cut": ("ledger.json", lambda path: cut(path, 0.5), "ledger.json: is damaged"),
    "ledger empty": ("ledger.json", lambda path: path.write_text(""), "ledger.json: is damaged"),
    "ledger of nothing": (
        "ledger.json",
        lambda path: path.write_text("[]"),
        "ledger.json: is damaged (it is no ledger",
    ),
    "ledger lacks": ("ledger.json", lambda path: path.write_text('{"test_reads": []}'), "(id is missing)"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_file_is_named_and_never_means_a_restart(
    name: str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, damage, says = DAMAGES[name]
    damage(sweep / path)
    before = {item: item.read_bytes() for item in sweep.rglob("*") if item.is_file() and item.suffix != ".log"}
    error = complaint(capsys)
    assert says in error
    assert "restore" in error
    assert "sweep.name=NAME" in error
    after = {item: item.read_bytes() for item in before if item.exists() and item.name != "lock"}
    assert after == {item: content for item, content in before.items() if item.name != "lock"}


def interrupted(folder: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    """A trial is under way when the command ends; its checkpoint."""
    with largest_file(STUDY_FAILS):
        complaint(capsys)
    [path] = folder.glob("sweeps/*/trials/*/checkpoint.previous.pt")
    return path.with_name("checkpoint.pt")


@pytest.mark.parametrize("damage", [lambda path: cut(path, 0.6), flip])
def test_a_damaged_checkpoint_is_recovered_from_the_one_before(
    damage: object, finished: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = interrupted(folder, capsys)
    damage(path)  # type: ignore[operator]
    assert main(WORDS) == 0
    output = capsys.readouterr().out
    assert f"trial {int(path.parent.name)}: {path}: is damaged (" in output
    assert "; it goes on from the older one, of epoch " in output
    assert trials(folder) == trials(finished)
    assert metrics(folder) == metrics(finished)
    assert not list(folder.rglob("checkpoint.previous.pt")), "those of ended trials are gone"


def test_with_no_whole_checkpoint_the_command_stops_and_the_trial_stays(
    finished: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = interrupted(folder, capsys)
    whole = {each: each.read_bytes() for each in folder.rglob("checkpoint*.pt")}
    for each in whole:
        flip(each)
    error = complaint(capsys)
    assert f"{path}: is damaged" in error
    assert "restore it from a backup, or remove it" in error
    for each, content in whole.items():
        each.write_bytes(content)
    assert main(WORDS) == 0
    assert trials(folder) == trials(finished)


def test_checkpoints_that_are_gone_are_said(finished: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = interrupted(folder, capsys)
    for each in path.parent.glob("checkpoint*"):
        each.unlink()
    assert main(WORDS) == 0
    assert "or later is gone; it goes on from " in capsys.readouterr().out
    assert trials(folder) == trials(finished)


def test_a_damaged_line_of_metrics_costs_that_line(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep / "trials" / "000000" / "metrics.jsonl"
    path.write_text("garbage\n[1]\n" + path.read_text())
    assert main(WORDS) == 0
    log = (sweep / "orchestrator.log").read_text()
    assert "000000/metrics.jsonl: line 1 is damaged and left out" in log
    assert "000000/metrics.jsonl: line 2 is damaged and left out" in log
