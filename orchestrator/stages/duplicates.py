"""An identical configuration, seed and budget is not paid for twice: the later trial points to the earlier one.

A proposal that equals an earlier training takes over its seed, so that it would be the same training over again. The
staged sampler never proposes one twice; samplers of independent trials do, where a space has few values.
"""

from collections.abc import Iterable

from orchestrator.study.records import TrialRecord
from orchestrator.types import Configuration, Reason, TrialState

_WOULD_FAIL_AGAIN = (Reason.NON_FINITE, Reason.DIVERGED, Reason.OUT_OF_MEMORY)
"""Failures that are the configuration's; a dead worker or an error in user code may not come again."""


def already_tried(records: Iterable[TrialRecord], configuration: Configuration, epochs: int) -> TrialRecord | None:
    """The trial that has shown what ``configuration`` gives within ``epochs``; None if none has."""
    for record in records:
        same = record.repeats is None and record.epochs == epochs and record.configuration == configuration
        if same and record.state.finished and record.reason is not Reason.TIMEOUT:
            failed = record.state is TrialState.INFEASIBLE
            if not failed or record.reason in _WOULD_FAIL_AGAIN:
                return record
    return None


def pointing_to(number: int) -> str:
    """The detail of a trial that was not trained again."""
    return f"same configuration, seed and budget as trial {number}: not trained again"
