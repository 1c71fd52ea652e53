"""What orchestration costs: ours against raw Ray Tune, with and without MLflow, above a floor of bare Optuna.

``python benchmarks/overhead.py`` (``--full``, ``--sampler tpe``). See README.md beside this file.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
RUN_TIMEOUT_S = 3600

Run = dict[str, Any]
"""A measurement of ``sides.py``."""


@dataclass(frozen=True)
class Size:
    """How often each side runs, by number of trials."""

    plain: dict[int, int]
    mlflow: dict[int, int]


BUDGET = Size(plain={200: 3, 2000: 2}, mlflow={200: 2})
FULL = Size(plain={200: 5, 2000: 5}, mlflow={200: 3, 2000: 1})


def schedule(size: Size) -> list[tuple[str, int]]:
    """Side and trials of each run, the sides of a pair in turn: what disturbs one disturbs the other."""
    runs: list[tuple[str, int]] = []
    for trials, repeats in size.plain.items():
        runs += [(side, trials) for _ in range(repeats) for side in ("ours", "tune", "optuna")]
    for trials, repeats in size.mlflow.items():
        runs += [(side, trials) for _ in range(repeats) for side in ("ours+mlflow", "tune+mlflow")]
    return runs


def empty_database(folder: Path) -> bytes:
    """An MLflow database with all its tables: making them takes seconds that are nobody's overhead."""
    path = folder / "template.db"
    code = f"from mlflow import MlflowClient; MlflowClient('sqlite:///{path}').search_experiments()"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, capture_output=True)
    return path.read_bytes()


def measure(side: str, trials: int, sampler: str, database: bytes) -> Run:
    """Run one side in a fresh process and a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as name:
        folder = Path(name)
        if side.endswith("mlflow"):
            (folder / "mlflow.db").write_bytes(database)
        words = [sys.executable, str(HERE / "sides.py"), side, "--trials", str(trials)]
        words += ["--sampler", sampler, "--folder", name]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        began = time.perf_counter()
        ended = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=RUN_TIMEOUT_S
        )
        whole = time.perf_counter() - began
        if ended.returncode:
            sys.exit(f"{side} with {trials} trials failed:\n{ended.stdout}\n{ended.stderr}")
        run: Run = json.loads((folder / "measurement.json").read_text())
    return {**run, "whole_s": whole}


def median(runs: Sequence[Run], side: str, trials: int, key: str) -> float | None:
    """The median of ``key`` over the runs of a side; None if it was not run."""
    values = [run[key] for run in runs if run["side"] == side and run["trials"] == trials]
    return statistics.median(values) if values else None


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def side_rows(runs: Sequence[Run]) -> list[list[str]]:
    """A row for each side and size: medians, and the range of the time that the goals are about."""
    heading = ["side", "trials", "runs", "workers", "start-up s", "written s (range)", "trials/s", "results/s"]
    rows = [[*heading, "ms/trial", "last 200", "CPU ms/trial", "MiB start", "end", "peak", "whole s"]]
    for side, trials in dict.fromkeys((run["side"], run["trials"]) for run in runs):
        own = [run for run in runs if run["side"] == side and run["trials"] == trials]
        mid = {key: statistics.median(run[key] for run in own) for key in own[0] if key not in ("side", "sampler")}
        written = [run["written_s"] for run in own]
        rows.append(
            [side, str(trials), str(len(own)), f"{mid['workers_seen']:.0f}", f"{mid['start_up_s']:.1f}"]
            + [f"{mid['written_s']:.2f} ({min(written):.2f}-{max(written):.2f})"]
            + [f"{trials / mid['written_s']:.0f}", f"{mid['results_seen'] / mid['written_s']:.0f}"]
            + [f"{1000 * mid['written_s'] / trials:.1f}", f"{mid['last_200_ms']:.1f}", f"{mid['driver_cpu_ms']:.1f}"]
            + [f"{mid[key]:.0f}" for key in ("memory_start", "memory_end", "memory_peak")]
            + [f"{mid['whole_s']:.1f}"]
        )
    return rows


def goals(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """What is asked for, what was measured, and whether it is met."""
    found: list[dict[str, Any]] = []

    def note(goal: str, value: float | None, limit: float) -> None:
        if value is not None:
            found.append({"goal": goal, "measured": value, "limit": limit, "met": value <= limit})

    def ratio(one: tuple[str, int], other: tuple[str, int], key: str, scale: float = 1.0) -> float | None:
        above, below = median(runs, *one, key), median(runs, *other, key)
        return None if above is None or below is None else scale * above / below

    for trials in sorted({run["trials"] for run in runs}):
        note(f"ours / Tune, {trials} trials: time", ratio(("ours", trials), ("tune", trials), "written_s"), 1.1)
        note(
            f"ours / Tune, {trials} trials: whole command", ratio(("ours", trials), ("tune", trials), "whole_s"), 1.1
        )
        pair = (("ours+mlflow", trials), ("tune+mlflow", trials))
        note(f"ours / Tune with MLflow, {trials} trials: time until written", ratio(*pair, "written_s"), 1.0)
        note(f"ours / Tune with MLflow, {trials} trials: whole command", ratio(*pair, "whole_s"), 1.0)
    note("ours: time a trial, 2000 / 200 trials", ratio(("ours", 2000), ("ours", 200), "written_s", 0.1), 1.3)
    note("ours: driver CPU a trial, 2000 / 200 trials", ratio(("ours", 2000), ("ours", 200), "driver_cpu_ms"), 1.3)
    grown = [median(runs, "ours", 2000, key) for key in ("memory_start", "memory_end")]
    if grown[0] is not None and grown[1] is not None:
        note("ours: driver memory after 2000 trials / before", grown[1] / grown[0], 1.1)
    return found


def goal_rows(found: Sequence[dict[str, Any]]) -> list[list[str]]:
    """The goals as a table."""
    rows = [["goal", "measured", "at most", "met"]]
    return rows + [
        [item["goal"], f"{item['measured']:.2f}", f"{item['limit']:.2f}", "yes" if item["met"] else "NO"]
        for item in found
    ]


def main() -> None:
    """Run all sides in turn, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--budget", action="store_true", help="within 20 minutes on two cores (the default)")
    sizes.add_argument("--full", action="store_true", help="more repeats, and 2,000 trials with MLflow")
    parser.add_argument("--sampler", choices=["random", "tpe"], default="random")
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        database = empty_database(Path(scratch))
    runs: list[Run] = []
    began = time.perf_counter()
    for side, trials in schedule(FULL if words.full else BUDGET):
        run = measure(side, trials, words.sampler, database)
        runs.append(run)
        print(f"{side:12} {trials:5} trials: {run['written_s']:7.2f} s, whole {run['whole_s']:6.1f} s", flush=True)
    found = goals(runs)
    print(f"\n{words.sampler} sampler, {platform.platform()}, {os.cpu_count()} cores, medians\n")
    print(table(side_rows(runs)), "\n\n" + table(goal_rows(found)), sep="")
    print(f"\n{time.perf_counter() - began:.0f} s in all")
    path = HERE / "results" / f"overhead-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"sampler": words.sampler, "runs": runs, "goals": found}, indent=2) + "\n")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
