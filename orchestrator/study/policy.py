"""What a stage asks before each trial and at each report: one door for every sampler and pruner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from orchestrator.study.advisor import Advisor, Proposal
from orchestrator.study.mates import Mates
from orchestrator.study.pruners import Pruner, next_rung, warming_up
from orchestrator.study.records import TrialRecord
from orchestrator.study.region import Region
from orchestrator.study.samplers import StageSampler
from orchestrator.types import Configuration


class SearchPolicy(Protocol):
    """Decides for one stage what is tried and what goes on."""

    def observe(self, record: TrialRecord) -> None:
        """Take in a trial of whatever stage as it stands now."""
        ...

    def propose(self, number: int, index: int, left: int | None) -> Proposal | None:
        """Trial ``number`` of the sweep, the stage's trial ``index``; None if there is nothing to begin now.

        ``left`` is how many epochs the stage may still begin; None: as many as it likes.
        """
        ...

    def goes_on(self, record: TrialRecord, index: int, mates: Mates, left: int | None) -> bool:
        """Whether ``record``, the stage's trial ``index``, which has just reported, trains on; ``mates`` are the
        trials of its stage that it may be compared with."""
        ...

    def stop_at(self, record: TrialRecord) -> int:
        """The epoch up to which ``record`` may cost without being asked again."""
        ...

    def seed_noise(self, value: float) -> float | None:
        """What it has learnt of the standard deviation between seeds at that value; None: nothing."""
        ...

    @property
    def opened(self) -> int:
        """How often the stage's windows were opened, because the incumbent looked poor."""
        ...

    @property
    def opening(self) -> int:
        """How many trials are tried before anything is decided."""
        ...


class IndependentTrials:
    """A sampler that proposes configurations and a pruner that stops trials for good."""

    opened = 0
    opening = 0

    def __init__(self, sampler: StageSampler, pruner: Pruner, region: Region, epochs: int) -> None:
        self._sampler = sampler
        self._pruner = pruner
        self._region = region
        self._epochs = epochs

    def observe(self, record: TrialRecord) -> None:
        """See :class:`SearchPolicy`."""
        self._sampler.observe(record)

    def propose(self, number: int, index: int, left: int | None) -> Proposal | None:
        """See :class:`SearchPolicy`. A trial begins only if it may run to its end."""
        if left is not None and left < self._epochs:
            return None
        return Proposal(self._region.configuration(self._sampler.propose(number, index)))

    def goes_on(self, record: TrialRecord, index: int, mates: Mates, left: int | None) -> bool:
        """See :class:`SearchPolicy`."""
        return not self._pruner.stops(record, mates)

    def stop_at(self, record: TrialRecord) -> int:
        """See :class:`SearchPolicy`."""
        return record.epochs

    def seed_noise(self, value: float) -> float | None:
        """See :class:`SearchPolicy`."""
        return None


@dataclass(frozen=True)
class Limits:
    """What bounds a visit besides its epochs."""

    in_rounds: bool = False
    """Whether every trial pauses at its first rung, because decisions wait for the end of a round."""
    n_trials: int | None = None
    """Most trials; the last runs to its end if none has done so before."""
    opening_too: bool = False
    """Whether the opening too is kept within the epochs."""


class FreezeThaw:
    """Our own: an opening of given configurations, then whatever the advisor finds most promising.

    Args:
        advisor: decides.
        opening: configurations that are tried first, each up to the first rung.
        rungs: where a trial may be stopped.
        pruner: what stops a trial instead of the advisor; the advisor may resume it all the same.
        limits: what else bounds the visit.
    """

    def __init__(
        self,
        advisor: Advisor,
        opening: Sequence[Configuration],
        rungs: Sequence[int],
        pruner: Pruner | None = None,
        limits: Limits = Limits(),
    ) -> None:
        self.opening = len(opening)
        self._advisor = advisor
        self._limits = limits
        # The last of a few trials is for the best of those before it.
        self._opening = opening if limits.n_trials is None else opening[: max(1, limits.n_trials - 1)]
        self._rungs = rungs
        self._pruner = pruner

    def observe(self, record: TrialRecord) -> None:
        """See :class:`SearchPolicy`."""
        self._advisor.observe(record)

    def propose(self, number: int, index: int, left: int | None) -> Proposal | None:
        """See :class:`SearchPolicy`."""
        if index < len(self._opening):
            first = self._opening[index]
            affordable = not self._limits.opening_too or self._advisor.affords(first, left)
            if affordable and self._advisor.likely(first):
                return Proposal(first)
        return self._advisor.propose(number, left)

    def goes_on(self, record: TrialRecord, index: int, mates: Mates, left: int | None) -> bool:
        """See :class:`SearchPolicy`."""
        at_rung = record.epochs_run in self._rungs and not warming_up(record)
        if not at_rung and self._pruner is None and self._limits.n_trials is None:
            return True
        if index + 1 == self._limits.n_trials and not self._advisor.any_complete():
            return True
        if self._limits.in_rounds:
            # Whether to go on would depend on what else has come in: it is decided in the next round.
            return not at_rung
        if self._pruner is not None:
            affordable = left is None or self.stop_at(record) - record.epochs_run <= left
            return not self._pruner.stops(record, mates) and (affordable or not at_rung)
        if not at_rung:
            return True
        return index >= len(self._opening) and self._advisor.goes_on(record, left)

    def stop_at(self, record: TrialRecord) -> int:
        """See :class:`SearchPolicy`."""
        return next_rung(self._rungs, record.configuration, record.epochs_run, record.epochs)

    def seed_noise(self, value: float) -> float | None:
        """See :class:`SearchPolicy`."""
        return self._advisor.seed_noise(value)

    @property
    def opened(self) -> int:
        """See :class:`SearchPolicy`."""
        return self._advisor.opened
