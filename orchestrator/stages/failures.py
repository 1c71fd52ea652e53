"""What a command does about trials that fail: carry on elsewhere, learn from it, or give up."""

from collections.abc import Iterable

from orchestrator.config.failure import FailureConfig
from orchestrator.errors import TooManyFailuresError, UserCodeError
from orchestrator.study.records import TrialRecord
from orchestrator.types import End, Outcome, Reason, TrialState

UNEXPLAINED = (Reason.USER_ERROR, Reason.WORKER_DIED, Reason.HANG, Reason.TRIAL_TIMEOUT)
"""Failures that say more about the code or the machines than about a configuration."""


class Failures:
    """The failures of one command, over all its stages."""

    def __init__(self, config: FailureConfig) -> None:
        self._config = config
        self._ended = 0
        self._failed = 0

    def restarts(self, record: TrialRecord, outcome: Outcome) -> bool:
        """Whether the trial goes on with another worker."""
        died = outcome.end is End.FAILED and (outcome.reason is Reason.WORKER_DIED or outcome.shared)
        return died and record.restarts < self._config.max_restarts

    def restart_line(self, record: TrialRecord, outcome: Outcome) -> str:
        """What the user is told of a restart."""
        where = "by itself" if outcome.shared else "with another"
        return (
            f"trial {record.number}: {next(iter(outcome.detail.splitlines()), '')}; it goes on from its last "
            f"checkpoint {where} (restart {record.restarts} of at most {self._config.max_restarts})"
        )

    def check_user_error(self, outcome: Outcome, records: Iterable[TrialRecord]) -> None:
        """End the command because of an error in the user's code, if that is the policy, or if no trial has
        succeeded. The trial is not told: when the code is mended, it begins again.

        Raises:
            UserCodeError: with the traceback, cut to the user's own frames.
        """
        if outcome.end is not End.FAILED or outcome.reason is not Reason.USER_ERROR:
            return
        succeeded = any(record.state in (TrialState.COMPLETE, TrialState.PRUNED) for record in records)
        if succeeded and self._config.on_user_error == "tolerate":
            return
        when = "in a trial (failure.on_user_error=stop)" if succeeded else "in the first trials"
        raise UserCodeError(
            f"the task's code failed {when}; mend it, and the same command goes on with that trial:\n{outcome.detail}"
        )

    def ended(self, record: TrialRecord) -> None:
        """Take in a trial that has ended.

        Raises:
            TooManyFailuresError: too many of this command's trials have failed without a reason to be learnt.
        """
        config = self._config
        self._ended += 1
        self._failed += record.reason in UNEXPLAINED
        if self._ended < config.min_failure_sample or self._failed <= config.max_failure_share * self._ended:
            return
        raise TooManyFailuresError(
            f"{self._failed} of the {self._ended} trials of this command failed (the last, trial {record.number}: "
            f"{record.reason}: {next(iter(record.detail.splitlines()), '')}); more than failure.max_failure_share="
            f"{config.max_failure_share:g} is not search; mend the cause and type the same command again"
        )
