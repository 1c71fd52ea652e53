"""Everything a sweep has seen, as the surrogate sees it: trainings, rungs, standardised costs.

A *training* is a chain of trials: one that was stopped and those that were promoted from it. It counts
once, under the number of its first trial.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from orchestrator.study.encoding import Encoding
from orchestrator.study.memory import matters
from orchestrator.study.records import TrialRecord
from orchestrator.study.surrogate import Array, Observations, Surrogate
from orchestrator.types import Direction, TrialState

BASES = 3
"""New configurations lie around one of so many best ones by posterior mean (search.md, 3: "a few")."""
_MOST_ROWS = 220
"""Observations that the surrogate is given: those of the longest and best trainings. The time of a
suggestion grows with its cube (search.md: 200 points, 2.7 ms a suggestion)."""
_MOST_PENDING = 64
"""Trainings under way that make the surrogate less uncertain, those nearest to the best ones: our guess. No
configuration that is nearly the same as any of them is proposed all the same."""
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

    def write(self, number: int, training: int, costs: Sequence[float | None]) -> tuple[bool, bool]:
        """Replace what is known of trial ``number``; None where it has no cost.

        Returns:
            Whether that changes anything, and whether less is known now.
        """
        while number >= len(self._costs):
            self._costs = np.concatenate([self._costs, np.full_like(self._costs, np.nan)])
            self._trainings = np.concatenate([self._trainings, np.zeros_like(self._trainings)])
        before = self._costs[number].copy()
        now = self._costs[number] = [math.nan if cost is None else cost for cost in costs]
        self._trainings[number] = training
        self._used = max(self._used, number + 1)
        less = np.count_nonzero(~np.isnan(now)) < np.count_nonzero(~np.isnan(before))
        return not np.array_equal(before, now, equal_nan=True), bool(less)

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
    inputs: Array
    """The place as the surrogate sees it, shape (columns,)."""

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
        self._reached: dict[int, dict[int, float]] = {mark: {} for mark in self._marks}
        """Costs of the trainings after each of the epochs that count."""
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
        self._belief: Belief | None = None
        """As long as nothing else is known."""

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
            if known is None:
                place = self._encoding.place(record.configuration)
                self.trainings[root] = Training(record, place, self._encoding.inputs(place[None, :])[0])
                self._tried.add(_key(place))
            else:
                self.trainings[root] = replace(known, last=record)
                self.by_state[known.last.state].remove(root)
            self.by_state[record.state].add(root)
            for mark, costs in self._reached.items():
                if (cost := self._cost(record, mark)) is not None:
                    costs[root] = cost
        changed, less = self._table.write(number, root, self._costs_of(record))
        if changed:
            self._belief = None
        if less:
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
        """Where the trial stood after ``epoch``, not the best until then: what had one good epoch and stands still
        since would look as if it learnt (benchmarks/search.py, bad start, five hard instances: 0.14 for 0.002 at 20
        full trainings)."""
        value = record.curve.get(epoch)
        return None if value is None else self._direction.cost(value)

    def rank(self, root: int, epoch: int) -> float | None:
        """The share of trainings that were better than training ``root`` after ``epoch``, a rung; None if it has no
        cost there."""
        costs = self._reached[epoch]
        if root not in costs or self.trainings[root].last.state is TrialState.INFEASIBLE:
            return None
        return np.count_nonzero(np.fromiter(costs.values(), float) < costs[root]) / len(self.trainings)

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
            pending: training to the epoch it is on its way to, so that it looks elsewhere meanwhile.
        """
        if self._belief is None and not self._conditioned():
            return None
        assert self._belief is not None
        if not pending:
            self._surrogate.expect(None)
            return self._belief
        rows = self._under_way(pending)
        belief = replace(self._belief, pending=rows.inputs)
        self._surrogate.expect(rows[belief.nearest(rows.inputs, _MOST_PENDING)])
        return belief

    def _conditioned(self) -> bool:
        """Tell the surrogate what is known, if anything is."""
        rows = self._table.rows()
        if not len(rows):
            return False
        self._fit(rows)
        scale = _Scale.of(rows)
        chosen = _longest_and_best(rows)
        seen = self._observations(chosen, scale.standardised(chosen))
        self._surrogate.condition(seen)
        roots = np.unique(chosen.trainings)
        places = np.array([self.trainings[root].place for root in roots])
        inputs = np.array([self.trainings[root].inputs for root in roots])
        means = self._surrogate.mean(inputs, np.ones(len(roots)), roots)
        self._belief = Belief(self._surrogate, scale, roots, places, inputs, means, inputs[:0], bool(self._fitted_at))
        return True

    def _under_way(self, pending: Mapping[int, int]) -> Observations:
        costs = np.zeros(len(pending))
        return self._observations(Rows(np.array([*pending]), np.array([*pending.values()]), costs), costs)

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
        inputs = np.array([self.trainings[training].inputs for training in rows.trainings.tolist()])
        # The end of the budget is 1, also where that is a single epoch.
        times = np.log(rows.epochs) / math.log(self._epochs) if self._epochs > 1 else np.ones(len(rows))
        return Observations(inputs, times, rows.trainings, costs)


