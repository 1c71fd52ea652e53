"""The search space of a sweep: what is stored (hard limits) and what a stage searches (windows).

Every hyperparameter has a unit coordinate in [0, 1] over its hard limits on its own scale. Windows,
random draws and distances are made there; values and Optuna's distributions come out.

A coupled hyperparameter (the learning rate) is searched in a coordinate in which its best value moves
little when batch size or momentum change: for SGD the effective rate ``lr / (batch (1 - momentum))``
(Smith & Le 2018, arXiv 1710.06451), for Adam ``lr / sqrt(batch)`` (Malladi et al. 2022, arXiv
2205.10287), both relative to the base configuration.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.config.space import RangeConfig, SpaceConfig
from orchestrator.errors import ConfigError
from orchestrator.types import Configuration, Value

UNIT = FloatDistribution(0.0, 1.0)


@dataclass(frozen=True)
class Hyperparameter:
    """One searchable hyperparameter: its hard limits and scale."""

    name: str
    config: RangeConfig

    @property
    def is_choice(self) -> bool:
        """Whether it takes one of a few unordered values."""
        return self.config.type == "choice"

    @property
    def choices(self) -> tuple[Value, ...]:
        """The values of a choice; empty otherwise."""
        return self.config.choices or ()

    @property
    def distribution(self) -> BaseDistribution:
        """What the study stores: the hard limits, the same in every trial of the sweep."""
        if self.is_choice:
            return CategoricalDistribution(self.choices)
        low, high = self.config.hard_limits
        log = self.config.scale == "log" and not self.config.zero
        if self.config.zero:
            low = 0
        if self.config.type == "int":
            return IntDistribution(int(low), int(high), log=log)
        return FloatDistribution(float(low), float(high), log=log)

    @property
    def searched(self) -> tuple[float, float]:
        """The ends of the searched range (``low``, ``high``) as unit coordinates; (0, 1) for a choice."""
        if self.config.low is None or self.config.high is None:
            return 0.0, 1.0
        return self.to_unit(self.config.low), self.to_unit(self.config.high)

    def active(self, configuration: Configuration) -> bool:
        """Whether it has an effect: every condition of ``when`` holds."""
        return all(configuration[other] in allowed for other, allowed in self.config.when.items())

    def to_unit(self, value: Value) -> float:
        """Unit coordinate of ``value``; outside [0, 1] for a value outside the hard limits.

        Where 0 is allowed on a log scale it lies at the lower end.
        """
        low, high = (self._scaled(limit) for limit in self.config.hard_limits)
        if self.config.zero and float(value) <= self.config.hard_limits[0]:
            return 0.0
        return (self._scaled(float(value)) - low) / (high - low)

    def from_unit(self, unit: float) -> Value:
        """The value at ``unit``, clipped to the hard limits; whole for an int."""
        hard_low, hard_high = self.config.hard_limits
        if self.config.zero and unit <= 1e-9:
            return 0 if self.config.type == "int" else 0.0
        low, high = self._scaled(hard_low), self._scaled(hard_high)
        value = self._unscaled(low + min(max(unit, 0.0), 1.0) * (high - low))
        value = min(max(value, hard_low), hard_high)
        return round(value) if self.config.type == "int" else float(value)

    def check(self, value: Value) -> None:
        """Refuse a value that the study could not store.

        Raises:
            ConfigError: ``value`` is not a choice, of the wrong type, or lies outside the hard limits.
        """
        if self.is_choice:
            if value not in self.choices:
                raise ConfigError(f"{self.name}={value}: known: {', '.join(map(str, self.choices))}")
            return
        low, high = self.config.hard_limits
        if isinstance(value, str | bool):
            raise ConfigError(f"{self.name}={value}: must be a number")
        if self.config.type == "int" and value % 1:
            raise ConfigError(f"{self.name}={value}: must be a whole number")
        if not low <= value <= high and not (self.config.zero and value == 0):
            raise ConfigError(
                f"{self.name}={value}: outside its limits [{low}, {high}]; widen space.{self.name}.limits"
            )

    def _scaled(self, value: float) -> float:
        if self.config.scale == "log":
            return math.log(value)
        if self.config.scale == "log_complement":
            return -math.log1p(-value)
        return float(value)

    def _unscaled(self, scaled: float) -> float:
        if self.config.scale == "log":
            return math.exp(scaled)
        if self.config.scale == "log_complement":
            return -math.expm1(-scaled)
        return scaled


@dataclass(frozen=True)
class Window:
    """The part of a hyperparameter's unit coordinate that a stage searches; choices have the whole."""

    low: float
    high: float

    def __contains__(self, unit: float) -> bool:
        return self.low - 1e-9 <= unit <= self.high + 1e-9


