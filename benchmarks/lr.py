"""Does ``stage=lr`` find the learning rate? Against a dense grid of five times its cost, on the shipped tasks.

    python benchmarks/lr.py grid                   # 30 rates, 6 seeds, 4 tasks; goes on where it was
    python benchmarks/lr.py run                    # stage=lr with 5 seeds; runs that are there are not made again
    python benchmarks/lr.py table

The grid lies evenly (in logarithms) over the range that the stage searches; each rate is trained in full with several
seeds, the same for all rates, and its loss is the mean of their best validation losses. What the grid itself cannot
tell is said, too: where the best rate lies when seeds are drawn anew from its own. The stage has its default budget
of 6 full trainings, a fifth of a grid with one seed.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before NumPy is imported: these networks are too small for two

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))

TASKS = ("digits_mlp", "digits_cnn", "breast_cancer", "diabetes")
RATES = 30
SEEDS = 6
"""Of the grid. With three, the best rate on diabetes was 30 times as large."""
FACTOR = 1.5
"""The goal: how far from the best rate the stage's may lie."""
RESAMPLES = 1000
SURE = 0.9
"""Share of the resamples whose best rate lies in ``Grid.likely``."""


@dataclass(frozen=True)
class Training:
    """One training of the grid."""

    task: str
    rate: float
    seed: int
    loss: float
    """The best of its curve; infinite if it diverged before the end of its first epoch."""


@dataclass(frozen=True)
class Run:
    """One ``stage=lr``."""

    task: str
    seed: int
    rate: float
    """Of the best trial."""
    epochs: int


@dataclass(frozen=True)
class Grid:
    """What a task's trainings say. Losses have shape (rates, seeds)."""

    rates: np.ndarray
    losses: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Over the seeds, shape (rates,); infinite where one diverged."""
        return np.asarray(self.losses.mean(axis=1))

    @property
    def best(self) -> int:
        """Position of the best rate."""
        return int(self.mean.argmin())

    @property
    def deviation(self) -> float:
        """Standard deviation between seeds, over the rates whose loss is within a factor of 1.5 of the best."""
        near = self.losses[self.mean < 1.5 * self.mean.min()]
        return math.sqrt(float(near.var(axis=1, ddof=1).mean()))

    @property
    def flat(self) -> tuple[float, float]:
        """The least and the greatest rate around the best whose means are within one such deviation of its mean."""
        good = self.mean <= self.mean.min() + self.deviation
        low = high = self.best
        while low > 0 and good[low - 1]:
            low -= 1
        while high + 1 < len(good) and good[high + 1]:
            high += 1
        return float(self.rates[low]), float(self.rates[high])

    @property
    def likely(self) -> tuple[float, float]:
        """Where the best rate lies in ``SURE`` of the grids whose seeds are drawn from this one's."""
        count = self.losses.shape[1]
        drawn = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
        best = self.losses[:, drawn].mean(axis=2).argmin(axis=0)
        ends = np.quantile(best, [(1 - SURE) / 2, (1 + SURE) / 2], method="nearest")
        return float(self.rates[ends[0]]), float(self.rates[ends[1]])

    def loss(self, rate: float) -> float:
        """Mean loss at ``rate``, between two of the grid by a straight line in log rate and log loss."""
        known = np.isfinite(self.mean)
        return math.exp(np.interp(math.log(rate), np.log(self.rates[known]), np.log(self.mean[known])))


def train_grid(tasks: Sequence[str], path: Path) -> None:
    """Train what is missing; each is kept as it ends."""
    done = {(row["task"], row["rate"], row["seed"]) for row in _read(path)}
    for seed in range(SEEDS):
        for task in tasks:
            for training in _trainings(task, seed, done):
                _append(path, asdict(training))
                print(f"{task} seed {seed} rate {training.rate:.3g}: {training.loss:.4g}", flush=True)


def _trainings(task: str, seed: int, done: set[tuple[str, float, int]]) -> Iterator[Training]:
    # Here: PyTorch is not needed to print a table.
    from orchestrator import compose
    from orchestrator.errors import InfeasibleTrialError
    from orchestrator.seeds import derive_seed
    from orchestrator.stages.sweep import make_plan
    from orchestrator.trial import TrainingProgram
    from orchestrator.types import TrialSpec

    plan = make_plan(compose(["stage=lr", f"task={task}"]))
    program = TrainingProgram(plan.config.task, plan.config.trainer, threads=1)
    low, high = plan.space["optimizer.lr"].config.low, plan.space["optimizer.lr"].config.high
    for rate in np.geomspace(float(low or 0), float(high or 0), RATES).tolist():
        if (task, rate, seed) in done:
            continue
        configuration = {**plan.base, "optimizer.lr": rate}
        number = derive_seed("lr grid", task, seed)
        spec = TrialSpec(0, "grid", configuration, number, plan.config.trainer.epochs, Path(), keep=False)
        best = math.inf
        try:
            for result in program(spec):
                best = min(best, plan.task.direction.cost(result.value))
        except InfeasibleTrialError:
            pass  # diverged: what its curve had reached counts, as it does in a sweep
        yield Training(task, rate, seed, best)


