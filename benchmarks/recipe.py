"""Does the recipe pay? The whole of ``stage=all`` against AdamW at 1e-3 and against random search, on test.

For each task and seed: the recipe; one training of the task's defaults with AdamW at 1e-3; random search
over every hyperparameter that a stage varies, each trial trained in full, for at least as many epochs as
the recipe spent, finalists included. Each then combines what it has trained with the same ensemble stage,
which reads the test split once: loss of the best single model, and of the ensemble.

    python benchmarks/recipe.py                     # 4 tasks, 3 seeds
    python benchmarks/recipe.py --tasks digits_mlp --seeds 0 1
    python benchmarks/recipe.py --set +experiment=quick
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
from typing import Any

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


def test_losses(folder: Path) -> tuple[float, float]:
    """Loss on test: of the best single model, and of the ensemble."""
    test = json.loads((folder / "ledger.json").read_text())["stages"]["ensemble"]["test"]
    return test["single"]["loss"], test["ensemble"]["loss"]


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
        spent = epochs_spent(folder)
        single, ensemble = test_losses(folder)
        adamw, _ = _search(common, "adamw", 1, BASELINE)
        random_single, random_ensemble = _search(common, "random", math.ceil(spent / _budget(common)), ())
        return {
            "task": task,
            "seed": seed,
            "adamw": adamw,
            "random": random_single,
            "recipe": single,
            "random ens.": random_ensemble,
            "recipe ens.": ensemble,
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


def _search(common: list[str], name: str, trials: int, words: tuple[str, ...]) -> tuple[float, float]:
    """Losses on test of a joint random search of ``trials`` full trainings, the first of them the defaults."""
    varies = (
        "optimizer.lr,data.batch_size,optimizer.momentum,optimizer.beta1,model.width,model.depth,"
        "schedule.kind,schedule.warmup,schedule.final"
    )
    stage = f"+stages.uniform={{kind: search, asks: uniform, varies: [{varies}], n_trials: {trials}}}"
    order = "recipe.order=[uniform,ensemble]"
    command("stage=all", *common, stage, order, "sampler=random", "pruner=none", f"sweep.name={name}", *words)
    folder = next(word.removeprefix("sweep.dir=") for word in common if word.startswith("sweep.dir="))
    return test_losses(Path(folder) / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--set", nargs="*", default=[], help="overrides for every command")
    options = parser.parse_args()
    jobs = [(task, seed, options.set) for task in options.tasks for seed in options.seeds]
    rows: list[dict[str, Any]] = []
    with multiprocessing.get_context("spawn").Pool(options.jobs, maxtasksperchild=1) as pool:
        for row in pool.imap(one, jobs):
            if not rows:
                print("  ".join(f"{column:>13}" for column in row))
            cells = (f"{cell:>13.4g}" if isinstance(cell, float) else f"{cell!s:>13}" for cell in row.values())
            print("  ".join(cells), flush=True)
            rows.append(row)
    pairs = (("recipe", "adamw"), ("recipe", "random"), ("recipe ens.", "random ens."), ("recipe ens.", "recipe"))
    for task in options.tasks:
        own = [row for row in rows if row["task"] == task]
        ratios = [
            f"{ours} / {other} {statistics.geometric_mean(float(row[ours]) / float(row[other]) for row in own):.3f}"
            for ours, other in pairs
        ]
        print(f"{task}, test loss: {'; '.join(ratios)}")


if __name__ == "__main__":
    main()
