"""The trials that one is compared with, by what they had reached at each epoch.

A pruner asks at every rung how many of its stage's trials did better there. A trial that has passed an epoch never
changes there again, so costs are kept in order as trials report: nothing is computed anew of thousands that ended.
"""

import bisect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.study.records import TrialRecord
from orchestrator.types import Direction, TrialState


def cost_at(epoch: int, record: TrialRecord, direction: Direction) -> float | None:
    """The best value up to ``epoch``, turned so that less is better; None if it never got there."""
    if record.epochs_run < epoch or record.state is TrialState.INFEASIBLE:
        return None
    # None too where a kill lost the reports up to there and the trial went on from a later checkpoint.
    return min((direction.cost(value) for at, value in record.curve.items() if at <= epoch), default=None)


@dataclass
class Costs:
    """Costs of trials at one epoch."""

    of: dict[int, float] = field(default_factory=dict)
    """By the trial's number."""
    ordered: list[float] = field(default_factory=list)
    """The same, the least first."""

    def put(self, number: int, cost: float | None) -> None:
        """Note what trial ``number`` has reached there; None: it does not count."""
        before = self.of.pop(number, None)
        if before is not None:
            del self.ordered[bisect.bisect_left(self.ordered, before)]
        if cost is not None:
            self.of[number] = cost
            bisect.insort(self.ordered, cost)

    def better(self, cost: float) -> int:
        """How many are less than ``cost``."""
        return bisect.bisect_left(self.ordered, cost)

    def besides(self, number: int) -> Sequence[float]:
        """Those of the trials other than ``number``, the least first."""
        if number not in self.of:
            return self.ordered
        at = bisect.bisect_left(self.ordered, self.of[number])
        return self.ordered[:at] + self.ordered[at + 1 :]


class Mates:
    """Trials of one stage.

    Args:
        direction: of the objective.
        records: the trials so far.
    """

    def __init__(self, direction: Direction, records: Iterable[TrialRecord] = ()) -> None:
        self._direction = direction
        self._records: dict[int, TrialRecord] = {}
        # Epoch, number of groups and group to the costs: made when they are first asked for.
        self._costs: dict[int, dict[tuple[int, int], Costs]] = {}
        for record in records:
            self.take(record)

    @property
    def records(self) -> Mapping[int, TrialRecord]:
        """The trials by their numbers."""
        return self._records

    def take(self, record: TrialRecord) -> None:
        """Take in a trial as it stands now."""
        before = self._records.get(record.number)
        self._records[record.number] = record
        ran = record.epochs_run
        if before is not None and before.epochs_run == ran and record.state is not TrialState.INFEASIBLE:
            return
        whole = before is None or before.epochs_run + 1 < ran or record.state is TrialState.INFEASIBLE
        for epoch in list(self._costs) if whole else (ran,):
            for (groups, group), costs in self._costs.get(epoch, {}).items():
                if record.number % groups == group:
                    costs.put(record.number, cost_at(epoch, record, self._direction))

    def at(self, epoch: int, groups: int = 1, group: int = 0) -> Costs:
        """What the trials that got to ``epoch`` had reached there: of all, or of those whose number leaves ``group``
        when divided by ``groups``."""
        known = self._costs.setdefault(epoch, {})
        if (groups, group) not in known:
            costs = known[groups, group] = Costs()
            for number, record in self._records.items():
                if number % groups == group:
                    costs.put(number, cost_at(epoch, record, self._direction))
        return known[groups, group]
