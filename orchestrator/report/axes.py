"""Where trainings lie in a picture: places of hyperparameters, which trainings are drawn, at which epochs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.report.drawing import unit_ticks
from orchestrator.report.view import SweepView, Training
from orchestrator.types import Value

LONGEST_UNIT = 16
"""Characters; a longer one is a sentence and does not fit beside an axis."""
FEWEST = 4
"""Trainings of equal length below which nothing is compared."""


@dataclass(frozen=True)
class Axis:
    """Where values of one hyperparameter lie in a picture: its unit coordinate, or a choice's place."""

    view: SweepView
    name: str

    @property
    def choices(self) -> Sequence[Value]:
        """The values of a choice; empty otherwise."""
        return self.view.space[self.name].choices

    def at(self, value: Value) -> float:
        """The place of ``value``."""
        item = self.view.space[self.name]
        return float(self.choices.index(value)) if item.is_choice else item.to_unit(value)

    def ends(self, places: Sequence[float]) -> tuple[float, float]:
        """What the picture spans: the searched range and all trials."""
        if self.choices:
            return -0.5, len(self.choices) - 0.5
        low, high = self.view.space[self.name].searched
        low, high = min([low, *places]), max([high, *places])
        return low - 0.04 * (high - low), high + 0.04 * (high - low)

    def ticks(self, low: float, high: float) -> tuple[list[float], list[str]]:
        """Places and labels of round values between two places."""
        values = self.choices or unit_ticks(self.view.space[self.name], max(low, 0.0), min(high, 1.0))
        return [self.at(value) for value in values], [f"{v:g}" if isinstance(v, float) else str(v) for v in values]

    @property
    def label(self) -> str:
        """Name, and unit where it is short."""
        unit = self.view.space[self.name].config.unit
        return f"{self.name} ({unit})" if 0 < len(unit) <= LONGEST_UNIT else self.name


def thinned(trainings: Sequence[Training], most: int, view: SweepView) -> Sequence[Training]:
    """At most ``most`` of them: the best third of that many, and the others evenly from the rest."""
    if len(trainings) <= most:
        return trainings
    order = sorted(trainings, key=lambda t: (-t.last.epochs_run, cost_of(t, view)))
    kept = order[: most // 3]
    rest = order[most // 3 :]
    return [*kept, *(rest[i] for i in np.linspace(0, len(rest) - 1, most - len(kept)).astype(int))]


def cost_of(training: Training, view: SweepView) -> float:
    """The best of a training as a cost; infinite for an infeasible one."""
    value = training.best_by(training.last.epochs_run)
    return math.inf if value is None else view.direction.cost(value)


def compared_at(trainings: Sequence[Training], view: SweepView) -> Sequence[int]:
    """Up to three epochs at which at least ``FEWEST`` trainings can be compared: early, between, last."""
    reached = [e for e in view.levels if sum(t.best_by(e) is not None for t in trainings) >= FEWEST]
    return sorted({reached[0], reached[len(reached) // 2], reached[-1]}) if reached else []


def epochs_text(count: int) -> str:
    """So many epochs, in words."""
    return f"{count} epoch{'s' if count != 1 else ''}"
