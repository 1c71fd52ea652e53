"""Raw runs of the search benchmark: one JSON line each, appended as they end, read back to resume and to tabulate."""

import fcntl
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

EPOCHS_PER_FT = 50  # lcbench.EPOCHS; rows keep epochs, tables show full trainings


@dataclass(frozen=True, order=True)
class Case:
    """What a run is identified by. ``start`` is ``default``, ``bad`` or ``none``."""

    method: str
    instance: str
    seed: int
    start: str = "none"
    noise: float = 0.0
    workers: int = 1


@dataclass(frozen=True)
class Row:
    """A finished run: its budget in full trainings, epochs spent, different configurations, own CPU seconds.

    ``trace`` has the epochs spent, simulated time and regret at each improvement.
    """

    case: Case
    max_ft: float
    spent: int
    trials: int
    seconds: float
    trace: tuple[tuple[int, float, float], ...]

    def regret_at(self, budget_ft: float) -> float:
        """Regret of the best after ``budget_ft`` full trainings; NaN beyond this run's budget."""
        if budget_ft > self.max_ft:
            return float("nan")
        return [regret for spent, _, regret in self.trace if spent <= budget_ft * EPOCHS_PER_FT][-1]

    def regret_by_time(self, times: np.ndarray) -> np.ndarray:
        """Regret of the best at each simulated time, shape of ``times``; before the first epoch infinity."""
        ordered = sorted((time, spent, regret) for spent, time, regret in self.trace)
        ends = np.array([time for time, _, _ in ordered])
        regrets = np.array([np.inf, *(regret for _, _, regret in ordered)])
        found: np.ndarray = regrets[np.searchsorted(ends, times, side="right")]
        return found


def read(path: Path) -> dict[Case, Row]:
    """The runs in ``path``, none if there is no such file; of several runs of a case the last counts.

    A line that was cut off by a kill is left out if it is the last; anywhere else it raises ValueError.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
    rows = {}
    for number, line in enumerate(lines, 1):
        try:
            row = _from_json(json.loads(line))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number} is not a run: {error}") from error
        rows[row.case] = row
    return rows


def append(path: Path, row: Row) -> None:
    """Add ``row`` at the end of ``path``, after cutting away the beginning of a line that a kill left there.

    Several processes may append to one file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        whole = file.read().rfind(b"\n") + 1
        file.truncate(whole)
        values = {**asdict(row.case), **{k: v for k, v in asdict(row).items() if k != "case"}}
        file.write(json.dumps(values).encode() + b"\n")


def missing(cases: list[Case], done: dict[Case, Row], max_ft: float) -> list[Case]:
    """The cases without a run of at least ``max_ft`` full trainings (no method knows its budget in advance)."""
    return [case for case in cases if case not in done or done[case].max_ft < max_ft]


def _from_json(values: dict[str, object]) -> Row:
    names = Case.__dataclass_fields__
    case = Case(**{name: values.pop(name) for name in names})  # type: ignore[arg-type]
    trace = tuple(tuple(point) for point in values.pop("trace"))  # type: ignore[attr-defined]
    return Row(case=case, trace=trace, **values)  # type: ignore[arg-type]
