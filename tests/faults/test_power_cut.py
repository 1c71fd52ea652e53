"""A power cut takes what was written and not synced: nothing that anybody has acted on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from curves import CutError, Stored, command, falling, gist

from orchestrator.files import Lines, append_line
from orchestrator.stages.ledger import Ledger
from orchestrator.stages.measured import METRICS_FILE, MeasuredEpochs
from orchestrator.stages.studies import STUDY_FILE
from orchestrator.stages.sweep import Sweep

STAGE = ("stage=width", "+stages.width.budget=3", "recipe.repeats=1")


class Disk:
    """How many bytes of each file a power cut leaves."""

    def __init__(self) -> None:
        self.synced: dict[Path, int] = {}
        self.syncs = 0

    def sync(self, descriptor: int) -> None:
        """Stands for ``os.fsync``."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        self.syncs += 1
        self.synced[path] = os.fstat(descriptor).st_size

    def unsynced(self, folder: Path, name: str) -> list[Path]:
        """Files that a cut would shorten."""
        return [path for path in folder.rglob(name) if path.stat().st_size != self.synced.get(path, 0)]

    def cut_power(self, folder: Path) -> int:
        """Returns how many bytes went."""
        gone = 0
        for path in (*self.unsynced(folder, STUDY_FILE), *self.unsynced(folder, METRICS_FILE)):
            left = self.synced.get(path, 0)
            gone += path.stat().st_size - left
            os.truncate(path, left)
            if not left:
                path.unlink()
        return gone


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    found = Disk()
    monkeypatch.setattr(os, "fsync", found.sync)
    return found


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    sweep = Stored(command(*STAGE)).run(tmp_path_factory.mktemp("undisturbed"))
    assert sweep is not None
    return gist(sweep.study.records)


@pytest.mark.parametrize("epochs", [0, 1, 12])
def test_while_a_trial_trains_the_study_is_synced(epochs: int, disk: Disk, tmp_path: Path) -> None:
    assert Stored(command(*STAGE)).run(tmp_path, epochs) is None
    assert list(tmp_path.rglob(STUDY_FILE))
    assert disk.unsynced(tmp_path, STUDY_FILE) == []
    # What was measured is with a checkpoint, and when its trial has ended: only one trial runs.
    assert len(disk.unsynced(tmp_path, METRICS_FILE)) <= 1


@pytest.mark.parametrize("commit", [0, 1, 2, 13, 30])
def test_a_power_cut_before_a_commit_changes_nothing(
    commit: int, disk: Disk, tmp_path: Path, undisturbed: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = 0, Sweep.commit

    def fail(self: Sweep) -> None:
        nonlocal calls
        calls += 1
        if calls > commit:
            raise CutError
        real(self)

    with monkeypatch.context() as patch:
        patch.setattr(Sweep, "commit", fail)
        assert Stored(command(*STAGE)).run(tmp_path, 10_000) is None
    assert disk.cut_power(tmp_path) > 0
    again = Stored(command(*STAGE)).run(tmp_path)
    assert again is not None
    assert gist(again.study.records) == undisturbed
    measured = MeasuredEpochs(again.folder / "trials")
    for record in again.study.records:
        epochs = [epoch for epoch, _ in measured.epochs(record.number)]
        assert epochs == sorted(record.curve)[record.inherited :]


def test_the_ledger_says_nothing_that_a_power_cut_takes_back(
    disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, seen = Ledger.finish, []

    def look(self: Ledger, *words: object) -> None:
        seen.append([*disk.unsynced(tmp_path, STUDY_FILE), *disk.unsynced(tmp_path, METRICS_FILE)])
        finish(self, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(Ledger, "finish", look)
    Stored(command(*STAGE), falling).run(tmp_path)
    assert seen == [[]]


def test_lines_of_many_files_are_synced_once(disk: Disk, tmp_path: Path) -> None:
    lines, paths = Lines(), [tmp_path / f"{number}" / "lines" for number in range(20)]
    for text in ("one", "two", "three"):
        for path in paths:
            lines.append(path, text)
    assert disk.syncs == 0
    lines.sync()
    # Each file and its folder, and the folder of these.
    assert disk.syncs == 20 + 20 + 1
    assert all(disk.synced[path] == path.stat().st_size for path in paths)
    lines.sync()
    assert disk.syncs == 41
    append_line(paths[0], "four")
    assert disk.syncs == 42
    assert paths[0].read_text() == "one\ntwo\nthree\nfour\n"
