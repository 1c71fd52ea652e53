"""Where the study lives: speed of each storage, and what is left after a write that was cut short.

``python benchmarks/storage.py``. See README.md beside this file.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.config.space import RangeConfig
from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.study.storage import open_journal
from orchestrator.study.study import SweepStudy
from orchestrator.types import Direction, TrialState

REPORTS = 10
SPACE = SearchSpace(
    {"optimizer.lr": Hyperparameter("optimizer.lr", RangeConfig(type="float", low=1e-5, high=1.0, scale="log"))}
)


def open_study(storage: BaseStorage) -> SweepStudy:
    return SweepStudy(storage, "sweep", Direction.MINIMIZE, SPACE)


def run_trial(study: SweepStudy) -> None:
    """What the study writes in the life of one trial."""
    record = study.start({"optimizer.lr": 0.1}, stage="lr", seed=0, epochs=REPORTS)
    for epoch in range(1, REPORTS + 1):
        study.report(record.number, epoch, 1.0 / epoch)
    study.finish(record.number, TrialState.COMPLETE, seconds=1.0)


STORAGES: dict[str, Callable[[Path], BaseStorage]] = {
    "journal file": lambda folder: open_journal(folder / "study.journal", writable=True),
    "SQLite": lambda folder: RDBStorage(f"sqlite:///{folder / 'study.db'}"),
    "memory": lambda folder: InMemoryStorage(),
}


def speed(make: Callable[[Path], BaseStorage], trials: int) -> tuple[float, float]:
    """Trials a second, and milliseconds of the slowest trial."""
    with tempfile.TemporaryDirectory() as name:
        study = open_study(make(Path(name)))
        times = []
        for _ in range(trials):
            began = time.perf_counter()
            run_trial(study)
            times.append(time.perf_counter() - began)
    return trials / sum(times), 1000 * max(times)


def speed_rows(trials: int, repeats: int) -> list[list[str]]:
    """A row for each storage; the repeats of all storages in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STORAGES}
    for _ in range(repeats):
        for name, make in STORAGES.items():
            found[name].append(speed(make, trials))
    rows = [["storage", "trials/s (median)", "range", "slowest trial ms"]]
    for name, results in found.items():
        rates = [rate for rate, _ in results]
        slowest = max(slow for _, slow in results)
        rows.append([name, f"{statistics.median(rates):.0f}", f"{min(rates):.0f}-{max(rates):.0f}", f"{slowest:.0f}"])
    return rows


def torn_journal(path: Path) -> int:
    """A journal of five trials whose last line lost its second half; returns its whole trials."""
    study = open_study(open_journal(path, writable=True))
    for _ in range(5):
        run_trial(study)
    content = path.read_bytes()
    last = content.rstrip(b"\n").rfind(b"\n") + 1
    path.write_bytes(content[: (last + len(content)) // 2])
    return 5


def plain_journal(path: Path) -> BaseStorage:
    """As Optuna opens it, without our mending."""
    return JournalStorage(JournalFileBackend(str(path)))


def after_torn_write(reopen: Callable[[Path], BaseStorage]) -> list[str]:
    """Reopen a torn journal, write to it, reopen it again; what came of each step."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "study.journal"
        torn_journal(path)
        return [
            outcome(lambda: len(open_study(reopen(path)))),
            outcome(lambda: run_trial(open_study(reopen(path)))),
            outcome(lambda: len(open_study(reopen(path)))),
        ]


def outcome(step: Callable[[], int | None]) -> str:
    try:
        found = step()
    except Exception as error:
        return f"{type(error).__name__}"
    return "done" if found is None else f"{found} trials"


def torn_rows() -> list[list[str]]:
    """With and without our mending."""
    rows = [["journal cut short, opened", "read", "write one more", "read again"]]
    rows.append(["as Optuna does", *after_torn_write(plain_journal)])
    rows.append(["as we do", *after_torn_write(lambda path: open_journal(path, writable=True))])
    return rows


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    print(f"{words.trials} trials of {REPORTS} reports, {words.repeats} repeats in turn\n")
    print(table(speed_rows(words.trials, words.repeats)))
    print("\n" + table(torn_rows()))


if __name__ == "__main__":
    main()
