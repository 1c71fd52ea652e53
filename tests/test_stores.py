"""Folders that all nodes reach, on a disk and in an object store: a real S3 server on loopback."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from object_stores import BUCKET, SECRET, ObjectServer
from pyarrow.fs import FileSelector, FileSystem

from orchestrator.app.main import main
from orchestrator.errors import ConfigError, StorageError
from orchestrator.stores import below, check_shared, check_writable, parse_location, store_at
from orchestrator.training import checkpoint
from orchestrator.types import Location

URL = f"s3://{BUCKET}/somewhere"


@pytest.fixture(scope="module")
def server() -> Iterator[ObjectServer]:
    server = ObjectServer()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        FileSystem.from_uri(f"s3://{BUCKET}?allow_bucket_creation=true")[0].create_dir(BUCKET)
        yield server
    server.stop()


@pytest.fixture(params=["disk", "objects"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    if request.param == "disk":
        return tmp_path
    request.getfixturevalue("server")
    return parse_location(f"{URL}/{request.node.callspec.id}-{request.node.originalname}", "here")


def objects() -> list[str]:
    found = FileSystem.from_uri(URL)[0].get_file_info(FileSelector(BUCKET, recursive=True))
    return sorted(entry.path for entry in found if entry.is_file)


def test_what_is_written_is_read_and_found(location: Location) -> None:
    store = store_at(location)
    assert store.size("one") is None
    assert store.sizes("one") == {}
    for folder, text in (("000001", b"1"), ("000012", b"twelve")):
        with store_at(below(location, folder)).writing("one") as handle:
            handle.write(text)
    with store_at(below(location, "000001", "deeper")).writing("one") as handle:
        handle.write(b"not counted")
    assert store.sizes("one") == {"000001": 1, "000012": 6}
    twelfth = store_at(below(location, "000012"))
    assert (twelfth.size("one"), twelfth.read("one")) == (6, b"twelve")
    twelfth.remove("one")
    twelfth.remove("one")
    assert store.sizes("one") == {"000001": 1}
    with pytest.raises(StorageError, match="000012/one"):
        twelfth.read("one")


def test_a_write_that_fails_leaves_the_old_one(location: Location) -> None:
    checkpoint.save(location, {"epoch": 1, "weights": torch.ones(3)})
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(location, {"epoch": 2, "bad": lambda: None})
    assert checkpoint.load(location)["epoch"] == 1
    assert checkpoint.exists(location)
    assert not checkpoint.exists(below(location, "none"))


def test_the_checkpoint_before_is_kept_until_both_go(location: Location) -> None:
    for epoch in (1, 2, 3):
        checkpoint.save(location, {"epoch": epoch})
    assert [checkpoint.load(location, name)["epoch"] for name in (checkpoint.NAME, checkpoint.PREVIOUS)] == [3, 2]
    checkpoint.save(location, {"epoch": 4}, keep_old=False)
    assert [checkpoint.load(location, name)["epoch"] for name in (checkpoint.NAME, checkpoint.PREVIOUS)] == [4, 2]
    checkpoint.remove(location)
    assert not any(checkpoint.exists(location, name) for name in (checkpoint.NAME, checkpoint.PREVIOUS))


def test_a_damaged_checkpoint_is_named(location: Location) -> None:
    checkpoint.save(location, {"weights": torch.arange(1000)})
    content = bytearray(store_at(location).read(checkpoint.NAME))
    content[2000] ^= 1
    with store_at(location).writing(checkpoint.NAME) as handle:
        handle.write(content)
    with pytest.raises(StorageError, match=r"checkpoint\.pt: is damaged"):
        checkpoint.load(location)


def test_what_is_larger_than_a_part_of_an_upload_arrives_whole(server: ObjectServer) -> None:
    content = bytes(range(256)) * 100_000  # 25.6 MB; pyarrow sends parts of 10
    store = store_at(f"{URL}/large")
    with store.writing("large") as handle:
        handle.write(content)
    assert store.read("large") == content
    store.remove("large")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("ftp://host/path", "must be a folder, or begin with one of s3://"),
        ("s3://", "names no bucket"),
        (f"s3://me:{SECRET}@bucket/path", "holds a secret"),
        (f"s3://bucket/path?secret_key={SECRET}", "AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_a_place_that_cannot_be_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_location(text, "trainer.checkpoint_dir")
    assert says in str(caught.value)
    assert str(caught.value).startswith("trainer.checkpoint_dir=")
    assert SECRET not in str(caught.value)


def test_a_place_that_is_not_there_is_refused(server: ObjectServer, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="NO_SUCH_BUCKET"):
        check_writable("s3://another/path")
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        check_writable(tmp_path / "file")


def test_a_node_that_does_not_share_the_folder_says_so(tmp_path: Path) -> None:
    check_shared(f"{URL}/000001")
    check_shared(tmp_path / "000001")
    with pytest.raises(StorageError, match="name a folder that all share"):
        check_shared(tmp_path / "not there" / "000001")


@pytest.fixture
def in_a_folder(server: ObjectServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])


WORDS = [
    *("task=breast_cancer", "tracking=none", "trainer.epochs=6", "trainer.checkpoint_epochs=2", "runner=inline"),
    *("pruner.min_epochs=2", f"trainer.checkpoint_dir={URL}", "n_trials=10", "trainer.keep_checkpoints=3"),
]
NAME = "breast_cancer-seed0"


@pytest.mark.usefixtures("in_a_folder")
def test_a_sweep_keeps_its_checkpoints_there_and_waits_while_the_store_is_away(
    server: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = []
    save = checkpoint.save

    def away_at_the_third(location: Location, state: dict, **words: bool) -> None:
        saves.append(location)
        if len(saves) == 3:
            server.stop()
            threading.Timer(1.0, server.start_again).start()
        save(location, state, **words)

    monkeypatch.setattr(checkpoint, "save", away_at_the_third)
    assert main(["stage=lr", *WORDS]) == 0
    folder = Path("sweeps", NAME)
    ledger = json.loads((folder / "ledger.json").read_text())
    verdict = ledger["stages"]["lr"]
    assert (verdict["trials"], verdict["infeasible"]) == (10, {})
    assert verdict["promoted"] > 0, "no trial went on from another's checkpoint"
    assert not list(folder.rglob("checkpoint.pt"))
    own = f"{BUCKET}/somewhere/{NAME}-{ledger['id'][:8]}"
    kept = [path for path in objects() if path.startswith(own)]
    assert f"{own}/{verdict['best_trial']:06d}/checkpoint.pt" in kept
    assert len(kept) <= 6, "more than three complete and three stopped ones"
    assert main(["stage=ensemble", *WORDS]) == 0
    assert (folder / "ensemble.json").exists()
    assert (folder / "winner.pt").exists()


@pytest.mark.usefixtures("in_a_folder")
def test_a_bucket_that_is_not_there_is_refused_before_a_sweep_is_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=lr", *WORDS, "trainer.checkpoint_dir=s3://another/path"]) == 2
    assert "trainer.checkpoint_dir=s3://another/path" in capsys.readouterr().err
    assert not Path("sweeps", NAME).exists()
