"""Configurations as rows of numbers, for the surrogate: one place per hyperparameter.

A *place* is where a value lies in the searched range on its own scale: 0 at ``low``, 1 at ``high``, beyond
them where a range was widened; the index of a choice. The surrogate's *inputs* are the places, with one
column for each value of a choice (two different values are a distance of 1 apart) and 0.5 for what has no
effect.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.study.surrogate import Array
from orchestrator.types import Configuration, Value


class Encoding:
    """Turns configurations of a search space into numbers and back."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.items: Sequence[Hyperparameter] = list(space.hyperparameters.values())
        self.index = {item.name: position for position, item in enumerate(self.items)}
        columns = [len(item.choices) if item.is_choice else 1 for item in self.items]
        self.owners = [position for position, count in enumerate(columns) for _ in range(count)]
        """For each column of the inputs, the position of its hyperparameter."""
        self._conditional = [position for position, item in enumerate(self.items) if item.config.when]
        self.bounds = np.array([self._bounds(item) for item in self.items]).reshape(-1, 2)
        """The hard limits as places, shape (hyperparameters, 2)."""

    @staticmethod
    def _bounds(item: Hyperparameter) -> tuple[float, float]:
        if item.is_choice:
            return 0.0, float(len(item.choices) - 1)
        low, high = item.searched
        return -low / (high - low), (1 - low) / (high - low)

    def place(self, configuration: Configuration) -> Array:
        """The places of ``configuration``, shape (hyperparameters,)."""
        return np.array([self._place(item, configuration[item.name]) for item in self.items])

    @staticmethod
    def _place(item: Hyperparameter, value: Value) -> float:
        if item.is_choice:
            return float(item.choices.index(value))
        low, high = item.searched
        return (item.to_unit(value) - low) / (high - low)

    def configuration(self, place: Array, base: Configuration) -> dict[str, Value]:
        """The configuration at ``place``; what is not searched comes from ``base``."""
        result = dict(base)
        for item, at in zip(self.items, place, strict=True):
            if item.is_choice:
                result[item.name] = item.choices[int(at)]
            else:
                low, high = item.searched
                result[item.name] = _rounded(item, item.from_unit(low + float(at) * (high - low)))
        return self.space.canonical(result, base)

    def snap(self, places: Array) -> Array:
        """The same places with whole numbers where values are whole, clipped to the hard limits."""
        result = np.clip(places, self.bounds[:, 0], self.bounds[:, 1])
        for position, item in enumerate(self.items):
            if item.config.type == "int":
                result[:, position] = self._whole(item, result[:, position])
        return result

    @staticmethod
    def _whole(item: Hyperparameter, places: Array) -> Array:
        low, high = item.config.low, item.config.high
        assert low is not None
        assert high is not None
        if item.config.scale == "log":
            start, reach = math.log(low), math.log(high / low)
            whole = np.maximum(np.round(np.exp(start + places * reach)), 1.0)
            return np.asarray((np.log(whole) - start) / reach)
        return np.asarray((np.round(low + places * (high - low)) - low) / (high - low))

    def inputs(self, places: Array) -> Array:
        """What the surrogate sees of ``places`` (rows, hyperparameters), shape (rows, columns)."""
        columns = []
        for position, item in enumerate(self.items):
            at = places[:, position]
            if item.is_choice:
                columns += [(at == value) * math.sqrt(0.5) for value in range(len(item.choices))]
            else:
                columns.append(at)
        result = np.stack(columns, axis=1) if columns else np.empty((len(places), 0))
        for position in self._conditional:
            idle = np.flatnonzero(np.logical_not(self._active(position, places)))
            result[np.ix_(idle, np.flatnonzero(np.asarray(self.owners) == position))] = 0.5
        return result

    def _active(self, position: int, places: Array) -> NDArray[np.bool_]:
        """Which rows give the hyperparameter at ``position`` an effect."""
        active = np.ones(len(places), dtype=bool)
        for other, allowed in self.items[position].config.when.items():
            if other in self.index:
                item = self.items[self.index[other]]
                good = [self._place(item, value) for value in allowed if not item.is_choice or value in item.choices]
                active &= np.isclose(places[:, self.index[other], None], good).any(axis=1)
        return active

    def follow(self, before: Array, after: Array, sgd: bool) -> Array:
        """``after`` with the learning rate moved as far as batch size and momentum moved from ``before``.

        See :func:`orchestrator.study.space.coupling`; both arrays have shape (rows, hyperparameters).
        """
        result = after.copy()
        moved = (after - before) * np.array([self._log_reach(item) for item in self.items])
        shift = np.zeros(len(after))
        if "data.batch_size" in self.index:
            shift += moved[:, self.index["data.batch_size"]] * (1.0 if sgd else 0.5)
        if sgd and "optimizer.momentum" in self.index:
            shift -= moved[:, self.index["optimizer.momentum"]]
        for position, item in enumerate(self.items):
            if item.config.couple == "learning_rate" and item.config.scale == "log":
                result[:, position] += shift / self._log_reach(item)
        return result

    @staticmethod
    def _log_reach(item: Hyperparameter) -> float:
        """Length of the searched range in log units; 0 where the scale is no logarithm."""
        low, high = item.config.low, item.config.high
        if item.config.scale == "log" and low and high:
            return math.log(high / low)
        if item.config.scale == "log_complement" and high is not None and low is not None:
            return math.log((1 - low) / (1 - high))
        return 0.0


def _rounded(item: Hyperparameter, value: Value) -> Value:
    """A float to 12 digits, within the limits: the value at the place of a value is that value, to the last bit."""
    if not isinstance(value, float):
        return value
    low, high = item.config.hard_limits
    found = float(f"{value:.12g}")
    return found if low <= found <= high or found == 0 else value
