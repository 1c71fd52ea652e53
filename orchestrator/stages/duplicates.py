"""An identical configuration, seed and budget is not paid for twice: the later trial points to the earlier one.

A proposal that equals an earlier training takes over its seed, so that it would be the same training over again. The
staged sampler never proposes one twice; samplers of independent trials do, where a space has few values.
"""

from collections import defaultdict
from collections.abc import Sequence

from orchestrator.study.records import TrialRecord
from orchestrator.types import Configuration, Reason, TrialState

_WOULD_FAIL_AGAIN = (Reason.NON_FINITE, Reason.DIVERGED, Reason.OUT_OF_MEMORY)
"""Failures that are the configuration's; a dead worker or an error in user code may not come again."""


class Tried:
    """Finds the trials of a configuration without looking at all of them."""

    def __init__(self) -> None:
        self._numbers: dict[frozenset[object], list[int]] = defaultdict(list)
        self._known = 0

    def numbers(self, records: Sequence[TrialRecord], configuration: Configuration) -> Sequence[int]:
        """The trials among ``records`` (all, in the order of their numbers) that have ``configuration``."""
        for record in records[self._known :]:
            self._numbers[frozenset(record.configuration.items())].append(record.number)
        self._known = len(records)
        return self._numbers.get(frozenset(configuration.items()), ())


def shows(record: TrialRecord, epochs: int) -> bool:
    """Whether the trial has shown what its configuration gives within ``epochs``: it need not be trained again."""
    if record.repeats is not None or record.epochs != epochs or not record.state.finished:
        return False
    if record.reason is Reason.TIMEOUT:
        return False
    return record.state is not TrialState.INFEASIBLE or record.reason in _WOULD_FAIL_AGAIN


def pointing_to(number: int) -> str:
    """The detail of a trial that was not trained again."""
    return f"same configuration, seed and budget as trial {number}: not trained again"
