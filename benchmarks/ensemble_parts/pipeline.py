"""Ensemble against the best single model and the mean of the best five, on test: the whole recipe, several seeds.

Each run is ``stage=all`` with a small budget on one shipped task, with a division of the data and a sweep seed of its
own. Results are appended as they end; what is there is not run again. The table gives test loss divided by that of
the best single (geometric mean over seeds, less than 1 is better) with a 95 % interval: runs are resampled within
tasks (bootstrap), tasks are fixed.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

TASKS = ("digits_mlp", "digits_cnn", "breast_cancer", "diabetes")
BUDGET = (
    "recipe.order=[start,lr,batch_size,momentum,width,decay,depth,regularization,joint,ensemble]",
    "recipe.budget={high: 1.5, medium: 1.0, low: 0.7}",
    "stages.joint.budget=5",
    "trainer.epochs=20",
)
"""About 18 full trainings of 20 epochs."""
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "ensemble-pipeline.jsonl"
RESAMPLES = 10_000
Row = Mapping[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--set", nargs="*", default=[], help="overrides for every command")
    parser.add_argument("--timeout-s", type=float, default=1800.0, help="seconds after which a run is given up")


def one(task: str, seed: int, words: argparse.Namespace) -> Row:
    """The recipe on one task; what its ensemble stage found."""
    with tempfile.TemporaryDirectory() as folder:
        common = [f"task={task}", f"task.args.split_seed={seed}", f"seed={seed}", "runner=inline", "tracking=none"]
        command = [sys.executable, str(ROOT / "run.py"), "stage=all", *common, *BUDGET, *words.set]
        started = time.perf_counter()
        done = subprocess.run(
            [*command, f"sweep.dir={folder}", "sweep.name=run"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=words.timeout_s,
            check=False,
        )
        if done.returncode:
            sys.exit(f"{task} seed {seed} ended with {done.returncode}: {done.stderr.strip()}")
        seconds = time.perf_counter() - started
        found = json.loads((Path(folder) / "run" / "ledger.json").read_text())["stages"]["ensemble"]
    kept = ("kind", "weights", "averages", "candidates", "knee", "validation", "test", "gains", "ways", "growth")
    scaled = found["calibration"]
    calibration = {key: scaled[key] for key in ("ece", "temperature", "gain", "used")} if scaled else None
    return {"task": task, "seed": seed, "seconds": seconds, "calibration": calibration, **{k: found[k] for k in kept}}


def read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def interval(logs: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Geometric mean over tasks of that over runs, and its 95 % interval; ``logs``: of ratios, by task."""
    generator = np.random.default_rng(0)
    drawn = [generator.choice(np.array(one), (RESAMPLES, len(one))).mean(axis=1) for one in logs]
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return math.exp(np.mean([np.mean(one) for one in logs])), math.exp(low), math.exp(high)


def table(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Ratios of test loss by task and over all."""
    sides: Mapping[str, Callable[[Row], float]] = {
        "ensemble / single": lambda row: row["test"]["ensemble"]["loss"] / row["test"]["single"]["loss"],
        "uniform / single": lambda row: row["test"]["uniform"]["loss"] / row["test"]["single"]["loss"],
        "ensemble / uniform": lambda row: row["test"]["ensemble"]["loss"] / row["test"]["uniform"]["loss"],
    }
    lines = [f"{'test loss':14} {'runs':>4}" + "".join(f" {name:>26}" for name in sides) + "  wins, losses; knee"]
    own = {task: [row for row in rows if row["task"] == task] for task in tasks}
    own = {task: some for task, some in own.items() if some}
    for task, some in own.items():
        cells = [told([[math.log(ratio(row)) for row in some]]) for ratio in sides.values()]
        ratios = [sides["ensemble / single"](row) for row in some]
        wins = f"{sum(r < 0.9999 for r in ratios)}, {sum(r > 1.0001 for r in ratios)}"
        knees = ",".join(str(row["knee"]) for row in some)
        lines.append(f"{task:14} {len(some):>4}" + "".join(f" {cell:>26}" for cell in cells) + f"  {wins}; {knees}")
    logs = [[[math.log(ratio(row)) for row in some] for some in own.values()] for ratio in sides.values()]
    lines.append(f"{'all':14} {sum(map(len, own.values())):>4}" + "".join(f" {told(one):>26}" for one in logs))
    return "\n".join(lines)


def told(logs: Sequence[Sequence[float]]) -> str:
    mean, low, high = interval(logs)
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def errors(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    """Share of test examples that are wrong, mean over seeds; tasks with classes only."""
    lines = []
    for task in tasks:
        some = [row for row in rows if row["task"] == task and "accuracy" in row["test"]["single"]]
        if some:
            shares = {w: np.mean([1 - row["test"][w]["accuracy"] for row in some]) for w in some[0]["test"]}
            ece = {w: np.mean([row["calibration"]["ece"][w] for row in some]) for w in some[0]["calibration"]["ece"]}
            told_shares = ", ".join(f"{who} {share:.2%}" for who, share in shares.items())
            told_ece = ", ".join(f"{who} {error:.2%}" for who, error in ece.items())
            lines.append(f"{task:14} wrong on test: {told_shares}; calibration error on validation: {told_ece}")
    return "\n".join(lines)


def run(words: argparse.Namespace) -> None:
    words.results.parent.mkdir(parents=True, exist_ok=True)
    for seed in words.seeds:
        for task in words.tasks:
            if any((row["task"], row["seed"]) == (task, seed) for row in read(words.results)):
                continue
            row = one(task, seed, words)
            with words.results.open("a") as handle:
                handle.write(json.dumps(row) + "\n")
            scores = {who: scores["loss"] for who, scores in row["test"].items()}
            told_scores = ", ".join(f"{who} {score:.4f}" for who, score in scores.items())
            print(f"{task} seed {seed}: {row['kind']}, test loss {told_scores} ({row['seconds']:.0f} s)", flush=True)
    rows = [row for row in read(words.results) if row["seed"] in words.seeds]
    print(table(rows, words.tasks))
    print(errors(rows, words.tasks))
