"""Ensemble against the best single model and the mean of the best five, on test: the whole recipe, several seeds.

Each run is ``stage=all`` with a small budget on one shipped task, with a division of the data and a sweep seed of its
own. Results are appended as they end; what is there is not run again. The table gives test loss divided by that of
the best single (geometric mean over seeds, less than 1 is better) with a 95 % interval: runs are resampled within
tasks (bootstrap), tasks are fixed.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ensemble_parts import runs
from ensemble_parts.runs import Row

BUDGET = (
    "recipe.order=[start,lr,batch_size,momentum,width,decay,depth,regularization,joint,ensemble]",
    "recipe.budget={high: 1.5, medium: 1.0, low: 0.7}",
    "stages.joint.budget=5",
    "trainer.epochs=20",
)
"""About 18 full trainings of 20 epochs."""
RESAMPLES = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    runs.add_arguments(parser, "pipeline")


def judge(sweep: Path, settings: Sequence[str]) -> Row:
    """What the ensemble stage found."""
    found = json.loads((sweep / "ledger.json").read_text())["stages"]["ensemble"]
    kept = ("kind", "weights", "averages", "candidates", "knee", "validation", "test", "gains", "ways", "growth")
    scaled = found["calibration"]
    calibration = {key: scaled[key] for key in ("ece", "temperature", "gain", "used")} if scaled else None
    return {"calibration": calibration, **{k: found[k] for k in kept}}


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
    """Run what is missing, then print the tables."""

    def told_row(row: Row) -> str:
        losses = ", ".join(f"{who} {scores['loss']:.4f}" for who, scores in row["test"].items())
        return f"{row['kind']}, test loss {losses}"

    rows = runs.missing(words, lambda task, seed: runs.one(task, seed, BUDGET, words, judge), told_row)
    print(table(rows, words.tasks))
    print(errors(rows, words.tasks))
