"""``deterministic=true``: trials begin in rounds, and decisions know only of the rounds before.

Of a trial of the round under way they know that it has begun, and nothing else, however far it is: so they do
not depend on which of its trials is faster, and a restart in the middle of it decides the same.
"""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.study.records import TrialRecord
from orchestrator.types import TrialState


class Rounds:
    """Which round of a visit is under way.

    Args:
        size: trials in a round; 0: there are no rounds, and everything is known at once.
        own: the visit's trials so far.
    """

    def __init__(self, size: int, own: Sequence[TrialRecord]) -> None:
        self._size = size
        self.current = max((record.round for record in own), default=0)
        # Repeats begin when a round has nothing else to begin.
        self._closed = any(record.repeats is not None for record in self.under_way(own))

    def __bool__(self) -> bool:
        return self._size > 0

    def under_way(self, own: Sequence[TrialRecord]) -> list[TrialRecord]:
        """The trials of the round under way."""
        return [record for record in own if self and record.round == self.current]

    def view(self, record: TrialRecord) -> TrialRecord:
        """What decisions may know of ``record``."""
        return as_begun(record) if self and record.round == self.current else record

    def takes_more(self, own: Sequence[TrialRecord]) -> bool:
        """Whether another trial may begin in the round under way."""
        return not self or (not self._closed and len(self.under_way(own)) < self._size)

    def close(self) -> None:
        """Nothing more begins in this round."""
        self._closed = True

    def next(self) -> None:
        """All trials of the round have ended: begin another."""
        self.current += 1
        self._closed = False


def as_begun(record: TrialRecord) -> TrialRecord:
    """``record`` as it was when it began."""
    inherited = {epoch: value for epoch, value in record.curve.items() if epoch <= record.inherited}
    return replace(
        record,
        state=TrialState.RUNNING,
        curve=inherited,
        value=None,
        reason=None,
        detail="",
        seconds=0.0,
        audited=None,
    )
