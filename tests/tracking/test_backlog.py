"""The backlog: in order, bounded in memory, nothing left behind, and a full disk costs nothing that was taken."""

import resource
from pathlib import Path

import pytest

from orchestrator.tracking.backlog import Backlog


def event(number: int) -> list[object]:
    return ["log", f"trial:{number}", number, {"val/loss": number / 7, "val/ü": float("inf")}, "x" * (number % 50)]


def test_events_come_out_as_they_went_in_and_in_order(tmp_path: Path) -> None:
    backlog = Backlog(tmp_path, limit=10)
    taken: list[list[object]] = []
    put = 0
    for burst in (3, 40, 0, 7, 25, 1, 0, 0, 60):
        for _ in range(burst):
            backlog.put(event(put))
            put += 1
        assert backlog.in_memory <= 10
        some = backlog.take()
        assert len(some) <= 10
        taken += some
    while some := backlog.take():
        taken += some
    assert taken == [event(number) for number in range(put)]
    assert len(backlog) == 0
    assert list(tmp_path.iterdir()) == []


def test_an_event_larger_than_what_is_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.tracking.backlog.BLOCK_BYTES", 16)
    backlog = Backlog(limit=1)
    for number in range(40, 50):
        backlog.put(event(number))
    assert [backlog.take() for _ in range(10)] == [[event(number)] for number in range(40, 50)]


def test_a_full_disk_refuses_an_event_and_keeps_those_before() -> None:
    backlog = Backlog(limit=1)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    kept = 0
    try:
        with pytest.raises(OSError, match="File too large"):  # noqa: PT012
            for kept in range(100):
                backlog.put(event(kept))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 1 < kept < 100
    backlog.put(event(100))
    found = [one for _ in range(kept + 1) for one in backlog.take()]
    assert found == [*(event(number) for number in range(kept)), event(100)]
