"""A plain Optuna study's search space, as the advisor knows search spaces.

A choice is known by its index, so that it may be anything Optuna allows (None, booleans, mixed types); a
number with a step by how many steps it lies above the lower end.
"""

from collections.abc import Mapping
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from orchestrator.config.errors import suggest
from orchestrator.config.space import RangeConfig
from orchestrator.errors import ConfigError
from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.types import Value

Distributions = Mapping[str, BaseDistribution]
"""Name of a hyperparameter to Optuna's range for it."""


class PlainSpace:
    """Translates between Optuna's parameters and the advisor's configurations.

    Args:
        distributions: of all hyperparameters; those with a single value are left to Optuna.
        start: the user's own configuration, maybe of some only; where it is silent the middle of the range
            and the first choice count.

    Raises:
        ConfigError: a value of ``start`` lies outside its range.
    """

    def __init__(self, distributions: Distributions, start: Mapping[str, Any]) -> None:
        self.distributions = {name: item for name, item in distributions.items() if not item.single()}
        self.space = SearchSpace({n: Hyperparameter(n, _range(n, d)) for n, d in self.distributions.items()})
        middle = {name: _middle(item) for name, item in self.space.hyperparameters.items()}
        given = {name: self._given(name, value) for name, value in start.items() if name in self.space}
        self.base: dict[str, Value] = {**middle, **given}

    def _given(self, name: str, value: Any) -> Value:
        distribution = self.distributions[name]
        try:
            inside = distribution._contains(distribution.to_internal_repr(value))
        except (ValueError, TypeError):
            inside = False
        if not inside:
            raise ConfigError(f"start: {name}={value!r} is not in {distribution}")
        return _inwards(distribution, value)

    def configuration(self, params: Mapping[str, Any]) -> dict[str, Value] | None:
        """The advisor's configuration; what a trial did not ask for (it had no effect in it) is as in the base.

        None where a value is none of today's choices: a trial from before the study's space was changed.
        """
        try:
            own = {name: _inwards(d, params[name]) for name, d in self.distributions.items() if name in params}
        except ValueError:
            return None
        return {**self.base, **own}

    def params(self, configuration: Mapping[str, Any]) -> dict[str, Any]:
        """Optuna's parameters of an advisor's configuration."""
        known = ((name, item) for name, item in self.distributions.items() if name in configuration)
        return {name: _outwards(item, configuration[name]) for name, item in known}


def check_names(what: str, names: Mapping[str, Any] | list[str], known: Mapping[str, Any] | set[str]) -> None:
    """Refuse names that no search space has.

    Raises:
        ConfigError: one of ``names`` is not among ``known``.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"{what}: {name!r} is not a parameter of the study; {suggest(name, sorted(known))}")


def _middle(item: Hyperparameter) -> Value:
    return 0 if item.is_choice else item.from_unit(0.5)


def _range(name: str, distribution: BaseDistribution) -> RangeConfig:
    if isinstance(distribution, CategoricalDistribution):
        return RangeConfig(type="choice", choices=tuple(range(len(distribution.choices))))
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise ConfigError(f"{name}: {type(distribution).__name__} is unknown; known: Float, Int, Categorical")
    if _stepped(distribution):
        assert distribution.step is not None
        steps = round((distribution.high - distribution.low) / distribution.step)
        return RangeConfig(type="int", low=0, high=steps)
    return RangeConfig(
        type="int" if isinstance(distribution, IntDistribution) else "float",
        low=distribution.low,
        high=distribution.high,
        scale="log" if distribution.log else "linear",
    )


def _stepped(distribution: FloatDistribution | IntDistribution) -> bool:
    plain = 1 if isinstance(distribution, IntDistribution) else None
    return distribution.step != plain


def _inwards(distribution: BaseDistribution, value: Any) -> Value:
    if isinstance(distribution, CategoricalDistribution):
        return int(distribution.to_internal_repr(value))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if _stepped(distribution):
        assert distribution.step is not None
        steps: int = round((value - distribution.low) / distribution.step)
        return steps
    return int(value) if isinstance(distribution, IntDistribution) else float(value)


def _outwards(distribution: BaseDistribution, value: Value) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return distribution.to_external_repr(int(value))
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    if _stepped(distribution):
        assert distribution.step is not None
        above = int(value) * distribution.step
        whole = isinstance(distribution, IntDistribution)
        return int(distribution.low + above) if whole else float(min(distribution.low + above, distribution.high))
    return value
