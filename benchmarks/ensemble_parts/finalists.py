"""Regret of selection: how much the finalists' winner loses, on test, to the best of the finalists.

Each run is a short search and its finalists on one shipped task, none of them dropped early, so that every finalist
has the same seeds. All trainings are then scored on test (the objective). The winner's regret is its mean there less
the best mean of a finalist. It is compared with three rulers, the strictest first:

- 1 SE: of a mean over the seeds: the seeds' standard deviation on test, pooled over the finalists of the run, over
  the root of their number. The best mean is the luckiest of several: even among equals it is often further away.
- 1 SE of the difference: of two such means, and of the test examples (bootstrap, paired): what test can tell apart.
- 1 SD: between the seeds of one training: what another seed would change.

Beside them what choosing at random would reach (the mean over the finalists), and what somebody would who knew how
good each trained network is: what test says is taken for the truth, and the test examples are drawn anew. (Test means
differ by more than the truth does, so that this is an upper bound.) Then who would be chosen by the value that the
search had, and how often a race drops the best on test.
Results are appended as they end; what is there is not run again.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemble_parts import runs
from ensemble_parts.runs import ROOT, Row

BUDGET = (
    "recipe.order=[lr,joint,finalists]",
    "sampler=tpe",
    "pruner=none",
    "n_trials=8",
    "trainer.epochs=8",
    "finalists.race=0",
    "trainer.keep_checkpoints=100",
)
"""16 trainings of 8 epochs, all to their end, so that there are finalists to choose between: a short staged search
finishes two or three. Then the finalists by their defaults."""
RACE = 0.05
RESAMPLES = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    runs.add_arguments(parser, "finalists")


def judge(sweep: Path, settings: Sequence[str]) -> Row:
    """Costs (less is better) by finalist and seed, on validation and on test."""
    entry = json.loads((sweep / "ledger.json").read_text())["stages"]["finalists"]
    whole = [item for item in entry["finalists"] if None not in item["values"]]
    test = scores(settings, sweep / "trials", [item["trials"] for item in whole])
    sign = test["sign"]
    return {
        "epochs": entry["epochs"],
        "winner": entry["winner"],
        "finalists": [item["trial"] for item in whole],
        "search": [sign * item["search_value"] for item in whole],
        "as_long": [None if item["as_long"] is None else sign * item["as_long"] for item in whole],
        "validation": [[sign * value for value in item["values"]] for item in whole],
        "curves": test["curves"],
        "test": test["costs"],
        "resampled": test["resampled"],
    }


def scores(settings: Sequence[str], folder: Path, trials: Sequence[Sequence[int]]) -> Mapping[str, Any]:
    """Cost on test of each trial's best weights, of each finalist on resampled test examples (mean over its seeds),
    costs on validation by epoch, and the sign that makes a cost of the objective."""
    # Here: PyTorch is not needed to read a table of results.
    import torch

    from orchestrator import compose
    from orchestrator.config.hyperparameters import from_flat
    from orchestrator.stages.sweep import STUDY_FILE, make_plan
    from orchestrator.study.storage import open_journal, quiet_optuna
    from orchestrator.study.study import SweepStudy
    from orchestrator.training import checkpoint
    from orchestrator.training.loop import predict

    torch.set_num_threads(1)
    quiet_optuna()
    plan = make_plan(compose(["stage=all", *settings]))
    study = SweepStudy(
        open_journal(folder.parent / STUDY_FILE, writable=False), "run", plan.task.direction, plan.space
    )
    splits = plan.task.splits()
    generator = torch.Generator().manual_seed(0)
    direction, objective = plan.task.direction, plan.task.objective

    def predicted(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        model = plan.task.model(**from_flat(study[number].configuration).model)
        model.load_state_dict(checkpoint.load(folder / f"{number:06d}")["best"]["model"])
        return predict(plan.task, model, splits.test, plan.config.trainer)

    def cost(predictions: torch.Tensor, targets: torch.Tensor) -> float:
        return direction.cost(plan.task.score(predictions, targets)[objective])

    known = [[predicted(number) for number in row] for row in trials]
    count = len(known[0][0][1])
    draws = [torch.randint(count, (count,), generator=generator) for _ in range(RESAMPLES)]
    return {
        "costs": [[cost(*pair) for pair in row] for row in known],
        "resampled": [[statistics.mean(cost(p[d], t[d]) for p, t in row) for d in draws] for row in known],
        "curves": [[[direction.cost(v) for _, v in sorted(study[n].curve.items())] for n in row] for row in trials],
        "sign": direction.cost(1.0),
    }


def judged(row: Row) -> Mapping[str, float]:
    """What came of one run."""
    from orchestrator.stages.race import losers

    means = [statistics.mean(costs) for costs in row["test"]]
    seeds = len(row["test"][0])
    pooled = math.sqrt(statistics.mean(statistics.variance(costs) for costs in row["test"]))
    error = pooled / math.sqrt(seeds)
    won = row["finalists"].index(row["winner"])
    searched = min(range(len(means)), key=lambda at: row["search"][at])
    known = dict(enumerate(row["validation"]))
    out = {at for count in range(2, seeds) for at in losers({k: v[:count] for k, v in known.items()}, RACE)}
    best = means.index(min(means))
    examples = statistics.variance(a - b for a, b in zip(row["resampled"][won], row["resampled"][best], strict=True))
    known_error, known_difference = knowing(row["resampled"], best, error)
    lucky = [long - search for long, search in zip(row["as_long"], row["search"], strict=True) if long is not None]
    return {
        "regret": (means[won] - min(means)) / error,
        "difference": (means[won] - min(means)) / math.sqrt(2 * error**2 + examples),
        "random": statistics.mean((mean - min(means)) / error <= 1 for mean in means),
        "knowing": known_error,
        "knowing_difference": known_difference,
        "searched": (means[searched] - min(means)) / error,
        "sd": (means[won] - min(means)) / pooled,
        "relative": means[won] / min(means) - 1 if min(means) > 0 else math.nan,
        "dropped": len(out) / len(means),
        "best_dropped": float(best in out),
        "lucky": statistics.mean(lucky) / pooled if lucky else math.nan,
    }


def knowing(resampled: Sequence[Sequence[float]], best: int, error: float) -> tuple[float, float]:
    """How often the truly best finalist is within one standard error of a mean, and of the difference, on test.

    Args:
        resampled: cost of each finalist on each draw of test examples.
        best: which finalist is, by all test examples.
        error: standard error of a mean over the seeds.
    """
    strict, fair = [], []
    spread = [statistics.variance(a - b for a, b in zip(resampled[best], one, strict=True)) for one in resampled]
    for costs in zip(*resampled, strict=True):
        regret = costs[best] - min(costs)
        strict.append(regret <= error)
        fair.append(regret <= math.sqrt(2 * error**2 + spread[costs.index(min(costs))]))
    return statistics.mean(strict), statistics.mean(fair)


def table(rows: Sequence[Row], tasks: Sequence[str]) -> str:
    head = ("task", "runs", "within 1 SE", "1 SE of the difference", "1 SD", "1 SE: at random", "1 SE: knowing",
            "difference: knowing", "by the search", "mean regret", "median SE", "raced out", "best raced out",
            "search lucky by")  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name in [*tasks, "all"]:
        own = [judged(row) for row in rows if name in ("all", row["task"]) and row["task"] in tasks]
        if not own:
            continue

        def mean(key: str, own: Sequence[Mapping[str, float]] = own) -> float:
            values = [item[key] for item in own if not math.isnan(item[key])]
            return statistics.mean(values) if values else math.nan

        def share(key: str, own: Sequence[Mapping[str, float]] = own) -> str:
            count = sum(item[key] <= 1 for item in own)
            return f"{count} of {len(own)} ({count / len(own):.0%})"

        median = statistics.median(item["regret"] for item in own)
        lines.append(
            f"| {name} | {len(own)} | {share('regret')} | {share('difference')} | {share('sd')} | "
            f"{mean('random'):.0%} | {mean('knowing'):.0%} | {mean('knowing_difference'):.0%} | "
            f"{share('searched')} | {mean('relative'):.1%} | {median:.2f} | "
            f"{mean('dropped'):.0%} | {mean('best_dropped'):.0%} | {mean('lucky'):.2f} SD |"
        )
    return "\n".join(lines)


def run(words: argparse.Namespace) -> None:
    """Run what is missing, then print the table."""
    sys.path.insert(0, str(ROOT))
    rows = runs.missing(
        words,
        lambda task, seed: runs.one(task, seed, BUDGET, words, judge),
        lambda row: f"regret {judged(row)['regret']:.2f} SE",
    )
    print(table(rows, words.tasks))
