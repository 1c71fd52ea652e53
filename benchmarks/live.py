"""Real training on two workers: epochs and seconds until a search matches 200 random trainings.

    python benchmarks/live.py pool                 # 300 random trainings a task; goes on where it was
    python benchmarks/live.py targets              # what follows from the pools
    python benchmarks/live.py run                  # 4 methods, 5 seeds; finished runs are skipped
    python benchmarks/live.py run --quiet          # the same again, for the seconds: on an idle machine
    python benchmarks/live.py table                # what the runs say

See README.md beside this file.
"""

import argparse
import math
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from live_methods import optuna_processes, tables
from live_methods.jobs import Job, Run, perform, read_run, run_path, scratch, write_run
from live_methods.ours import ours
from live_methods.pool import SIZE, Training, extend_pool, pool_path, random_epochs, read_pool, target
from live_methods.problems import CAP, TASKS, Problem, problem

RESULTS = Path(__file__).resolve().parent / "results" / "live"
Command = Callable[[Job], Sequence[str]]


def ray_tune(job: Job) -> Sequence[str]:
    # Here: importing Ray takes seconds that only this method need pay.
    from live_methods.ray_tune import asha

    return asha(job)


METHODS: Mapping[str, Command] = {
    tables.OURS: ours,
    "optuna_tpe_halving": optuna_processes.tpe_halving,
    "ray_optuna_asha": ray_tune,
    "optuna_gp": optuna_processes.gp,
}
"""Name to what gives the command of a run."""


def pool_of(folder: Path, item: Problem, least: int = SIZE) -> list[Training]:
    """The task's pool.

    Raises:
        SystemExit: it has fewer than ``least`` random trainings.
    """
    found = read_pool(pool_path(folder, item))
    if len(found) <= least:
        sys.exit(
            f"{item.name}: {max(len(found) - 1, 0)} of {least} random trainings in {folder}; "
            f"run: python benchmarks/live.py pool --tasks {item.name}"
        )
    return found


def show_targets(words: argparse.Namespace) -> None:
    """Targets and what the pools cost."""
    heading = ("default", "trainings", "diverged", "epochs a training", "CPU s a training", "random: epochs")
    facts: dict[str, Sequence[str]] = {"heading": heading}
    targets = {}
    for name in words.tasks:
        pool = pool_of(words.folder, problem(name), least=1)
        targets[name] = target(pool)
        drawn = pool[1:]
        facts[name] = (
            f"{pool[0].best:.4f}",
            str(len(drawn)),
            str(sum(bool(item.failure) for item in drawn)),
            f"{statistics.mean(len(item.curve) for item in drawn):.1f}",
            f"{statistics.mean(item.cpu_s for item in drawn):.2f}",
            f"{random_epochs(pool, targets[name].loss):.0f}",
        )
    print(tables.target_table(targets, facts))


def run_folder(words: argparse.Namespace) -> Path:
    """Runs whose seconds count are kept apart from those made beside other work."""
    return Path(words.folder) / ("quiet" if words.quiet else "counted")


def run_all(words: argparse.Namespace) -> None:
    """Every run that is missing, a seed at a time and the methods in turn: what disturbs one disturbs all."""
    goals = {name: target(pool_of(words.folder, problem(name))).loss for name in words.tasks}
    for seed in words.seeds:
        for name, goal in goals.items():
            for method in words.methods:
                path = run_path(run_folder(words), method, name, seed)
                if not path.exists():
                    run = one(Job(method, name, seed, Path(), words.workers), goal, words)
                    write_run(path, run)
                    print(said(run), flush=True)


def one(job: Job, goal: float, words: argparse.Namespace) -> Run:
    """One run in a folder of its own."""
    with scratch() as folder:
        job = Job(job.method, job.task, job.seed, Path(folder), job.workers)
        cap = words.cap * problem(job.task).config.trainer.epochs
        return perform(
            job,
            METHODS[job.method],
            target=goal,
            cap_epochs=cap,
            quiet=words.quiet,
            timeout_s=words.timeout_s,
        )


def said(run: Run) -> str:
    """A line about a run."""
    best = min((row.best for row in run.reports), default=math.inf)
    return (
        f"{run.task:14} {run.method:20} seed {run.seed}: {run.end:7} after {tables.last_epochs(run):7.1f} epochs, "
        f"{tables.last_seconds(run):6.1f} s; best {best:.4f}, target {run.target:.4f}"
    )


def show_table(words: argparse.Namespace) -> None:
    """The tables of the runs that are there."""
    runs = []
    for name in words.tasks:
        goal = target(pool_of(words.folder, problem(name))).loss
        for method in words.methods:
            for path in sorted(run_folder(words).glob(f"runs/{name}-{method}-seed*.jsonl")):
                run = read_run(path)
                if run.target != goal:
                    sys.exit(f"{path}: was run for the target {run.target}, the pool now says {goal}; remove it")
                runs.append(run)
    tasks = [name for name in words.tasks if any(run.task == name for run in runs)]
    random = {name: random_epochs(pool := pool_of(words.folder, problem(name)), target(pool).loss) for name in tasks}
    epochs = tables.cells(runs, lambda run: run.epochs_to_target, tables.last_epochs)
    print("epochs to target: median over seeds (seeds that reached it)\n")
    print(tables.to_target(epochs, tasks, words.methods, random))
    seconds = tables.cells(runs, lambda run: run.seconds_to_target, tables.last_seconds)
    print(
        "\nseconds to target, from the start of the command" + ("" if words.quiet else "; the machine was NOT idle")
    )
    print("\n" + tables.to_target(seconds, tasks, words.methods, {}))


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    added = {name: verbs.add_parser(name) for name in ("pool", "targets", "run", "table")}
    for verb in added.values():
        verb.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
        verb.add_argument("--folder", type=Path, default=RESULTS)
    added["pool"].add_argument("--size", type=int, default=SIZE)
    for name in ("run", "table"):
        added[name].add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
        added[name].add_argument("--quiet", action="store_true", help="runs whose seconds mean something")
    run = added["run"]
    run.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    run.add_argument("--workers", type=int, default=2)
    run.add_argument("--cap", type=int, default=CAP, help="full trainings after which a run is given up")
    run.add_argument("--timeout-s", type=float, default=3600.0, help="seconds after which a run is given up")
    return parser


def main() -> None:
    words = arguments().parse_args()
    if words.verb == "pool":
        for name in words.tasks:
            extend_pool(pool_path(words.folder, problem(name)), problem(name), words.size)
    else:
        {"targets": show_targets, "run": run_all, "table": show_table}[words.verb](words)


if __name__ == "__main__":
    main()