def run_stage(tasks: Sequence[str], seeds: Sequence[int], path: Path, extra: Sequence[str]) -> None:
    """Make the runs that are missing."""
    done = {(row["task"], row["seed"]) for row in _read(path)}
    for seed in seeds:
        for task in tasks:
            if (task, seed) not in done:
                run = _stage(task, seed, extra)
                _append(path, asdict(run))
                print(f"{task} seed {seed}: rate {run.rate:.3g} after {run.epochs} epochs", flush=True)


def _stage(task: str, seed: int, extra: Sequence[str]) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        where = [f"sweep.dir={folder}", "sweep.name=run", "tracking=none", "runner=inline"]
        words = ["stage=lr", f"task={task}", f"seed={seed}", *where, *extra]
        command = [sys.executable, str(ROOT.parent / "run.py"), *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
        verdict = json.loads((Path(folder) / "run" / "ledger.json").read_text())["stages"]["lr"]
        return Run(task, seed, float(verdict["changed"]["optimizer.lr"][1]), int(verdict["epochs"]))


def grid_of(rows: Sequence[Mapping[str, Any]], task: str) -> Grid:
    """The grid of a task.

    Raises:
        SystemExit: some of its trainings are missing.
    """
    losses = {(row["rate"], row["seed"]): row["loss"] for row in rows if row["task"] == task and row["seed"] < SEEDS}
    rates = sorted({rate for rate, _ in losses})
    if len(losses) < RATES * SEEDS:
        sys.exit(f"{task}: {len(losses)} of {RATES * SEEDS} trainings of the grid; run: python benchmarks/lr.py grid")
    table = [[losses[rate, seed] for seed in range(SEEDS)] for rate in rates]
    return Grid(np.array(rates, dtype=float), np.array(table, dtype=float))


def factor(rate: float, other: float) -> float:
    """How many times the greater of two rates is the lesser."""
    return max(rate / other, other / rate)


def outside(rate: float, between: tuple[float, float]) -> float:
    """The factor by which ``rate`` misses an interval; 1 within."""
    return max(1.0, between[0] / rate, rate / between[1])


def show(tasks: Sequence[str], grids: Path, runs: Path) -> None:
    """The table; beside the stage, what one seed of the grid would have chosen, judged by the others."""
    rows, done = _read(grids), _read(runs)
    head = ("task", "best rate", f"in {SURE:.0%} of resamples", "flat part", "chosen by", "rates",
            f"factor: median (within {FACTOR})", f"within {FACTOR} of the resamples'", "in the flat part",
            "loss over the best: mean (in deviations)", "epochs")  # fmt: skip
    print("| " + " | ".join(head) + " |\n|" + " --- |" * len(head))
    for task in tasks:
        grid = grid_of(rows, task)
        own = [row for row in done if row["task"] == task]
        if own:
            chosen = [(float(row["rate"]), grid) for row in own]
            print(_line(grid, task, "stage=lr", chosen, statistics.mean(row["epochs"] for row in own)))
        picked = grid.losses.argmin(axis=0)
        single = [(float(grid.rates[best]), _without(grid, seed)) for seed, best in enumerate(picked)]
        print(_line(grid, task, "grid, one seed", single, math.nan))


def _without(grid: Grid, seed: int) -> Grid:
    return Grid(grid.rates, np.delete(grid.losses, seed, axis=1))


def _line(grid: Grid, task: str, who: str, chosen: Sequence[tuple[float, Grid]], epochs: float) -> str:
    factors = [factor(rate, judge.rates[judge.best]) for rate, judge in chosen]
    over = [judge.loss(rate) / judge.mean.min() - 1 for rate, judge in chosen]
    deviations = [(judge.loss(rate) - judge.mean.min()) / grid.deviation for rate, judge in chosen]
    likely, flat = grid.likely, grid.flat
    near = sum(outside(rate, judge.likely) <= FACTOR for rate, judge in chosen)
    level = sum(outside(rate, judge.flat) == 1 for rate, judge in chosen)
    cells = [
        task,
        f"{grid.rates[grid.best]:.3g}",
        f"{likely[0]:.2g}-{likely[1]:.2g}",
        f"{flat[0]:.2g}-{flat[1]:.2g}",
        who,
        " ".join(f"{rate:.2g}" for rate, _ in chosen),
        f"{statistics.median(factors):.2f} ({sum(item <= FACTOR for item in factors)} of {len(factors)})",
        f"{near} of {len(chosen)}",
        f"{level} of {len(chosen)}",
        f"{statistics.mean(over):.1%} ({statistics.mean(deviations):.2f})",
        "" if math.isnan(epochs) else f"{epochs:.0f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _read(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _append(path: Path, row: Mapping[str, object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("grid", "run", "table"))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="of the sweeps")
    parser.add_argument("--folder", type=Path, default=ROOT / "results" / "lr")
    parser.add_argument("--set", nargs="*", default=[], help="overrides for every stage=lr")
    words = parser.parse_args()
    grids, runs = words.folder / "grid.jsonl", words.folder / "runs.jsonl"
    if words.verb == "grid":
        train_grid(words.tasks, grids)
    elif words.verb == "run":
        run_stage(words.tasks, words.seeds, runs, words.set)
    else:
        show(words.tasks, grids, runs)


if __name__ == "__main__":
    main()
