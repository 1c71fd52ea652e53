"""How many trials run out of memory, and what is found all the same: the staged sampler against Optuna's TPE.

``python benchmarks/memory.py``. See README.md beside this file.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable

import optuna
from optuna.samplers import BaseSampler, TPESampler

from orchestrator import StagedSampler, compose, simulate
from orchestrator.errors import InfeasibleTrialError
from orchestrator.types import Configuration, MemoryUse, Reason

LIMIT = 18.5
"""Most that log2 of batch size, width and depth may sum to."""
BEST = {"batch_size": 8.0, "width": 11.0, "depth": 3.0}
"""log2 of where the objective would be least if memory were endless: they sum to 22."""
FAILED = 20.0
"""What a trial is told that ran out of memory; above the objective anywhere."""


def loss(lr: float, batch_size: int, width: int, depth: int) -> float:
    """Least, 3.5**2 / 3 times 0.1, on the limit; 0.5 for each decade that the learning rate is off, squared."""
    at = {"batch_size": math.log2(batch_size), "width": math.log2(width), "depth": math.log2(depth)}
    return 0.1 * sum((at[name] - BEST[name]) ** 2 for name in BEST) + 0.5 * (math.log10(lr) + 2) ** 2


def objective(trial: optuna.Trial) -> float:
    """One trial: it fits or it does not, and nothing says how nearly."""
    lr = trial.suggest_float("lr", 1e-5, 1.0, log=True)
    batch_size = trial.suggest_int("batch_size", 2**4, 2**13, log=True)
    width = trial.suggest_int("width", 2**4, 2**13, log=True)
    depth = trial.suggest_int("depth", 1, 12)
    fails = math.log2(batch_size) + math.log2(width) + math.log2(depth) > LIMIT
    trial.set_constraint("memory", 1.0 if fails else -1.0)
    return FAILED if fails else loss(lr, batch_size, width, depth)


SMALL = {"lr": 1e-3, "batch_size": 64, "width": 64, "depth": 2}
"""A first configuration that surely fits; the learning rate is a decade off."""
NAMES = {"lr": "optimizer.lr", "batch_size": "data.batch_size", "width": "model.width", "depth": "model.depth"}
"""Hyperparameters here to those of the product."""


def in_optuna(sampler: BaseSampler, trials: int) -> tuple[int, float]:
    """Wasted trials, and the best value."""
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=trials)
    values = [trial.values[0] for trial in study.get_trials(deepcopy=False) if trial.constraints["memory"] <= 0]
    return trials - len(values), min(values, default=FAILED)


def curve(configuration: Configuration, seed: int) -> list[float]:
    """The same as a training of one epoch in the product, which knows what ran out of memory."""
    at = {name: configuration[ours] for name, ours in NAMES.items()}
    if math.log2(at["batch_size"]) + math.log2(at["width"]) + math.log2(at["depth"]) > LIMIT:
        raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "too large")
    return [loss(**at)]


def peak(configuration: Configuration) -> tuple[MemoryUse, ...]:
    """What is measured of a training: bytes in proportion to the three sizes, 2**14 for each unit."""
    product = math.prod(int(configuration[NAMES[name]]) for name in BEST)
    return (MemoryUse("gpu", 2**14 * product, int(2 ** (14 + LIMIT))),)


def in_a_sweep(
    seed: int, trials: int, memory: Callable[[Configuration], tuple[MemoryUse, ...]] = lambda _: ()
) -> tuple[int, float]:
    """The same for a stage of the product, which begins at the small configuration."""
    words = ["stage=joint", f"n_trials={trials}", f"seed={seed}", "trainer.epochs=1", "recipe.repeats=0"]
    words += [f"stages.joint.varies=[{','.join(NAMES.values())}]", *(f"{NAMES[n]}={v}" for n, v in SMALL.items())]
    for name, high in (("data.batch_size", 2**13), ("model.width", 2**13), ("model.depth", 12)):
        low = 1 if name == "model.depth" else 2**4
        words += [f"space.{name}.low={low}", f"space.{name}.high={high}", f"space.{name}.limits=[{low},{high}]"]
    words += ["space.optimizer.lr.low=1e-5", "space.optimizer.lr.limits=[1e-5,1.0]"]
    found = simulate(compose(words), curve, memory=memory)
    values = [trial.value for trial in found.trials if trial.value is not None]
    assert len(found.trials) == trials
    return trials - len(values), min(values, default=FAILED)


METHODS: dict[str, Callable[[int, int], tuple[int, float]]] = {
    "StagedSampler": lambda seed, trials: in_optuna(StagedSampler(epochs=1, seed=seed), trials),
    "StagedSampler, small start": lambda seed, trials: in_optuna(
        StagedSampler(epochs=1, seed=seed, start=SMALL), trials
    ),
    "stage=joint, small start": in_a_sweep,
    "the same, peaks measured": lambda seed, trials: in_a_sweep(seed, trials, peak),
    "TPE with constraints": lambda seed, trials: in_optuna(TPESampler(seed=seed), trials),
}
"""Seed and number of trials to wasted trials and best value."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    words = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    best = 0.1 * (sum(BEST.values()) - LIMIT) ** 2 / 3
    print(f"{words.trials} trials, {words.seeds} seeds; no value is below {best:.3f}")
    print(f"{'method':<28}{'wasted (each seed)':<32}{'mean':>6}{'best value':>12}{'worst':>8}{'s a trial':>11}")
    for name in words.methods:
        began = time.perf_counter()
        found = [METHODS[name](seed, words.trials) for seed in range(words.seeds)]
        seconds = (time.perf_counter() - began) / words.trials / words.seeds
        wasted, values = [waste for waste, _ in found], [value for _, value in found]
        each = " ".join(map(str, wasted))
        mean = statistics.mean(wasted)
        print(f"{name:<28}{each:<32}{mean:>6.1f}{statistics.mean(values):>12.3f}{max(values):>8.3f}{seconds:>11.3f}")


if __name__ == "__main__":
    main()
