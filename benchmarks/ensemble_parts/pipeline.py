"""Ensemble, best single model, mean of the best five and student, on test: the whole recipe, several seeds.

Each run is ``stage=all`` with a small budget on one shipped task, with a division of the data and a sweep seed of its
own. Results are appended as they end; what is there is not run again. The first table gives test loss divided by that
of the best single (geometric mean over seeds, less than 1 is better), the line below it the mean over tasks of mean
loss over mean loss, which a split without errors does not decide; with 95 % intervals: runs are resampled within
tasks (bootstrap), tasks are fixed. Then what the students have of it: see ``distill.py``.
"""

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ensemble_parts import distill, runs
from ensemble_parts.runs import Row

BUDGET = (
    "recipe.order=[start,lr,batch_size,momentum,width,decay,depth,regularization,joint,ensemble,distill]",
    "recipe.budget={high: 1.5, medium: 1.0, low: 0.7}",
    "stages.joint.budget=5",
    "trainer.epochs=20",
)
"""About 18 full trainings of 20 epochs, 4 more to tune the student, and 3 seeds of it with and without a teacher."""
RESAMPLES = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    runs.add_arguments(parser, "pipeline")


def judge(sweep: Path, settings: Sequence[str]) -> Row:
    """What the ensemble stage found, and under ``student`` what the distill stage did."""
    stages = json.loads((sweep / "ledger.json").read_text())["stages"]
    found = stages["ensemble"]
    kept = ("kind", "weights", "averages", "candidates", "knee", "validation", "test", "gains", "ways", "growth")
    scaled = found["calibration"]
    calibration = {key: scaled[key] for key in ("ece", "temperature", "gain", "used")} if scaled else None
    taught = distill.judge(stages["distill"], found)
    return {"calibration": calibration, **{k: found[k] for k in kept}, "student": taught}


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
    pairs = [sums(list(own.values()), *name.split(" / ")) for name in sides]
    lines.append(f"{'mean / mean':19}" + "".join(f" {f'{m:.3f} ({a:.3f} to {b:.3f})':>26}" for m, a, b in pairs))
    return "\n".join(lines)


def sums(by_task: Sequence[Sequence[Row]], one: str, other: str) -> tuple[float, float, float]:
    """Mean over tasks of the mean test loss of ``one`` over that of ``other``, and its 95 % interval."""
    generator = np.random.default_rng(0)
    found, drawn = [], []
    for rows in by_task:
        losses = np.array([[row["test"][who]["loss"] for who in (one, other)] for row in rows])
        some = losses[generator.integers(0, len(losses), (RESAMPLES, len(losses)))].mean(axis=1)
        found.append(losses[:, 0].mean() / losses[:, 1].mean())
        drawn.append(some[:, 0] / some[:, 1])
    low, high = np.quantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return float(np.mean(found)), float(low), float(high)


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
    print(errors(rows, words.tasks), end="\n\n")
    for split in ("test", "validation"):
        print(distill.table(rows, words.tasks, split), end="\n\n")
