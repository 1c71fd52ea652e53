"""One instance of lcbench as an objective that also keeps simulated time."""

import importlib.util
import math
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Config = dict[str, Any]
Space = dict[str, tuple[str, float, float, bool]]  # name: (kind "int" or "float", low, high, log)


def load_lcbench(folder: Path) -> ModuleType:
    """The benchmark's module ``lcbench.py`` in ``folder``; exits with one line when it is not there."""
    path = folder / "lcbench.py"
    if not path.is_file():
        raise SystemExit(
            f"lcbench: there is no {path}. The benchmark's data is not part of this repository: "
            "give the folder that holds lcbench.py, weights.npz and instances.json with --lcbench PATH"
        )
    spec = importlib.util.spec_from_file_location("lcbench", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lcbench"] = module
    spec.loader.exec_module(module)
    return module


def at(space: Space, name: str, part: float) -> int | float:
    """The value at ``part`` (0 to 1) of a hyperparameter's range, on its scale; integers get equal shares of it."""
    kind, low, high, log = space[name]
    wide = (low - 0.5, high + 0.5) if kind == "int" else (low, high)
    value = wide[0] * (wide[1] / wide[0]) ** part if log else wide[0] + part * (wide[1] - wide[0])
    value = min(max(value, low), high)
    return round(value) if kind == "int" else value


def part_of(space: Space, name: str, value: float) -> float:
    """Where ``value`` lies in a hyperparameter's range, 0 to 1 on its scale: the inverse of :func:`at`."""
    kind, low, high, log = space[name]
    wide = (low - 0.5, high + 0.5) if kind == "int" else (low, high)
    return math.log(value / wide[0]) / math.log(wide[1] / wide[0]) if log else (value - wide[0]) / (wide[1] - wide[0])


class TimedObjective:
    """An ``lcbench.Objective`` with a clock: an epoch costs one unit of simulated time on the worker that trains it.

    ``budget`` is in epochs, ``workers`` how many trials may train at once. ``trace`` holds, for each improvement of
    what was seen, the epochs spent (all workers together), the simulated time, and the normalised regret of the best
    so far.
    """

    def __init__(
        self, bench: ModuleType, instance: str, max_ft: float, noise: float = 0.0, seed: int = 0, workers: int = 1
    ) -> None:
        self._inner = bench.Objective(instance, max_ft, noise, seed)
        self._bench = bench
        self.space: Space = bench.SPACE
        self.epochs: int = bench.EPOCHS
        self.budget: int = self._inner.max_epochs
        self.workers = workers
        self.noise = noise
        self.trace: list[tuple[int, float, float]] = []
        self._paid: dict[tuple[Any, ...], int] = {}

    @property
    def spent(self) -> int:
        """Epochs charged so far."""
        return int(self._inner.spent)

    @property
    def trials(self) -> int:
        """Different configurations trained for at least one epoch."""
        return len(self._paid)

    def is_paid(self, config: Config, epoch: int) -> bool:
        """Whether ``epoch`` (from 1) of ``config`` was trained before, and so costs nothing now."""
        return epoch <= self._paid.get(self._key(config), 0)

    def sample(self, rng: np.random.Generator) -> Config:
        """A random configuration, uniform on each hyperparameter's scale."""
        config: Config = self._bench.sample(rng)
        return config

    def run(self, config: Config, upto: int, started: float | None = None) -> np.ndarray:
        """Train ``config`` on to epoch ``upto``; validation accuracies of epochs 1..upto in percent, shape (upto,).

        Only new epochs are charged; the first of them began at simulated time ``started`` (default: one worker, so
        the epochs spent so far). With several workers call it in the order in which epochs end, at best one epoch a
        call. Raises ``lcbench.BudgetSpent`` when the budget does not reach, having charged what it reached, and,
        without noise, once the ceiling is reached.
        """
        spent, known, key = self.spent, len(self._inner.trace), self._key(config)
        began = float(spent) if started is None else started
        try:
            curve: np.ndarray = self._inner.run(config, upto)
        finally:
            self._paid[key] = self._paid.get(key, 0) + self.spent - spent
            span = self._inner.ceiling - self._inner.median
            for at, value in self._inner.trace[known:]:
                regret = max(0.0, self._inner.ceiling - value) / span
                self.trace.append((at, began + at - spent, regret))
        if not self.noise and self.trace and not self.trace[-1][2]:
            raise self._bench.BudgetSpent  # at the ceiling: what follows would change nothing
        return curve

    def _key(self, config: Config) -> tuple[Any, ...]:
        return tuple(config[name] for name in self.space)
