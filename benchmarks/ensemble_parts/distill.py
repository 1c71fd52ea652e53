"""Distillation: how much of the ensemble's gain a student has, on test, beside the same network without a teacher.

Each run is a short search, an ensemble, and ``stage=distill`` on one shipped task, with a division of the data and a
sweep seed of its own; student and label-only network are trained with the same seeds and scored on test. A gain is
the logarithm of the label-only network's loss over the other's, so that tasks count alike. Recovered is the mean gain
of the students over that of the ensembles, with a 95 % interval: runs are resampled within tasks (bootstrap), tasks
are fixed.
Results are appended as they end; what is there is not run again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ensemble_parts import runs
from ensemble_parts.runs import Row

BUDGET = (
    "recipe.order=[lr,joint,ensemble,distill]",
    "sampler=tpe",
    "pruner=none",
    "n_trials=8",
    "trainer.epochs=15",
    "ensemble.read_test_again=true",
)
"""16 trainings of 15 epochs, 8 more to tune the student, and 3 seeds of both networks."""
RESAMPLES = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    runs.add_arguments(parser, "distill")


def judge(sweep: Path, settings: Sequence[str]) -> Row:
    """What the ensemble and the distill stage found."""
    stages = json.loads((sweep / "ledger.json").read_text())["stages"]
    found, distilled = stages["ensemble"], stages["distill"]
    kept = ("pairs", "mean_gain", "gain_error", "recovered", "validation", "changed")
    chosen = {name: value for name, value in distilled["configuration"].items() if name.startswith("distill.")}
    return {
        "test": {"ensemble": found["test"]["ensemble"], "single": found["test"]["single"], **distilled["test"]},
        "chosen": chosen,
        "members": len(found["weights"]),
        **{key: distilled[key] for key in kept},
    }


def gains(rows: Sequence[Row], split: str) -> NDArray[np.float64]:
    """Of student and ensemble over the label-only network: logarithms of ratios of losses; shape (runs, 2)."""
    losses = [[row[split][who]["loss"] for who in ("label_only", "student", "ensemble")] for row in rows]
    table = np.log(losses)
    found: NDArray[np.float64] = table[:, :1] - table[:, 1:]
    return found


def recovered(by_task: Sequence[NDArray[np.float64]]) -> tuple[float, float, float]:
    """Mean gain of the students over that of the ensembles, tasks counting alike, and its 95 % interval."""
    generator = np.random.default_rng(0)
    drawn = np.mean(
        [one[generator.integers(0, len(one), (RESAMPLES, len(one)))].mean(axis=1) for one in by_task], axis=0
    )
    student, ensemble = np.mean([one.mean(axis=0) for one in by_task], axis=0)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], [0.025, 0.975])
    return float(student / ensemble), float(low), float(high)


def table(rows: Sequence[Row], tasks: Sequence[str], split: str) -> str:
    """By task and over all."""
    head = (split, "runs", "label-only", "student", "ensemble", "student's gain", "ensemble's gain", "recovered",
            "student better in")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    present = [task for task in tasks if any(row["task"] == task for row in rows)]
    for name in (*present, "all"):
        of_tasks = [[row for row in rows if row["task"] == task] for task in (present if name == "all" else [name])]
        some = [row for one in of_tasks for row in one]
        found = [gains(one, split) for one in of_tasks]
        student, ensemble = np.mean([one.mean(axis=0) for one in found], axis=0)
        better = sum(int((one[:, 0] > 0).sum()) for one in found)
        share, low, high = recovered(found)
        losses = [
            "" if name == "all" else f"{np.mean([row[split][who]['loss'] for row in some]):.4f}"
            for who in ("label_only", "student", "ensemble")
        ]
        lines.append(
            f"| {name} | {len(some)} | {' | '.join(losses)} | {student:+.3f} | {ensemble:+.3f} | "
            f"{share:.0%} ({low:.0%} to {high:.0%}) | {better} of {len(some)} |"
        )
    return "\n".join(lines)


def run(words: argparse.Namespace) -> None:
    """Run what is missing, then print the tables."""

    def told(row: Row) -> str:
        return "test loss " + ", ".join(f"{who} {scores['loss']:.4f}" for who, scores in row["test"].items())

    rows = runs.missing(words, lambda task, seed: runs.one(task, seed, BUDGET, words, judge), told)
    for split in ("test", "validation"):
        print(table(rows, words.tasks, split), end="\n\n")
