"""What the driver costs, and how busy it keeps the workers, at 1 to 256 workers and 100 to 10,000 trials.

``python benchmarks/scale.py`` (``--only busy``, ``--only growth``). See README.md beside this file.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parent
WORKERS = (1, 2, 8, 64, 256)
LOGICAL = 64
"""From so many workers on they are logical: asynchronous ones in a few processes."""
GROWTH = {"random": (100, 1000, 10_000), "staged": (100, 300, 1000)}
TIMEOUT_S = 7200

Run = dict[str, Any]
"""A measurement of ``scale_methods/side.py``."""


def measure(side: str, **settings: object) -> Run:
    """One side in a fresh process and a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="scale-") as folder:
        words = [sys.executable, "-m", "scale_methods.side", side, "--folder", folder]
        for name, value in settings.items():
            if value is True:
                words.append(f"--{name}")
            elif value is not False:
                values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
                words += [f"--{name}", *map(str, values)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{HERE}"}
        ended = subprocess.run(
            words, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
        if ended.returncode:
            sys.exit(f"{side} with {settings} failed:\n{ended.stdout}\n{ended.stderr}")
        run: Run = json.loads((Path(folder) / "measurement.json").read_text())
    return run


def busy_row(run: Run) -> list[str]:
    """One row of the table of busy workers."""
    end, used, load = run["marks"][-1], run["used"], run["load"]
    return [
        f"{run['workers']}",
        run["sampler"],
        f"{end['seconds']:.0f}",
        f"{end['trials']:.0f}",
        f"{end['results']:.0f}",
        f"{run['busy']:.1%}",
        *(f"{used[use]:.1%}" for use in ("start_up", "proposal", "driver", "idle")),
        f"{end['cpu_s'] / end['seconds']:.2f}",
        f"{1000 * end['cpu_s'] / end['trials']:.0f}",
        f"{1000 * end['cpu_s'] / end['results']:.1f}",
        f"{run['peak_mib']:.0f}",
        f"{load:.1f}",
    ]


BUSY_HEAD = ["workers", "sampler", "seconds", "trials", "results", "busy", "start-up", "proposal", "driver", "idle"]
BUSY_HEAD += ["driver cores", "CPU ms/trial", "CPU ms/result", "peak MiB", "load"]
GROWTH_HEAD = ["sampler", "trials", "CPU ms/trial since the row before", "CPU ms/result", "MiB"]


def growth_rows(run: Run) -> list[list[str]]:
    """The rows of one run in the table of growing sweeps: each is about the trials since the row before."""
    rows, before = [], dict.fromkeys(("trials", "results", "cpu_s"), 0.0)
    for mark in run["marks"]:
        if mark["trials"] == before["trials"]:
            continue
        cpu = 1000 * (mark["cpu_s"] - before["cpu_s"])
        trials, results = mark["trials"] - before["trials"], mark["results"] - before["results"]
        costs = [f"{cpu / trials:.1f}", f"{cpu / results:.2f}"]
        rows.append([run["sampler"], f"{mark['trials']:.0f}", *costs, f"{mark['memory_mib']:.0f}"])
        before = mark
    return rows


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned columns."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> None:
    """Run the sides one after another, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["busy", "growth"])
    parser.add_argument("--workers", type=int, nargs="*", default=list(WORKERS))
    parser.add_argument("--samplers", nargs="*", choices=list(GROWTH), default=list(GROWTH))
    parser.add_argument("--seconds", type=float, default=5.0, help="length of an epoch")
    parser.add_argument("--minutes", type=float, default=2.0, help="about how long each busy run is")
    parser.add_argument("--most", type=int, default=10_000, help="trials of the longest growing sweep")
    parser.add_argument("--tracking", choices=["mlflow", "none"], default="mlflow")
    words = parser.parse_args()
    runs: list[Run] = []
    rows = [BUSY_HEAD]
    for workers in words.workers if words.only != "growth" else ():
        for sampler in words.samplers:
            # With rungs at 1 and 3 of 9 epochs a trial has about 3 results.
            trials = max(4 * workers, round(workers * words.minutes * 60 / words.seconds / 3))
            run = measure(
                "busy",
                workers=workers,
                sampler=sampler,
                trials=trials,
                seconds=words.seconds,
                tracking=words.tracking,
                logical=workers >= LOGICAL,
            )
            runs.append(run)
            rows.append(busy_row(run))
            print("  ".join(rows[-1]), flush=True)
    grown = [GROWTH_HEAD]
    for sampler in words.samplers if words.only != "busy" else ():
        marks = [mark for mark in GROWTH[sampler] if mark <= words.most]
        run = measure("growth", workers=64, sampler=sampler, trials=marks[-1], tracking=words.tracking, marks=marks)
        runs.append(run)
        grown += growth_rows(run)
        print("\n".join("  ".join(row) for row in growth_rows(run)), flush=True)
    for found in (rows, grown):
        if len(found) > 1:
            print("\n" + table(found))
    path = HERE / "results" / f"scale-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(runs, indent=2) + "\n")
    print(f"\nwritten to {path}")


if __name__ == "__main__":
    main()
