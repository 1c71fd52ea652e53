"""One visit of a search stage: asks its question with trials and decides what to stop."""

import bisect
import math
import time
from collections.abc import Iterable
from dataclasses import replace

from orchestrator.progress import duration
from orchestrator.seeds import derive_seed, shared_seed
from orchestrator.stages.beginning import best_before, earlier_trials, make_policy, pauses, stopping, windows
from orchestrator.stages.duplicates import Tried, pointing_to, shows
from orchestrator.stages.rounds import Rounds
from orchestrator.stages.sweep import Sweep
from orchestrator.stages.turn import StageTurn
from orchestrator.stages.visits import ALL, Visit, stage_of, varied
from orchestrator.study.advisor import Proposal
from orchestrator.study.mates import Mates
from orchestrator.study.pruners import PAUSE_ROOM, next_rung, rungs_of
from orchestrator.study.records import TrialRecord, incumbent, searched
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.types import (
    Configuration,
    Decision,
    EpochResult,
    TrialSpec,
)


def _epochs(records: Iterable[TrialRecord]) -> int:
    """What the trials have cost."""
    return sum(record.epochs_paid for record in records)


def _shared_out(visit: Visit, spent: int) -> Visit:
    """The visit with its part of what is left after ``spent`` epochs, where it has one."""
    if visit.share is None or visit.ceiling is None or not visit.epochs:
        return visit
    return replace(visit, epochs=max(1, round(visit.share * (visit.ceiling - spent))))


