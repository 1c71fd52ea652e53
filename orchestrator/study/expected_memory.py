"""What a trial will take of memory, at most, from what others were seen to take: so that trials share a card or a
machine without one that is larger than all before it taking what others hold.

An estimate that is right on average will not do (:mod:`~orchestrator.study.memory` has one, to propose by): what is
wanted is an upper bound. What a training holds beyond its process's libraries is a sum of products of its sizes, such
as ``batch x width x depth`` activations and ``width^2 x depth`` weights, with no negative term. So a trial whose
sizes are ``r_i`` times those of one that was seen takes at most ``prod max(1, r_i)^p_i`` times as much, where ``p_i``
is the highest power of size ``i``; of the bounds from all trials the least holds, and it is no less than what a
smaller trial took. Other choices (optimizer, activation ...) multiply that by what the linear model of logarithms
makes of them and how unsure it is: a value that was never seen counts as three times as much.
"""

import math
from dataclasses import replace

import numpy as np

from orchestrator.study.memory import LogLinear
from orchestrator.study.records import TrialRecord
from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.study.surrogate import Array
from orchestrator.types import Configuration, MemoryUse

POWERS = {"data.batch_size": 1.0, "model.depth": 1.0}
"""The highest power in which memory grows with a size that never takes less when there is more of it."""
_UNKNOWN = 2.0
"""The same of any other (weights grow with the square of a layer's width, images with that of their side), where less
of it may take more, too; but for ``model.width``."""
_GROWING = (*POWERS, "model.width")
_MOST = 400
"""Different configurations that count, those measured last: our guess."""


class ExpectedMemory:
    """Learns with every measured trial of a sweep, and bounds what the next ones take.

    Args:
        space: the sweep's hyperparameters. Sizes are its whole numbers, and what of ``model`` is on a log scale.
    """

    def __init__(self, space: SearchSpace) -> None:
        items = space.hyperparameters.values()
        self._sizes = [item.name for item in items if _is_size(item)]
        self._choices = [(item.name, value) for item in items if item.is_choice for value in item.choices]
        self._powers = np.array([POWERS.get(name, _UNKNOWN) for name in self._sizes])
        self._growing = np.array([name in _GROWING for name in self._sizes], dtype=bool)
        self._places: dict[str, _Place] = {}

    def observe(self, record: TrialRecord) -> None:
        """Take in what a trial was seen to hold so far."""
        for use in record.memory:
            place = self._places.setdefault(use.where, _Place())
            place.take(self._row(record.configuration), use)

    def of(self, configuration: Configuration) -> tuple[MemoryUse, ...]:
        """The most that a trial of ``configuration`` is expected to take, in each place where any was measured."""
        row = self._row(configuration)
        return tuple(self._bound(row, place) for place in self._places.values())

    def _row(self, configuration: Configuration) -> tuple[float, ...]:
        """Logarithms of the sizes, then a column for each value of each choice."""
        sizes = [math.log(max(float(configuration[name]), 1e-9)) for name in self._sizes]
        # Two values of a choice are a distance of 1 apart.
        return (*sizes, *(math.sqrt(0.5) * (configuration[name] == value) for name, value in self._choices))

    def _bound(self, row: tuple[float, ...], place: "_Place") -> MemoryUse:
        largest, base = place.largest, place.base
        rows, seen = np.array([*place.seen])[-_MOST:], np.array([*place.seen.values()], dtype=float)[-_MOST:]
        count = len(self._sizes)
        step = np.array(row) - rows
        up = np.where(self._growing, np.maximum(step[:, :count], 0.0), np.abs(step[:, :count])) @ self._powers
        if self._choices:
            up = up + self._of_choices(step, rows, np.log(np.maximum(seen - base, 1.0)))
        bound = base + float(((seen - base) * np.exp(np.minimum(up, 50.0))).min())
        smaller = np.where(self._growing, step[:, :count] > -1e-9, np.abs(step[:, :count]) < 1e-9).all(axis=1)
        smaller &= (np.abs(step[:, count:]) < 1e-9).all(axis=1)
        footprint = max(bound, float(seen[smaller].max(initial=0.0)))
        return replace(largest, peak_bytes=int(footprint) - base, held_bytes=base)

    def _of_choices(self, step: Array, rows: Array, logs: Array) -> Array:
        """Logarithm of how many times as much other choices may take, by ``step``, shape (rows,)."""
        count = len(self._sizes)
        line = LogLinear(rows, logs, np.array([1.0] * count + [0.0] * len(self._choices)))
        apart = step.copy()
        apart[:, :count] = 0.0
        mean, deviation = line.difference(apart)
        # What a choice takes may depend on the sizes: the noise is what the line misses.
        return np.where(np.any(apart, axis=1), np.maximum(mean, 0.0) + deviation + 2 * line.noise, 0.0)


class _Place:
    """What was measured in one place: bytes of trial and worker together, by the row of the configuration."""

    def __init__(self) -> None:
        self.seen: dict[tuple[float, ...], int] = {}
        self.base = 0
        """The least that a worker held beside a trial: its libraries."""
        self.largest: MemoryUse

    def take(self, row: tuple[float, ...], use: MemoryUse) -> None:
        first = not self.seen
        self.base = use.held_bytes if first else min(self.base, use.held_bytes)
        self.largest = use if first or use.footprint > self.largest.footprint else self.largest
        # The one measured last counts among the last.
        self.seen[row] = max(use.footprint, self.seen.pop(row, 0))


def _is_size(item: Hyperparameter) -> bool:
    config = item.config
    return config.type == "int" or (
        config.type == "float" and config.scale == "log" and item.name.startswith("model.")
    )