class SearchSpace:
    """All searchable hyperparameters of a sweep, by name, in a fixed order."""

    def __init__(self, hyperparameters: Mapping[str, Hyperparameter]) -> None:
        self.hyperparameters = dict(sorted(hyperparameters.items()))

    def __contains__(self, name: str) -> bool:
        return name in self.hyperparameters

    def __getitem__(self, name: str) -> Hyperparameter:
        return self.hyperparameters[name]

    def distributions(self) -> dict[str, BaseDistribution]:
        """Name to stored distribution."""
        return {name: item.distribution for name, item in self.hyperparameters.items()}

    def with_range(self, config: RangeConfig, name: str) -> "SearchSpace":
        """The same with another range for ``name``."""
        return SearchSpace({**self.hyperparameters, name: Hyperparameter(name, config)})

    def whole(self, name: str) -> Window:
        """The range that a stage searches when it asks about ``name``."""
        item = self[name]
        if item.is_choice:
            return Window(0.0, 1.0)
        return Window(*item.searched)

    def around(self, name: str, value: Value, half_width: float) -> Window:
        """A window of ``half_width`` (share of the searched range) on each side of ``value``."""
        item = self[name]
        if item.is_choice:
            return Window(0.0, 1.0)
        centre = item.to_unit(value)
        low, high = item.searched
        reach = half_width * (high - low)
        return Window(max(0.0, centre - reach), min(1.0, centre + reach))

    def canonical(self, configuration: Configuration, base: Configuration) -> dict[str, Value]:
        """``configuration`` with what has no effect in it set as in ``base``: equal trainings look equal."""
        result = dict(configuration)
        for name, item in self.hyperparameters.items():
            if not item.active(configuration):
                result[name] = base[name]
        return result

    def check(self, configuration: Configuration) -> None:
        """Refuse a configuration that the study could not store.

        Raises:
            ConfigError: see :meth:`Hyperparameter.check`.
        """
        for name, item in self.hyperparameters.items():
            item.check(configuration[name])


def build_space(config: SpaceConfig, base: Configuration, used: Collection[str]) -> SearchSpace:
    """The hyperparameters of ``config`` that ``base`` has and whose ``when`` it, or some trial, may meet.

    One that lies outside its limits (a weight decay of 0 on a log scale) is left out if no stage uses it.

    Args:
        config: ranges by family and name.
        base: the sweep's first configuration.
        used: names that a stage varies or tunes again.

    Raises:
        ConfigError: a ``when`` names an unknown hyperparameter, or ``base`` violates a limit.
    """
    found = {}
    for family, ranges in config.items():
        for key, entry in ranges.items():
            name = f"{family}.{key}"
            for other in entry.when:
                if other not in base:
                    raise ConfigError(f"space.{name}.when: {other} is not a hyperparameter")
            item = Hyperparameter(name, entry)
            searched = {other for other in entry.when if other in used}
            if name not in base or not item.active({**base, **{o: entry.when[o][0] for o in searched}}):
                continue
            try:
                item.check(base[name])
            except ConfigError:
                if name in used:
                    raise
                continue
            found[name] = item
    return SearchSpace(found)


def coupling(base: Configuration, configuration: Configuration) -> float:
    """How many times larger the best learning rate is expected under ``configuration`` than under ``base``."""
    ratio = float(configuration["data.batch_size"]) / float(base["data.batch_size"])
    if base["optimizer.name"] != "sgd":
        return math.sqrt(ratio)
    left = (1 - float(configuration["optimizer.momentum"])) / (1 - float(base["optimizer.momentum"]))
    return ratio * left
