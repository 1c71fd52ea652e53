"""Does the recipe pay? The whole of ``stage=all`` against AdamW at 1e-3 and against random search.

For each task and seed, on the local runner: the recipe; one training of the task's defaults with AdamW
at 1e-3; random search over every hyperparameter that any stage varies, each trial trained in full, for
at least as many epochs as the recipe spent. All are compared by the objective on validation (the best
each method saw there), and the recipe's winner and ensemble on test.

    python benchmarks/recipe.py                     # 4 tasks, 3 seeds
    python benchmarks/recipe.py --tasks digits_mlp --seeds 0 1
"""

import argparse
import contextlib
import io
import json
import math
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

TASKS = ("digits_mlp", "digits_cnn", "breast_cancer", "diabetes")
BASELINE = ("optimizer.name=adamw", "optimizer.lr=0.001")


def command(*words: str) -> None:
    """Run one command of the product in this process, its output swallowed; fails if the command does."""
    from orchestrator.app.main import main

    with contextlib.redirect_stdout(io.StringIO()):
        code = main([*words])
    if code != 0:
        raise SystemExit(f"{' '.join(words)} ended with {code}")


def epochs_spent(folder: Path) -> int:
    return sum(len(path.read_text().splitlines()) for path in folder.glob("trials/*/metrics.jsonl"))


def best_value(folder: Path, stage: str) -> float:
    ledger = json.loads((folder / "ledger.json").read_text())
    return float(ledger["stages"][stage]["best_value"])


def one(job: tuple[str, int, list[str]]) -> dict[str, float | str]:
    """All methods on one task and seed."""
    task, seed, extra = job
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    with tempfile.TemporaryDirectory() as scratch:
        common = [f"task={task}", f"seed={seed}", "runner=inline", "tracking=none", f"sweep.dir={scratch}", *extra]
        started = time.perf_counter()
        command("stage=all", *common, "sweep.name=recipe")
        seconds = time.perf_counter() - started
        folder = Path(scratch) / "recipe"
        ledger = json.loads((folder / "ledger.json").read_text())
        spent = epochs_spent(folder)
        adamw = _search(scratch, common, "adamw", 1, [*BASELINE, "sampler=random"])
        per_trial = _budget(common)
        random = _search(scratch, common, "random", math.ceil(spent / per_trial), ["sampler=random"])
        test = ledger["stages"]["ensemble"]["test"]
        return {
            "task": task,
            "seed": seed,
            "recipe": best_value(folder, "depth"),
            "adamw": adamw,
            "random": random,
            "test single": test["single"]["loss"],
            "test ensemble": test["ensemble"]["loss"],
            "epochs": spent,
            "seconds": seconds,
        }


def _budget(common: list[str]) -> int:
    from hydra import compose, initialize_config_dir

    from orchestrator.config.compose import to_run_config
    from orchestrator.config.entry import register_options
    from orchestrator.files import data_folder

    register_options()
    with initialize_config_dir(str(data_folder("conf")), version_base="1.3"):
        return to_run_config(compose("config", common)).trainer.epochs


def _search(scratch: str, common: list[str], name: str, trials: int, words: list[str]) -> float:
    """A joint search of ``trials`` full trainings, the first of them the defaults."""
    varies = (
        "optimizer.lr,data.batch_size,optimizer.momentum,optimizer.beta1,model.width,model.depth,"
        "schedule.kind,schedule.warmup,schedule.final"
    )
    stage = f"+stages.joint={{kind: search, asks: joint, varies: [{varies}], n_trials: {trials}}}"
    command(*common, stage, "stage.name=joint", "pruner=none", f"sweep.name={name}", *words)
    return best_value(Path(scratch) / name, "joint")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--set", nargs="*", default=[], help="overrides for every command")
    options = parser.parse_args()
    jobs = [(task, seed, options.set) for task in options.tasks for seed in options.seeds]
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        rows = pool.map(one, jobs, chunksize=1)
    columns = list(rows[0])
    print("  ".join(f"{column:>13}" for column in columns))
    for row in rows:
        print("  ".join(f"{row[c]:>13.4g}" if isinstance(row[c], float) else f"{row[c]!s:>13}" for c in columns))
    for task in options.tasks:
        own = [row for row in rows if row["task"] == task]
        ratios = {
            other: statistics.geometric_mean(float(row["recipe"]) / float(row[other]) for row in own)
            for other in ("adamw", "random")
        }
        gain = statistics.geometric_mean(float(row["test ensemble"]) / float(row["test single"]) for row in own)
        print(
            f"{task}: recipe/adamw {ratios['adamw']:.3f}, recipe/random {ratios['random']:.3f} (validation loss); "
            f"ensemble/single {gain:.3f} (test loss)"
        )


if __name__ == "__main__":
    main()
