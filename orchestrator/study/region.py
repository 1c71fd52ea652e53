"""What one stage may propose: windows on what it varies, everything else fixed at the base."""

from collections.abc import Mapping
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, CategoricalDistribution

from orchestrator.study.space import UNIT, SearchSpace, Window, coupling
from orchestrator.types import Configuration, Value

Point = dict[str, float | Value]
"""Proposal in a stage's own coordinates: units in [0, 1] within the windows, values of choices."""


@dataclass(frozen=True)
class Region:
    """The stage's windows around its base configuration.

    Points are what samplers see. Each numeric coordinate is the position within its window, and the
    learning rate's is taken after removing what batch size and momentum imply (:func:`coupling`).
    """

    space: SearchSpace
    base: Configuration
    windows: Mapping[str, Window]

    def distributions(self) -> dict[str, BaseDistribution]:
        """What a sampler samples: the unit interval, or the choices."""
        return {
            name: CategoricalDistribution(self.space[name].choices) if self.space[name].is_choice else UNIT
            for name in self.windows
        }

    def configuration(self, point: Mapping[str, float | Value]) -> dict[str, Value]:
        """The full configuration of ``point``, clipped to the hard limits."""
        result = dict(self.base)
        coupled = []
        for name, window in self.windows.items():
            item = self.space[name]
            if item.is_choice:
                result[name] = point[name]
            else:
                result[name] = item.from_unit(window.low + float(point[name]) * (window.high - window.low))
            if item.config.couple == "learning_rate":
                coupled.append(name)
        for name in coupled:
            item = self.space[name]
            factor = coupling(self.base, result)
            low, high = item.config.hard_limits
            result[name] = min(max(float(result[name]) * factor, float(low)), float(high))
        return self.space.canonical(result, self.base)

    def point(self, configuration: Configuration) -> Point | None:
        """``configuration`` in the stage's coordinates, or None where it lies outside the windows."""
        point: Point = {}
        for name, window in self.windows.items():
            item = self.space[name]
            value = configuration[name]
            if item.is_choice:
                point[name] = value
                continue
            if item.config.couple == "learning_rate":
                value = float(value) / coupling(self.base, configuration)
                low, high = item.config.hard_limits
                if not low <= value <= high:
                    return None
            unit = item.to_unit(value)
            if unit not in window:
                return None
            width = window.high - window.low
            point[name] = min(max((unit - window.low) / width, 0.0), 1.0)
        return point

    def at_bound(self, name: str, configuration: Configuration) -> str | None:
        """``low`` or ``high`` where the value lies within 2 % of that end of the window (our guess)."""
        point = self.point(configuration)
        item = self.space[name]
        if point is None or item.is_choice:
            return None
        unit = float(point[name])
        if item.config.type == "int":
            window = self.windows[name]
            ends = {item.from_unit(window.low): "low", item.from_unit(window.high): "high"}
            return ends.get(configuration[name])
        return "low" if unit < 0.02 else "high" if unit > 0.98 else None
