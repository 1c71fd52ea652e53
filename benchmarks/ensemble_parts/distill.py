"""Distillation: how much of the ensemble's gain a student has, beside the same network without a teacher.

Student and label-only network are trained with the same seeds, as long as the winner. A gain is the logarithm of the
label-only network's loss over the other's, so that tasks count alike. Recovered is the mean gain of the students over
that of the ensembles, with a 95 % interval: runs are resampled within tasks (bootstrap), tasks are fixed. The mean of
the runs' own ratios beside it says little: where the ensemble has no gain a ratio is anything.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_parts.runs import Row

RESAMPLES = 10_000


def judge(distilled: Mapping[str, Any], ensemble: Mapping[str, Any]) -> Row:
    """What the distill stage found, from the ledger's entries."""
    kept = ("pairs", "mean_gain", "gain_error", "recovered", "validation")
    chosen = {name: value for name, value in distilled["configuration"].items() if name.startswith("distill.")}
    test = {"ensemble": ensemble["test"]["ensemble"], **distilled["test"]}
    return {"test": test, "chosen": chosen, **{key: distilled[key] for key in kept}}


def gains(rows: Sequence[Row], split: str) -> NDArray[np.float64]:
    """Of student and ensemble over the label-only network: logarithms of ratios of losses; shape (runs, 2)."""
    losses = [[row["student"][split][who]["loss"] for who in ("label_only", "student", "ensemble")] for row in rows]
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
            "mean of ratios", "student better in")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    present = [task for task in tasks if any(row["task"] == task for row in rows)]
    for name in (*present, "all"):
        of_tasks = [[row for row in rows if row["task"] == task] for task in (present if name == "all" else [name])]
        some = [row for one in of_tasks for row in one]
        found = [gains(one, split) for one in of_tasks]
        student, ensemble = np.mean([one.mean(axis=0) for one in found], axis=0)
        better = sum(int((one[:, 0] > 0).sum()) for one in found)
        share, low, high = recovered(found)
        ratios = np.mean([(one[:, 0] / one[:, 1]).mean() for one in found])
        losses = [
            "" if name == "all" else f"{np.mean([row['student'][split][who]['loss'] for row in some]):.4f}"
            for who in ("label_only", "student", "ensemble")
        ]
        lines.append(
            f"| {name} | {len(some)} | {' | '.join(losses)} | {student:+.3f} | {ensemble:+.3f} | "
            f"{share:.0%} ({low:.0%} to {high:.0%}) | {ratios:.0%} | {better} of {len(some)} |"
        )
    return "\n".join(lines)