def _key(place: Array) -> bytes:
    return (place + 0.0).tobytes()  # -0.0 is 0.0


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
    scale: _Scale
    roots: NDArray[np.int64]
    """The trainings among its observations, ascending, shape (trainings,)."""
    places: Array
    """Where they lie, shape (trainings, hyperparameters)."""
    inputs: Array
    """The same as the surrogate sees it, shape (trainings, columns)."""
    means: Array
    """Of the cost of the whole budget of each, shape (trainings,)."""
    pending: Array
    """Where the trainings lie that are under way, as the surrogate sees it, shape (pending, columns)."""
    fitted: bool
    """Whether the surrogate's scales were found from observations."""

    @cached_property
    def seen(self) -> Mapping[int, int]:
        """The same trainings, each with its position."""
        return {int(root): position for position, root in enumerate(self.roots)}

    def best(self, count: int) -> NDArray[np.int64]:
        """Positions in ``roots`` of the ``count`` most promising, the best one first."""
        return np.argsort(self.means, kind="stable")[:count]

    def nearest(self, inputs: Array, count: int) -> NDArray[np.int64]:
        """Which ``count`` of ``inputs`` (rows, columns) are most like the most promising trainings, ascending."""
        if len(inputs) <= count:
            return np.arange(len(inputs))
        likeness = self.surrogate.likeness(self.inputs[self.best(BASES)], inputs).max(axis=0)
        return np.sort(np.argsort(-likeness, kind="stable")[:count])

    def of_new(self, inputs: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the cost of the whole budget of new trainings at ``inputs`` (rows, columns),
        each of shape (rows,)."""
        return self.surrogate.predict(inputs, np.ones(len(inputs)), np.full(len(inputs), -1))

    def of_seen(self, positions: NDArray[np.int64]) -> tuple[Array, Array]:
        """The same of trainings that were seen, by their positions in ``roots``."""
        return self.surrogate.predict(self.inputs[positions], np.ones(len(positions)), self.roots[positions])

    def likeness_to_pending(self, inputs: Array) -> Array:
        """How alike each of ``inputs`` (rows, columns) and the pending training most like it are, in [0, 1], shape
        (rows,); 0: none pends."""
        if not len(self.pending):
            return np.zeros(len(inputs))
        return np.asarray(self.surrogate.likeness(inputs, self.pending).max(axis=1))

    def seed_noise(self, value: float) -> float | None:
        """Standard deviation between trainings of one configuration around ``value``, in its units; None while the
        surrogate's scales are only its priors."""
        if not self.fitted:
            return None
        # What a training keeps from epoch to epoch, and what it does not: its end has both.
        kept, passing = self.surrogate.seed_noise, math.exp(self.surrogate.scales.noise)
        deviation = math.hypot(kept, passing) * self.scale.deviation
        return deviation * abs(value) if self.scale.log else deviation
