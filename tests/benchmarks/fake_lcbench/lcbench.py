"""Stands in for lcbench: the same names, its space, two instances, curves by a formula."""

import math

import numpy as np

SPACE = {
    "learning_rate": ("float", 1e-4, 1e-1, True),
    "batch_size": ("int", 16, 512, True),
    "momentum": ("float", 0.1, 0.98, False),
    "max_units": ("int", 64, 1024, True),
    "num_layers": ("int", 1, 4, False),
    "weight_decay": ("float", 1e-5, 1e-1, False),
    "max_dropout": ("float", 0.0, 1.0, False),
}
DEFAULT = {
    "learning_rate": 1e-2,
    "batch_size": 64,
    "momentum": 0.9,
    "max_units": 256,
    "num_layers": 3,
    "weight_decay": 1e-3,
    "max_dropout": 0.2,
}
BAD_START = {**DEFAULT, "learning_rate": 1e-4}
EPOCHS = 50


class BudgetSpent(Exception):  # noqa: N818 (lcbench's name)
    pass


def instances() -> list[str]:
    return ["one", "two"]


def trusted() -> list[str]:
    return ["two"]


def sample(rng: np.random.Generator) -> dict[str, float]:
    return {
        name: int(rng.integers(low, high + 1)) if kind == "int" else float(rng.uniform(low, high))
        for name, (kind, low, high, _) in SPACE.items()
    }


class Objective:
    """Accuracy 90 - |log10(rate / best)| - batch/512, reached as 1 - 1/(epoch + 1)."""

    ceiling, median = 90.0, 80.0

    def __init__(self, instance: str, max_ft: float, noise: float, seed: int) -> None:
        self.best_rate = {"one": 1e-2, "two": 1e-3}[instance]
        self.max_epochs, self.spent, self.trace = int(max_ft * EPOCHS), 0, []
        self.seen = -math.inf
        self.trained: dict[tuple[float, ...], int] = {}
        self.order: list[dict[str, float]] = []

    def run(self, config: dict[str, float], upto: int) -> np.ndarray:
        for name, (kind, low, high, _) in SPACE.items():
            assert low <= config[name] <= high, (name, config[name])
            assert kind == "float" or int(config[name]) == config[name], (name, config[name])
        key = tuple(config[name] for name in SPACE)
        if key not in self.trained:
            self.order.append(config)
        curve = (90 - abs(math.log10(config["learning_rate"] / self.best_rate)) - config["batch_size"] / 512) * (
            1 - 1 / (np.arange(EPOCHS) + 2)
        )
        for epoch in range(self.trained.get(key, 0), upto):
            if self.spent == self.max_epochs:
                raise BudgetSpent
            self.spent, self.trained[key] = self.spent + 1, epoch + 1
            if curve[epoch] > self.seen:
                self.seen = float(curve[epoch])
                self.trace.append((self.spent, self.seen))
        return curve[:upto]