class SearchStage(StageTurn):
    """Runs one visit; a :class:`~orchestrator.runners.base.Controller`.

    Args:
        sweep: the open sweep.
        visit: the stage's turn.
        workers: with ``deterministic``, trials in a round (:class:`Rounds`); else without effect.
    """

    def __init__(self, sweep: Sweep, visit: Visit, workers: int = 1) -> None:
        config = sweep.config
        # While the visit lasts, no other trial changes.
        self._spent_before = _epochs(searched(earlier_trials(sweep, visit.key)))
        super().__init__(
            sweep, _shared_out(visit, self._spent_before), varied(sweep.space, config.stages[visit.stage])
        )
        self._spent_ended = _epochs(record for record in self.records if record.state.finished)
        self._repeated = sum(record.repeats is not None for record in self.records)
        self.previous = best_before(sweep, visit.key)
        self._epochs = config.trainer.epochs
        pruner = stopping(config, visit.stage)
        plain = config.sampler.name != "staged"
        self._rungs = rungs_of(pruner, self._epochs, None if plain else PAUSE_ROOM)
        self._rounds = Rounds(workers if config.deterministic and workers > 1 else 0, self.records)
        self.policy = make_policy(sweep, visit, pruner, in_rounds=bool(self._rounds))
        others = any(record.stage != visit.key for record in sweep.study.records)
        self._starts = list(sweep.starts) if plain and not others else []
        self._tried = Tried()
        self._mates = Mates(sweep.direction)
        for record in self.records:
            self.policy.observe(self._rounds.view(record))
            if not self._rounds or record.round < self._rounds.current:
                self._mates.take(record)
        self._begin()

    def _begin(self) -> None:
        sweep, visit = self.sweep, self.visit
        tags = {"kind": "stage", "stage": visit.stage, "pass": str(visit.round), "asks": self._settings.asks}
        sweep.tracker.begin(stage_key(visit.key), SWEEP, visit.key, {}, tags)
        origin = f"from trial {self.previous.number}" if self.previous else "from the task's defaults"
        done = len(self.own) - len(self._resumable)
        again = f", {done} trials done, {len(self._resumable)} to resume" if self.own else ""
        what = "everything" if ALL in self._settings.varies else ", ".join(varied(sweep.space, self._settings))
        tuned = [name for name in windows(sweep, visit.key) if name != "optimizer.lr"]
        retuned = " (and all tuned before, within windows)" if tuned and visit.round == 1 else ""
        over = f" over {what}{retuned}" if visit.round == 1 else ""
        sweep.progress.say(f"[{visit.key}] {self._settings.asks} {self.limit}{over}, {origin}{again}")

    @property
    def limit(self) -> str:
        """The visit's budget in words."""
        visit = self.visit
        if visit.n_trials is not None:
            return f"{visit.n_trials} trials of up to {self._epochs} epochs"
        if visit.up_to is not None:
            return f"{max(0, visit.up_to - self._spent_before)} epochs"
        return f"{visit.epochs} epochs" if visit.epochs else "an opening"

    @property
    def incumbent(self) -> TrialRecord | None:
        """The best of the visit's trials and those before it."""
        return incumbent([*earlier_trials(self.sweep, self.visit.key), *self.records], self.sweep.direction)

    @property
    def spent(self) -> int:
        """Epochs paid by the visit's trials so far."""
        return self._spent_ended + _epochs(self.sweep.study[number] for number in self._unfinished)

    def _known(self, numbers: Iterable[int]) -> list[TrialRecord]:
        """Those of ``numbers`` as decisions may know them."""
        return [self._rounds.view(self.sweep.study[number]) for number in numbers]

    def _paid(self) -> int:
        """Epochs that the visit's trials are known to have cost."""
        # In rounds the cost of some trials is not known yet; else it is kept, as the trials are many.
        return _epochs(self._known(self.own)) if self._rounds else self.spent

    def _open(self) -> list[TrialRecord]:
        """Its trials that are not known to have ended."""
        if not self._rounds:
            return self._known(self._unfinished)
        return [record for record in self._known(self.own) if not record.state.finished]

    def _charged(self) -> int:
        """Epochs that count against the visit's own share of a pass: not its opening, and not those up to the
        sweep's first finished trial, which every later stage starts from."""
        paid = self._paid()
        if self.visit.alone or self.visit.up_to is not None:
            return paid
        after = self.policy.opening
        if self.previous is None:
            views = (self._rounds.view(self.sweep.study[number]) for number in self.own)
            first = next((index for index, record in enumerate(views) if record.feasible), len(self.own))
            after = max(after, first + 1)
            if paid > (self.visit.epochs or 0) + 2 * self._epochs:
                # Nothing gets to its end: the visit does.
                return paid
        return paid - _epochs(self._known(self.own[:after]))

    def _left(self, besides: TrialRecord | None = None) -> int | None:
        """Epochs that may still be begun; None: any number.

        Args:
            besides: a running trial whose next epochs do not count as begun.
        """
        visit = self.visit
        if visit.n_trials is not None:
            return None
        if not visit.alone and visit.up_to is None:
            # A trial that runs goes on for as long as it is the best use of its worker, whatever its visit has spent.
            begun = 0 if besides else self._charged() + sum(self._committed(record) for record in self._open())
            return self.below_ceiling(besides) if begun < (visit.epochs or 0) else 0
        total = visit.epochs if visit.up_to is None else visit.up_to - self._spent_before
        assert total is not None
        begun = sum(self._committed(record) for record in self._open() if record is not besides)
        return total - self._paid() - self._reserved() - begun

    def below_ceiling(self, besides: TrialRecord | None = None) -> int | None:
        """Epochs that all visits together may still begin; None: no ceiling.

        Args:
            besides: a running trial whose next epochs do not count as begun.
        """
        if self.visit.ceiling is None:
            return None
        study = self.sweep.study
        numbers: Iterable[int] = range(len(study)) if self._rounds else study.running
        known = searched(self._known(numbers))
        begun = sum(self._committed(record) for record in known if record is not besides)
        return self.visit.ceiling - (_epochs(known) if self._rounds else study.epochs_paid) - begun

    def _committed(self, record: TrialRecord) -> int:
        """Epochs that a running trial may train before it is asked to stop."""
        if record.state.finished:
            return 0
        if record.repeats is not None or self._may_audit(record):
            return record.epochs - record.epochs_run
        if record.stage == self.visit.key:
            return self.policy.stop_at(record) - record.epochs_run
        rungs = pauses(self.sweep.config, stage_of(record.stage))
        return next_rung(rungs, record.configuration, record.epochs_run, record.epochs) - record.epochs_run

    def _reserved(self) -> int:
        """Epochs kept for repeats that have not begun."""
        return max(0, self.visit.repeats - self._repeated) * self._epochs

    def ask(self) -> TrialSpec | None:
        """The next trial; None if nothing can begin now. With nothing running, the visit is over then."""
        if self._resumable:
            record = self.sweep.study[self._resumable.pop(0)]
        elif self.late:
            return None
        else:
            started = self._start()
            while started is not None and started.state.finished:
                started = self._start()
            if started is None:
                return None
            record = started
        return self._hand_out(record, self._rungs)

    def _start(self) -> TrialRecord | None:
        study, repeated = self.sweep.study, None
        proposal = self._proposal()
        if proposal is None:
            repeated = self._to_repeat()
            if repeated is None:
                return None
            proposal = Proposal(repeated.configuration)
        parent = None if proposal.parent is None else study[proposal.parent]
        known = None if parent is not None or repeated is not None else self._repeated_of(proposal.configuration)
        parent = parent or known
        record = study.start(
            proposal.configuration,
            stage=self.visit.key,
            seed=self._seed_of(parent, repeated),
            epochs=self._epochs,
            parent=parent,
            round_=self._rounds.current,
            repeats=None if repeated is None else repeated.number,
        )
        self.own.append(record.number)
        self._repeated += repeated is not None
        if known is not None:
            record = study.finish(
                record.number, known.state, seconds=0.0, reason=known.reason, detail=pointing_to(known.number)
            )
            self._spent_ended += record.epochs_paid
            self.sweep.track_trial(record, self._named)
            self.sweep.track_end(record)
            self.sweep.progress.say(f"[{self.visit.key}] trial {record.number}: {record.detail}")
        self.policy.observe(record)
        self._compare_with(record)
        return record

    def _seed_of(self, parent: TrialRecord | None, repeated: TrialRecord | None) -> int:
        if parent is not None:
            return parent.seed
        seed = self.sweep.config.seed
        if repeated is not None:
            return shared_seed(seed, self._repeated)
        return derive_seed(seed, "trial", len(self.sweep.study))

    def _repeated_of(self, configuration: Configuration) -> TrialRecord | None:
        """The trial that has shown what ``configuration`` gives; None if none has."""
        study = self.sweep.study
        numbers = self._tried.numbers(study.records, configuration)
        known = (self._rounds.view(study[number]) for number in numbers)
        return next((record for record in known if shows(record, self._epochs)), None)

    def _proposal(self) -> Proposal | None:
        """What to begin now; None: nothing, or nothing before this round has ended."""
        takes_more = not self._rounds or self._rounds.takes_more(self.records)
        found = self._proposed() if takes_more else None
        if found is None and self._rounds:
            self._rounds.close()
            if not self._begun and (ended := self._rounds.under_way(self.records)):
                self._rounds.next()
                for record in ended:
                    self.policy.observe(record)
                    self._mates.take(record)
                return self._proposal()
        return found

    def _proposed(self) -> Proposal | None:
        index = len(self.own)
        if index < len(self._starts):
            return Proposal(self._starts[index])
        if self.visit.n_trials is not None and index >= self.visit.n_trials:
            return None
        return self.policy.propose(len(self.sweep.study), index, self._left())

    def _to_repeat(self) -> TrialRecord | None:
        """What to train with one more seed, when nothing else is to begin or runs."""
        searching = any(self.sweep.study[number].repeats is None for number in self._begun)
        left = self._left()
        if searching or not self._reserved() or (left is not None and left < 0):
            return None
        first = next((record.repeats for record in self.records if record.repeats is not None), None)
        return self.incumbent if first is None else self.sweep.study[first]

    def report(self, number: int, result: EpochResult) -> Decision:
        """See :class:`~orchestrator.runners.base.Controller`."""
        record = self._note(number, result)
        self._compare_with(record)
        if result.epoch >= record.epochs or (record.repeats is not None and not self.late):
            return Decision.CONTINUE
        return Decision.STOP if self.late or self._stops(record) else Decision.CONTINUE

    def _stops(self, record: TrialRecord) -> bool:
        if record.audited is not None or record.epochs_run <= record.inherited:
            return False
        if not self._rounds and record.epochs_run in self._rungs:
            self.policy.observe(record)
        index = bisect.bisect_left(self.own, record.number)
        stops = not self.policy.goes_on(record, index, self._mates, self._left(record))
        if stops and self._may_audit(record) and (self._left() or 0) >= 0:
            self.sweep.study.audit(record.number, record.epochs_run)
            return False
        return stops

    def _compare_with(self, record: TrialRecord) -> None:
        """From now on others are compared with ``record`` as it stands; in rounds, once its round has ended."""
        if not self._rounds:
            self._mates.take(record)

    def _may_audit(self, record: TrialRecord) -> bool:
        """Whether it is let through to its end, were it due to be stopped, to learn what stopping costs."""
        share = self.sweep.config.pruner.audit_share
        return derive_seed(record.seed, "audit") < share * 2**32

    def observe(self, record: TrialRecord) -> None:
        """See :class:`StageTurn`."""
        self.policy.observe(record)

    def _ended(self, record: TrialRecord) -> None:
        self._spent_ended += record.epochs_paid
        self._compare_with(record)
        if not self._rounds:
            self.policy.observe(record)

    def _status(self) -> str:
        text = f"{super()._status()}, {self.spent} epochs"
        total = self.visit.epochs if self.visit.up_to is None else self.visit.up_to - self._spent_before
        done = sum(record.state.finished for record in self.records)
        share = self._charged() / total if total else done / (self.visit.n_trials or math.inf)
        best = self.incumbent
        if best is not None:
            text += f", best {self.sweep.task.objective} {best.value:.4g} (trial {best.number})"
        if 0.05 < share < 1:
            text += f", about {duration((time.monotonic() - self.started) * (1 - share) / share)} left"
        return text
