"""The staged sampler in plain Optuna on made-up learning curves, against Optuna's own samplers and pruners.

    python benchmarks/landscapes.py                             # 7 kinds, 6 seeds, 4 methods: about 15 minutes of CPU
    python benchmarks/landscapes.py --kinds lr cross --methods ours random_halving --seeds 2
    python benchmarks/landscapes.py --methods ours --workers 4

benchmarks/search.py has curves of real networks, on which the settings were chosen; here is what those do not have. A
kind is a family of functions, a seed draws one of it: where the best configuration lies, how much each hyperparameter
matters, the least cost. What is printed is the logarithm of the cost of the best trained so far over the least
possible, at 2, 5, 10 and 20 full trainings (FT), mean over the seeds and, in brackets, the worst seed.

- ``lr``: the learning rate alone; larger rates learn faster at first
- ``smooth``: rate, batch size, momentum and width; the rate that counts depends on batch size and momentum
- ``additive``: the same, with costs that add up, so that logarithms of them grow apart with the epochs
- ``noisy``: ``smooth`` with seed noise of 5 %
- ``many``: eight hyperparameters, one of them a choice
- ``cross``: the same, with curves that cross: what is fast at first is far from what is best
- ``cliff``: the same, with rates above which nothing is learnt
"""

import argparse
import json
import math
import os
import statistics
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before NumPy is imported

import numpy as np  # noqa: E402
import optuna  # noqa: E402
from optuna.pruners import HyperbandPruner, SuccessiveHalvingPruner  # noqa: E402
from optuna.samplers import RandomSampler, TPESampler  # noqa: E402
from scipy.optimize import differential_evolution  # noqa: E402

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT.parent))

from orchestrator import StagedSampler  # noqa: E402

EPOCHS = 27
MARKS = (2, 5, 10, 20)
"""Full trainings at which is looked."""
START = 2.3
"""Cost before the first epoch."""
KINDS = ("lr", "smooth", "additive", "many", "cross", "cliff", "noisy")
RANGES: Mapping[str, tuple[float, float]] = {
    "lr": (1e-5, 1.0),
    "batch_size": (8, 512),
    "momentum": (0.0, 0.99),
    "width": (8, 512),
    "depth": (1, 5),
    "weight_decay": (1e-6, 0.1),
    "dropout": (0.0, 0.7),
}
LOG = ("lr", "batch_size", "width", "weight_decay")
WHOLE = ("batch_size", "width", "depth")
CHOICES = ("a", "b", "c")
Params = Mapping[str, Any]


def names_of(kind: str) -> list[str]:
    """The numeric hyperparameters of a kind."""
    count = 1 if kind == "lr" else 4 if kind in ("smooth", "additive", "noisy") else len(RANGES)
    return list(RANGES)[:count]


class Landscape:
    """One function of a kind, drawn by its seed."""

    def __init__(self, kind: str, seed: int) -> None:
        rng = np.random.default_rng(zlib.crc32(f"{kind}{seed}".encode()))
        self.kind = kind
        self.names = names_of(kind)
        self.best = {
            "lr": rng.uniform(-3, -1), "width": rng.uniform(5, 8.5), "depth": rng.integers(1, 6),
            "weight_decay": rng.uniform(-5, -2), "dropout": rng.uniform(0, 0.5), "batch_size": rng.uniform(4, 8),
            "momentum": rng.uniform(0.5, 0.95),
        }  # fmt: skip
        self.weights = rng.uniform(0.2, 0.5, 8)
        self.order = rng.permutation(len(CHOICES))
        self.least = rng.uniform(0.03, 0.3)

    def ask(self, trial: optuna.Trial) -> dict[str, Any]:
        """The hyperparameters, as a user's objective asks for them."""
        params: dict[str, Any] = {}
        for name in self.names:
            low, high = RANGES[name]
            if name in WHOLE:
                params[name] = trial.suggest_int(name, int(low), int(high), log=name in LOG)
            else:
                params[name] = trial.suggest_float(name, low, high, log=name in LOG)
        if len(self.names) == len(RANGES):
            params["choice"] = trial.suggest_categorical("choice", CHOICES)
        return params

    def _rate(self, params: Params) -> float:
        """Decades above the best rate, as batch size and momentum have it."""
        rate = math.log10(params["lr"]) - self.best["lr"]
        if self.kind == "lr":
            return rate
        rate -= 0.15 * (math.log2(params["batch_size"]) - self.best["batch_size"])
        return rate - 0.6 * math.log10((1.01 - params["momentum"]) / (1.01 - self.best["momentum"]))

    def _loss(self, params: Params, rate: float) -> float:
        """How far from the best the configuration is, from 0."""
        w, best = self.weights, self.best
        if self.kind == "lr":
            return float(0.6 * w[0] * rate**2 * (1 if rate < 0 else 3))
        loss = w[0] * rate**2 * (1 if rate < 0 else 2.5)
        loss += 0.03 * w[1] * (math.log2(params["width"]) - best["width"]) ** 2
        loss += 0.6 * w[2] * (params["momentum"] - best["momentum"]) ** 2
        loss += 0.01 * (math.log2(params["batch_size"]) - best["batch_size"]) ** 2
        if "depth" in params:
            loss += 0.04 * w[3] * (params["depth"] - best["depth"]) ** 2
            loss += 0.03 * w[4] * (math.log10(params["weight_decay"]) - best["weight_decay"]) ** 2
            loss += 0.8 * w[5] * (params["dropout"] - best["dropout"]) ** 2
            loss += 0.15 * w[6] * self.order[CHOICES.index(params["choice"])]
        return float(loss)

    def curve(self, params: Params) -> np.ndarray:
        """Cost after each epoch, shape (EPOCHS,)."""
        rate = self._rate(params)
        loss = self._loss(params, rate)
        if self.kind == "cliff" and rate > 0.5:
            return np.full(EPOCHS, START)
        end = self.least + 0.4 * loss if self.kind == "additive" else self.least * math.exp(min(loss, 3))
        speed = 0.25 * 10 ** (0.35 * float(np.clip(rate, -2, 1)))
        if self.kind == "cross":
            speed = 0.2 * 10 ** (0.7 * float(np.clip(rate + 0.3, -2, 1.5)))
        epochs = np.arange(1, EPOCHS + 1)
        return np.asarray(end + max(START - end, 0.0) * np.exp(-speed * epochs**0.8))

    def optimum(self) -> float:
        """The least cost at the end, by differential evolution (whole numbers taken for real ones)."""

        def params(point: np.ndarray) -> Params:
            found: dict[str, Any] = {"choice": CHOICES[int(np.argmin(self.order))]}
            for name, share in zip(self.names, point, strict=True):
                low, high = RANGES[name]
                log = name in LOG
                found[name] = low * (high / low) ** share if log else low + (high - low) * share
            return {k: v for k, v in found.items() if k != "choice" or len(self.names) == len(RANGES)}

        bounds = [(0.0, 1.0)] * len(self.names)
        return float(
            differential_evolution(lambda point: self.curve(params(point)).min(), bounds, seed=0, maxiter=60).fun
        )


