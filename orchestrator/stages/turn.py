"""What a turn of a stage does with its trials, whatever it asks: hands them out, takes their epochs in, ends them."""

import time
from collections.abc import Collection, Sequence

from orchestrator.stages.sweep import Sweep
from orchestrator.stages.visits import Visit
from orchestrator.study.records import TrialRecord
from orchestrator.tracking.base import trial_key
from orchestrator.types import End, EpochResult, Outcome, Reason, TrialSpec, TrialState


class StageTurn:
    """One turn of a stage.

    Args:
        sweep: the open sweep.
        visit: which stage's turn it is.
        named: hyperparameters that the names of its trials show.
    """

    def __init__(self, sweep: Sweep, visit: Visit, named: Sequence[str]) -> None:
        self.sweep = sweep
        self.visit = visit
        self._named = tuple(named)
        self._settings = sweep.config.stages[visit.stage]
        self.own = [record.number for record in sweep.study.records if record.stage == visit.key]
        self._resumable = [number for number in self.own if not sweep.study[number].state.finished]
        self._begun: dict[int, float] = {}
        timeout = sweep.config.timeout_s or self._settings.timeout_s
        self.started = time.monotonic()
        self._deadline = self.started + timeout if timeout else None

    @property
    def running(self) -> int:
        """Trials under way, and those that are to go on."""
        return len(self._unfinished)

    @property
    def resumable(self) -> bool:
        """Whether a trial waits to go on: its worker died, or the command before this one ended."""
        return bool(self._resumable)

    @property
    def begun(self) -> Collection[int]:
        """Their numbers."""
        return self._begun.keys()

    @property
    def records(self) -> list[TrialRecord]:
        """The turn's trials as they stand."""
        return [self.sweep.study[number] for number in self.own]

    @property
    def late(self) -> bool:
        """Whether its time is up."""
        return self._deadline is not None and time.monotonic() >= self._deadline

    @property
    def _unfinished(self) -> Sequence[int]:
        return [*self._begun, *self._resumable]

    def observe(self, record: TrialRecord) -> None:
        """Take in a trial of another turn as it stands now."""

    def _hand_out(self, record: TrialRecord, save_at: Sequence[int] = ()) -> TrialSpec:
        """What a worker needs to know of ``record``, which begins or goes on now."""
        self._begun[record.number] = time.monotonic()
        self.sweep.track_trial(record, self._named)
        self._show()
        failure, store = self.sweep.config.failure, self.sweep.checkpoints
        return TrialSpec(
            number=record.number,
            stage=self.visit.key,
            configuration=record.configuration,
            seed=record.seed,
            epochs=record.epochs,
            directory=store.location(record.number),
            save_at=tuple(save_at),
            resume_from=None if record.parent is None else store.location(record.parent),
            timeout_s=failure.trial_timeout_s,
            heartbeat_s=failure.heartbeat_s,
            schedule_epochs=record.schedule_epochs,
            reported=self._reported(record),
            memory=self.sweep.expected_memory.of(record.configuration) if self.sweep.config.runner.pack else (),
        )

    def _reported(self, record: TrialRecord) -> int:
        """Up to which epoch the study and the metrics of ``record`` have all, its parent's included."""
        epoch = record.inherited
        if record.epochs_run > epoch:
            measured = {at for at, _ in self.sweep.measured.epochs(record.number)}
            while epoch + 1 in record.curve and epoch + 1 in measured:
                epoch += 1
        return epoch

    def _note(self, number: int, result: EpochResult) -> TrialRecord:
        """Take in an epoch of a trial."""
        study = self.sweep.study
        new = study.report(number, result.epoch, result.value)
        # A kill may have come between the study's note of an epoch and the logbook's.
        measured = self.sweep.measured
        if new or (result.epoch > study[number].inherited and not measured.has(number, result.epoch)):
            measured.add(number, result)
            self.sweep.tracker.log(trial_key(number), result.epoch, result.metrics)
        if result.memory:
            study.note_memory(number, result.memory)
            self.sweep.expected_memory.observe(study[number])
        if result.note:
            self.sweep.progress.say(f"[{self.visit.key}] trial {number}: {result.note}")
        self._show()
        return study[number]

    def tell(self, number: int, outcome: Outcome) -> None:
        """See :class:`~orchestrator.runners.base.Controller`.

        Raises:
            UserCodeError, TooManyFailuresError: see :class:`~orchestrator.stages.failures.Failures`.
        """
        sweep, failures = self.sweep, self.sweep.failures
        failures.check_user_error(outcome, sweep.study.records)
        seconds = time.monotonic() - self._begun.pop(number)
        if outcome.end is End.PAUSED:
            return
        if failures.restarts(sweep.study[number], outcome):
            self._resumable.append(number)
            sweep.progress.say(f"[{self.visit.key}] {failures.restart_line(sweep.study.restart(number), outcome)}")
            return
        state, reason = self._end_of(number, outcome)
        sweep.measured.keep(number)
        record = sweep.study.finish(number, state, seconds=seconds, reason=reason, detail=outcome.detail)
        self._ended(record)
        sweep.checkpoints.ended(record, sweep.study.records, self._kept())
        sweep.track_end(record)
        if record.state is TrialState.INFEASIBLE:
            line = record.detail.splitlines()[0] if record.detail else ""
            sweep.progress.say(f"[{self.visit.key}] trial {number} is infeasible: {record.reason}: {line}")
        self._show()
        failures.ended(record)

    def _end_of(self, number: int, outcome: Outcome) -> tuple[TrialState, Reason | None]:
        """How a trial has ended, for the study."""
        state = {End.FINISHED: TrialState.COMPLETE, End.STOPPED: TrialState.PRUNED, End.FAILED: TrialState.INFEASIBLE}
        reason = outcome.reason
        if outcome.end is End.STOPPED:
            reason = Reason.TIMEOUT if self.late else Reason.RUNG
        return state[outcome.end], reason

    def _ended(self, record: TrialRecord) -> None:
        """A trial has ended."""

    def _kept(self) -> Collection[int]:
        """Trials whose checkpoint is kept whatever they are worth."""
        best = self.sweep.best
        return () if best is None else (best.number,)

    def _show(self) -> None:
        self.sweep.progress.update(self._status)

    def _status(self) -> str:
        """Where the turn stands."""
        done = sum(record.state.finished for record in self.records)
        return f"[{self.visit.key}] {done} trials done, {self.running} running"
