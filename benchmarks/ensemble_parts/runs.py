"""Runs of the whole command on the shipped tasks, one a task and seed, kept as they end."""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

TASKS = ("digits_mlp", "digits_cnn", "breast_cancer", "diabetes")
ROOT = Path(__file__).resolve().parents[2]
Row = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """What every benchmark of runs takes; ``name`` is that of its file of results."""
    results = ROOT / "benchmarks" / "results" / f"ensemble-{name}.jsonl"
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=results)
    parser.add_argument("--set", nargs="*", default=[], help="overrides for every command")
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="seconds after which a run is given up")


def one(
    task: str,
    seed: int,
    budget: Sequence[str],
    words: argparse.Namespace,
    judge: Callable[[Path, Sequence[str]], Row],
) -> Row:
    """``stage=all`` on one task, with a division of the data and a sweep seed of its own.

    Args:
        budget: overrides of the benchmark.
        judge: the row's facts, from the sweep's folder and the command's overrides, before the folder goes.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"task={task}", f"task.args.split_seed={seed}", f"seed={seed}", "runner=inline", "tracking=none"]
        settings += [*budget, *words.set, f"sweep.dir={folder}", "sweep.name=run"]
        command = [sys.executable, str(ROOT / "run.py"), "stage=all", *settings]
        started = time.perf_counter()
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=words.timeout_s, check=False
        )
        if done.returncode:
            sys.exit(f"{task} seed {seed} ended with {done.returncode}: {done.stderr.strip()}")
        seconds = time.perf_counter() - started
        return {"task": task, "seed": seed, "seconds": seconds, **judge(Path(folder) / "run", settings)}


def missing(words: argparse.Namespace, make: Callable[[str, int], Row], told: Callable[[Row], str]) -> list[Row]:
    """Make and keep the rows that are not there, a printed line each; all rows of the seeds that were asked for."""
    words.results.parent.mkdir(parents=True, exist_ok=True)
    done = {(row["task"], row["seed"]) for row in _read(words.results)}
    for seed in words.seeds:
        for task in words.tasks:
            if (task, seed) not in done:
                row = make(task, seed)
                with words.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{task} seed {seed}: {told(row)} ({row['seconds']:.0f} s)", flush=True)
    return [row for row in _read(words.results) if row["seed"] in words.seeds]


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
