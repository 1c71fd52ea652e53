"""The stored pool of random trainings, and the target that follows from it."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from live_methods.problems import Problem, random_configuration
from orchestrator.errors import InfeasibleTrialError
from orchestrator.seeds import derive_seed
from orchestrator.types import Configuration, TrialSpec

SIZE = 300
"""Trainings of a pool."""
RANDOM_TRAININGS = 200
"""How many trainings random search needs for the target (the project's own goal)."""
RESAMPLES = 10_000


@dataclass(frozen=True)
class Training:
    """One random training of the pool: a line of its file."""

    index: int
    seed: int
    configuration: Configuration
    curve: Sequence[float]
    """Validation loss after each epoch."""
    failure: str
    """Why it ended early; empty if it did not."""
    cpu_s: float

    @property
    def best(self) -> float:
        """The best of the curve; infinite if no epoch was finished."""
        return min(self.curve, default=float("inf"))


@dataclass(frozen=True)
class Target:
    """What the methods are to reach, with what is known of its error."""

    loss: float
    """The geometric mean over resamples of the best of 200 trainings.

    Not the median: of 300 trainings that is nearly always the second best, which random search matches
    in 104 trainings.
    """
    low: float
    """5 % of resamples have a lower one."""
    high: float
    """5 % of resamples have a higher one."""
    reaching: int
    """Trainings of the pool that reach it."""
    default_needs: float
    """Trainings that random search needs, in the median, to match the best of the default's curve."""


def fingerprint(problem: Problem) -> str:
    """Changes when the task, its budget, its defaults or its ranges change: a pool is never continued as another."""
    facts = {
        "task": [problem.config.task.target, dict(problem.config.task.args)],
        "epochs": problem.config.trainer.epochs,
        "optimizer": problem.base["optimizer.name"],
        "searched": {
            name: [problem.base[name], item.low, item.high, item.scale] for name, item in problem.ranges.items()
        },
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def pool_path(folder: Path, problem: Problem) -> Path:
    """Where the pool of ``problem`` is kept; the name holds its fingerprint."""
    return folder / f"pool-{problem.name}-{fingerprint(problem)}.jsonl"


def read_pool(path: Path) -> list[Training]:
    """The whole lines of the file: index 0 is the default, then come the random trainings."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [Training(**json.loads(line)) for line in lines if line.endswith("\n")]


def extend_pool(path: Path, problem: Problem, size: int) -> None:
    """Train what is missing; each training is written when it ends."""
    done = read_pool(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Rewritten without a half line that a kill may have left.
    path.write_text("".join(_line(training) for training in done), encoding="utf-8")
    for index in range(len(done), size + 1):
        training = train(problem, index)
        with path.open("a", encoding="utf-8") as handle:
            handle.write(_line(training))


def _line(training: Training) -> str:
    return json.dumps(asdict(training)) + "\n"


def train(problem: Problem, index: int) -> Training:
    """Training ``index`` of the pool: the default at 0, a random configuration elsewhere."""
    seed = derive_seed("pool", problem.name, index)
    configuration = problem.base if index == 0 else random_configuration(problem, seed)
    spec = TrialSpec(index, "pool", configuration, seed, problem.config.trainer.epochs, Path(), keep=False)
    began, curve, failure = time.process_time(), [], ""
    try:
        for result in problem.program(spec):
            curve.append(result.value)
    except InfeasibleTrialError as error:
        failure = str(error)
    return Training(index, seed, configuration, curve, failure, round(time.process_time() - began, 3))


def target(pool: Sequence[Training], seed: int = 0) -> Target:
    """What random search reaches with 200 trainings, by drawing them from the pool with replacement."""
    best = np.array([training.best for training in pool if training.index > 0])
    generator = np.random.default_rng(seed)
    draws = np.array([best[generator.integers(len(best), size=RANDOM_TRAININGS)].min() for _ in range(RESAMPLES)])
    low, high = np.quantile(draws, [0.05, 0.95], method="nearest")
    loss = np.exp(np.log(draws).mean())
    default = next(training.best for training in pool if training.index == 0)
    share = float((best <= default).mean())
    needs = float(np.log(0.5) / np.log1p(-share)) if 0 < share < 1 else float("inf" if share == 0 else 1)
    return Target(float(loss), float(low), float(high), int((best <= loss).sum()), needs)


def random_epochs(pool: Sequence[Training], loss: float, seed: int = 0) -> float:
    """Epochs that random search needs for ``loss``: the median over resampled orders; its curves are stored."""
    trainings = [training for training in pool if training.index > 0]
    cost = np.array([max(len(training.curve), 1) for training in trainings])
    first = np.array([_first(training.curve, loss) for training in trainings])
    if not np.isfinite(first).any():
        return float("inf")
    generator = np.random.default_rng(seed)
    totals = []
    for _ in range(RESAMPLES // 10):
        spent = 0.0
        while True:
            chosen = int(generator.integers(len(trainings)))
            if np.isfinite(first[chosen]):
                totals.append(spent + first[chosen])
                break
            spent += cost[chosen]
    return float(np.median(totals))


def _first(curve: Sequence[float], loss: float) -> float:
    """The epoch (from 1) at which ``curve`` reaches ``loss``; infinite if it does not."""
    return next((epoch for epoch, value in enumerate(curve, start=1) if value <= loss), float("inf"))
