"""Everything a sweep has seen, as the surrogate sees it: trainings, rungs, standardised costs.

A *training* is a chain of trials: one that was stopped and those that were promoted from it. It counts
once, under the number of its first trial.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.study.encoding import Encoding
from orchestrator.study.mates import cost_at
from orchestrator.study.memory import matters
from orchestrator.study.records import TrialRecord
from orchestrator.study.surrogate import Array, Observations, Surrogate
from orchestrator.types import Direction, TrialState

_MOST_ROWS = 220
"""Observations that the surrogate is given: those of the longest and best trainings. The time of a
suggestion grows with its cube (search.md: 200 points, 2.7 ms a suggestion)."""
_NEWEST = 40
"""Trainings that are always among them: our guess, more than the workers of one machine."""
_GROWTH = 1.15
"""The surrogate's scales are found anew when the data has grown by this factor (search.md)."""
_FIRST_FIT = 8
"""Observations below which the scales stay at their prior mean: our guess."""


@dataclass(frozen=True)
class Rows:
    """Observations side by side: where trainings stood after some epochs. All of shape (rows,)."""

    trainings: NDArray[np.int64]
    epochs: NDArray[np.int64]
    costs: Array
    """Less is better."""

    def __len__(self) -> int:
        return len(self.trainings)

    def __getitem__(self, which: slice | NDArray[np.bool_]) -> "Rows":
        return Rows(self.trainings[which], self.epochs[which], self.costs[which])

    def last(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The trainings, ascending, and the row of the latest observation of each."""
        latest = np.full(int(self.trainings.max(initial=-1)) + 1, -1)
        latest[self.trainings] = np.arange(len(self))  # the last of several assignments stays
        found = np.flatnonzero(latest >= 0)
        return found, latest[found]


class _Table:
    """The costs of all trials at the epochs that count: one line per trial, grown by doubling."""

    def __init__(self, marks: Sequence[int]) -> None:
        self._marks = np.array(marks, dtype=np.int64)
        self._costs = np.full((64, len(marks)), np.nan)
        self._trainings = np.zeros(64, dtype=np.int64)
        self._used = 0

    def write(self, number: int, training: int, costs: Sequence[float | None]) -> bool:
        """Replace what is known of trial ``number``; None where it has no cost. Returns whether less is known now."""
        while number >= len(self._costs):
            self._costs = np.concatenate([self._costs, np.full_like(self._costs, np.nan)])
            self._trainings = np.concatenate([self._trainings, np.zeros_like(self._trainings)])
        before = np.count_nonzero(~np.isnan(self._costs[number]))
        self._costs[number] = [math.nan if cost is None else cost for cost in costs]
        self._trainings[number] = training
        self._used = max(self._used, number + 1)
        return bool(np.count_nonzero(~np.isnan(self._costs[number])) < before)

    def rows(self) -> Rows:
        """Every observation, in the order of trial numbers and epochs."""
        costs = self._costs[: self._used]
        numbers, columns = np.nonzero(~np.isnan(costs))
        return Rows(self._trainings[numbers], self._marks[columns], costs[numbers, columns])


@dataclass(frozen=True)
class Training:
    """A chain of trials as it stands."""

    last: TrialRecord
    """Its latest trial."""
    place: Array

    @property
    def epochs(self) -> int:
        """Epochs trained so far."""
        return self.last.epochs_run

    @property
    def promotable(self) -> bool:
        """Whether it was stopped below its budget and may go on."""
        return self.last.state is TrialState.PRUNED and self.epochs < self.last.epochs


class Knowledge:
    """All trials that the decisions may know of, and the surrogate of their costs.

    What it says depends on the trials only, not on how it came to know them: after a restart it says
    the same.
    """

    def __init__(self, encoding: Encoding, direction: Direction, epochs: int, rungs: Sequence[int]) -> None:
        self._encoding = encoding
        self._direction = direction
        self._epochs = epochs
        self._marks = (*rungs, epochs)
        self._table = _Table(self._marks)
        self._roots: dict[int, int] = {}
        self._tried: set[bytes] = set()
        self.trainings: dict[int, Training] = {}
        """By the number of their first trial."""
        self.by_state: dict[TrialState, set[int]] = {state: set() for state in TrialState}
        """The trainings whose latest trial is in that state."""
        self.measured = False
        """Whether any training was seen to take so much memory that its limit may matter."""
        self._surrogate = Surrogate(encoding.owners)
        self._fitted_at = 0

    def observe(self, record: TrialRecord) -> None:
        """Take in a trial as it stands now. Finalists are none of its: their schedule may be another."""
        if record.finalist:
            return
        number = record.number
        self.measured |= any(matters(use) for use in record.memory)
        root = number if record.parent is None else self._roots[record.parent]
        self._roots[number] = root
        known = self.trainings.get(root)
        if known is None or known.last.number <= number:
            place = known.place if known is not None else self._encoding.place(record.configuration)
            self.trainings[root] = Training(record, place)
            if known is None:
                self._tried.add(_key(place))
            else:
                self.by_state[known.last.state].remove(root)
            self.by_state[record.state].add(root)
        if self._table.write(number, root, self._costs_of(record)):
            # Infeasible in the end: the scales were found from rows that a restart would not see.
            self._fitted_at = 0

    def _costs_of(self, record: TrialRecord) -> list[float | None]:
        """At each of the marks that the trial trained itself."""
        if record.state is TrialState.INFEASIBLE:
            # Where trials fail is learnt apart (:mod:`~orchestrator.study.feasibility`): a bad cost in its place
            # would spoil what is feasible near by.
            return [None for _ in self._marks]
        return [self._cost(record, epoch) if record.inherited < epoch else None for epoch in self._marks]

    def _cost(self, record: TrialRecord, epoch: int) -> float | None:
        """The best up to ``epoch``: a trial is worth the best of its curve, also where it overfits later."""
        return cost_at(epoch, record, self._direction)

    def rank(self, root: int, epoch: int) -> float | None:
        """The share of trainings that were better after ``epoch`` than training ``root``; None if it has no cost."""
        costs = [self._cost(training.last, epoch) for training in self.trainings.values()]
        own = self._cost(self.trainings[root].last, epoch)
        if own is None or self.trainings[root].last.state is TrialState.INFEASIBLE:
            return None
        return sum(cost is not None and cost < own for cost in costs) / len(costs)

    def root(self, number: int) -> int:
        """The first trial of the training that trial ``number`` belongs to."""
        return self._roots[number]

    def tries(self, place: Array) -> bool:
        """Whether a configuration at this place was tried (exactly)."""
        return _key(place) in self._tried

    def newest(self, count: int) -> list["Training"]:
        """The ``count`` trainings that began last of those that told something, the latest at the end."""
        ended = (t for t in reversed(self.trainings.values()) if t.last.state.finished or t.epochs)
        return list(itertools.islice(ended, count))[::-1]

    def believe(self, pending: Mapping[int, int] | None = None) -> "Belief | None":
        """The surrogate given all that is known; None before the first observation.

        Args:
            pending: training to the epoch it is on its way to; the surrogate takes its own mean for the
                outcome ("kriging believer", Ginsbourger et al. 2010), so that it looks elsewhere meanwhile.
        """
        rows = self._table.rows()
        if not len(rows):
            return None
        self._fit(rows)
        scale = _Scale.of(rows)
        chosen = _longest_and_best(rows)
        seen = self._observations(chosen, scale.standardised(chosen))
        self._surrogate.condition(seen)
        if pending:
            self._surrogate.condition(_joined(seen, self._expected(pending)))
        roots = np.unique(chosen.trainings)
        places = np.array([self.trainings[root].place for root in roots])
        under_way = np.array([self.trainings[root].place for root in pending or ()])
        return Belief(self._surrogate, self._encoding, scale, roots, places, under_way, bool(self._fitted_at))

    def _expected(self, pending: Mapping[int, int]) -> Observations:
        zeros = np.zeros(len(pending))
        asked = self._observations(Rows(np.array([*pending]), np.array([*pending.values()]), zeros), zeros)
        mean, _ = self._surrogate.predict(asked.inputs, asked.times, asked.trainings)
        return Observations(asked.inputs, asked.times, asked.trainings, mean)

    def _fit(self, rows: Rows) -> None:
        """Find the scales again when the data has grown enough, from what was known at that size."""
        size = _FIRST_FIT
        while size * _GROWTH <= len(rows):
            size = math.ceil(size * _GROWTH)
        if size > len(rows) or size == self._fitted_at:
            return
        self._fitted_at = size
        chosen = _longest_and_best(rows[:size])
        scale = _Scale.of(rows[:size])
        self._surrogate = Surrogate(self._encoding.owners)
        self._surrogate.tune(self._observations(chosen, scale.standardised(chosen)))

    def _observations(self, rows: Rows, costs: Array) -> Observations:
        places = np.array([self.trainings[training].place for training in rows.trainings])
        # The end of the budget is 1, also where that is a single epoch.
        times = np.log(rows.epochs) / math.log(self._epochs) if self._epochs > 1 else np.ones(len(rows))
        return Observations(self._encoding.inputs(places), times, rows.trainings, costs)


def _key(place: Array) -> bytes:
    return (place + 0.0).tobytes()  # -0.0 is 0.0


def _joined(seen: Observations, more: Observations) -> Observations:
    return Observations(
        np.concatenate([seen.inputs, more.inputs]),
        np.concatenate([seen.times, more.times]),
        np.concatenate([seen.trainings, more.trainings]),
        np.concatenate([seen.costs, more.costs]),
    )


def _longest_and_best(rows: Rows) -> Rows:
    """At most ``_MOST_ROWS`` observations: whole trainings, the ``_NEWEST`` first, because what has just begun must
    be known to go on; then by rank of cost and, far more, by length."""
    if len(rows) <= _MOST_ROWS:
        return rows
    trainings, last = rows.last()
    ranks = np.empty(len(trainings))
    ranks[np.argsort(rows.costs[last], kind="stable")] = np.arange(len(trainings))
    score = ranks - 30 * np.log(rows.epochs[last])
    score[-_NEWEST:] = -np.inf
    order = np.argsort(score, kind="stable")
    sizes = np.bincount(rows.trainings)[trainings[order]]
    kept = trainings[order[: np.searchsorted(np.cumsum(sizes), _MOST_ROWS, side="right")]]
    return rows[np.isin(rows.trainings, kept)]


@dataclass(frozen=True)
class _Scale:
    """How costs become what the surrogate sees: in logarithms where all are positive (a loss spans
    decades), clipped where they only say "bad", mean 0, standard deviation 1."""

    log: bool
    cap: float
    mean: float
    deviation: float

    @classmethod
    def of(cls, rows: Rows) -> "_Scale":
        last, costs = rows.costs[rows.last()[1]], rows.costs
        log = bool((costs > 0).all())
        if log:
            last, costs = np.log(last), np.log(costs)
        # Above median + (median - best), a cost only says "bad" (search.md: winsorised target).
        cap = float(2 * np.median(last) - last.min())
        clipped = np.minimum(costs, cap)
        return cls(log, cap, float(clipped.mean()), float(clipped.std()) + 1e-9)

    def standardised(self, rows: Rows) -> Array:
        costs = np.log(rows.costs) if self.log else rows.costs
        return np.asarray((np.minimum(costs, self.cap) - self.mean) / self.deviation)

    def cost(self, standardised: float) -> float:
        """Back to the objective's own units."""
        value = standardised * self.deviation + self.mean
        return math.exp(value) if self.log else value


@dataclass(frozen=True)
class Belief:
    """What the surrogate expects at the end of the budget, in standardised costs."""

    surrogate: Surrogate
    encoding: Encoding
    scale: _Scale
    roots: NDArray[np.int64]
    """The trainings among its observations, ascending, shape (trainings,)."""
    places: Array
    """Where they lie, shape (trainings, hyperparameters)."""
    pending: Array
    """Where the trainings lie whose outcome it only believes, shape (pending, hyperparameters)."""
    fitted: bool
    """Whether the surrogate's scales were found from observations."""

    @cached_property
    def seen(self) -> Mapping[int, int]:
        """The same trainings, each with its position."""
        return {int(root): position for position, root in enumerate(self.roots)}

    @cached_property
    def standing(self) -> tuple[Array, Array]:
        """Mean and standard deviation of :meth:`at_end` for the trainings in ``roots``."""
        return self.at_end(self.places, self.roots)

    def at_end(self, places: Array, trainings: NDArray[np.int64] | None = None) -> tuple[Array, Array]:
        """Mean and standard deviation of the cost of the whole budget, each of shape (rows,).

        Args:
            places: shape (rows, hyperparameters).
            trainings: which training each row continues; -1, or None at all, for new ones.
        """
        count = len(places)
        which = np.full(count, -1) if trainings is None else trainings
        return self.surrogate.predict(self.encoding.inputs(places), np.ones(count), which)

    def likeness_to_pending(self, places: Array) -> Array:
        """How alike each place and the pending training most like it are, in [0, 1], shape (rows,); 0: none pends."""
        if not len(self.pending):
            return np.zeros(len(places))
        inputs = self.encoding.inputs
        return np.asarray(self.surrogate.likeness(inputs(places), inputs(self.pending)).max(axis=1))

    def seed_noise(self, value: float) -> float | None:
        """Standard deviation between trainings of one configuration around ``value``, in its units; None while the
        surrogate's scales are only its priors."""
        if not self.fitted:
            return None
        # What a training keeps from epoch to epoch, and what it does not: its end has both.
        kept, passing = self.surrogate.seed_noise, math.exp(self.surrogate.scales.noise)
        deviation = math.hypot(kept, passing) * self.scale.deviation
        return deviation * abs(value) if self.scale.log else deviation