def _ours(seed: int) -> optuna.Study:
    sampler = StagedSampler(EPOCHS, seed=seed)
    return optuna.create_study(sampler=sampler, pruner=sampler.pruner)


def _halving() -> SuccessiveHalvingPruner:
    return SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


METHODS: Mapping[str, Callable[[int], optuna.Study]] = {
    "ours": _ours,
    "random_halving": lambda seed: optuna.create_study(sampler=RandomSampler(seed=seed), pruner=_halving()),
    "tpe_halving": lambda seed: optuna.create_study(
        sampler=TPESampler(seed=seed, multivariate=True, constant_liar=True), pruner=_halving()
    ),
    "tpe_hyperband": lambda seed: optuna.create_study(
        sampler=TPESampler(seed=seed), pruner=HyperbandPruner(1, EPOCHS, 3)
    ),
}


def trained(method: str, landscape: Landscape, seed: int, workers: int) -> list[float]:
    """Cost of the best trained so far after each epoch paid, up to the last of ``MARKS``.

    Args:
        method: of ``METHODS``.
        landscape: what is trained.
        seed: of the method and of the noise.
        workers: that train an epoch each in turn.
    """
    study, rng = METHODS[method](seed), np.random.default_rng(seed)
    noise = 0.05 if landscape.kind == "noisy" else 0.0
    offsets: dict[int, float] = {}
    live: list[tuple[optuna.Trial, np.ndarray, int]] = []
    best: list[float] = []
    while len(best) < MARKS[-1] * EPOCHS:
        while len(live) < workers:
            trial = study.ask()
            curve = landscape.curve(landscape.ask(trial))
            parent = trial.user_attrs.get("continue_from")
            offsets[trial.number] = noise * rng.standard_normal() if parent is None else offsets[parent]
            live.append((trial, curve, 0 if parent is None else study.trials[parent].last_step + 1))
        trial, curve, epoch = live.pop(0)
        best.append(min([*best[-1:], float(curve[epoch])]))
        value = float(curve[epoch]) * math.exp(offsets[trial.number])
        trial.report(value, epoch)
        if epoch == EPOCHS - 1:
            study.tell(trial, value)
        elif trial.should_prune():
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        else:
            live.append((trial, curve, epoch + 1))
    return best


def regrets(method: str, landscape: Landscape, seed: int, workers: int, optimum: float) -> list[float]:
    """At each of ``MARKS``."""
    best = trained(method, landscape, seed, workers)
    return [math.log(best[mark * EPOCHS - 1] / optimum) for mark in MARKS]


def row(label: str, runs: Sequence[Sequence[float]]) -> str:
    cells = [f"{statistics.mean(at):.3f} ({max(at):.2f})" for at in zip(*runs, strict=True)]
    return f"| {label} | " + " | ".join(cells) + " |"


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=6, help="how many")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "landscapes.jsonl")
    options = parser.parse_args(words)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    landscapes = {(k, s): Landscape(k, s) for k in options.kinds for s in range(options.seeds)}
    optima = {at: landscape.optimum() for at, landscape in landscapes.items()}
    print("| method, workers, kind | " + " | ".join(f"{mark} FT" for mark in MARKS) + " |")
    print("|" + " --- |" * (len(MARKS) + 1))
    for method in options.methods:
        everything: list[list[float]] = []
        for kind in options.kinds:
            runs = []
            for seed in range(options.seeds):
                at = kind, seed
                runs.append(regrets(method, landscapes[at], seed, options.workers, optima[at]))
                record = {
                    "method": method,
                    "kind": kind,
                    "seed": seed,
                    "workers": options.workers,
                    "regret": runs[-1],
                }
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(record) + "\n")
            everything += runs
            print(row(f"{method}, {options.workers}, {kind}", runs), flush=True)
        print(row(f"{method}, {options.workers}, all", everything), flush=True)


if __name__ == "__main__":
    main()
