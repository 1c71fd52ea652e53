"""One search stage: asks its question with trials, decides what to stop, and ends with a verdict."""

import time
from collections import Counter
from collections.abc import Mapping

from orchestrator.config.schema import PrunerConfig
from orchestrator.errors import NoFeasibleTrialError, UserCodeError
from orchestrator.progress import duration
from orchestrator.seeds import derive_seed
from orchestrator.stages.ledger import Verdict
from orchestrator.stages.sweep import Sweep
from orchestrator.study.pruners import make_pruner
from orchestrator.study.records import TrialRecord, incumbent
from orchestrator.study.region import Region
from orchestrator.study.samplers import make_sampler
from orchestrator.tracking.base import SWEEP, stage_key, trial_key
from orchestrator.types import (
    Configuration,
    Decision,
    End,
    EpochResult,
    Outcome,
    Reason,
    TrialSpec,
    TrialState,
    Value,
)


def best_before(sweep: Sweep, stage: str) -> TrialRecord | None:
    """The incumbent when ``stage`` began (or now, if it has not), the same after a restart."""
    records = sweep.study.records
    first = next((record.number for record in records if record.stage == stage), len(records))
    return incumbent(records[:first], sweep.direction)


def make_region(sweep: Sweep, stage: str) -> Region:
    """What ``stage`` may propose around the best configuration before it; no windows if it has no question here."""
    settings = sweep.config.stages[stage]
    best = best_before(sweep, stage)
    base = best.configuration if best else sweep.base
    windows = {name: sweep.space.whole(name) for name in settings.varies if name in sweep.space}
    if windows:
        for name, half_width in settings.retunes.items():
            if name in sweep.space and name not in windows:
                windows[name] = sweep.space.around(name, base[name], half_width)
    return Region(sweep.space, base, windows)


class SearchStage:
    """Runs one stage; a :class:`~orchestrator.runners.base.Controller`."""

    def __init__(self, sweep: Sweep, name: str) -> None:
        self.name = name
        self._sweep = sweep
        self._settings = sweep.config.stages[name]
        self._own = [record.number for record in sweep.study.records if record.stage == name]
        self._previous = best_before(sweep, name)
        self._region = make_region(sweep, name)
        config = sweep.config
        self.n_trials = config.n_trials or self._settings.n_trials
        timeout = config.timeout_s or self._settings.timeout_s
        self._started = time.monotonic()
        self._deadline = self._started + timeout if timeout else None
        self._epochs = config.trainer.epochs
        pruner = config.pruner if self._settings.prunes else PrunerConfig(name="none")
        self._pruner = make_pruner(pruner, sweep.direction, self._epochs)
        self._sampler = make_sampler(config.sampler, self._region, sweep.direction, config.seed, name)
        others = any(record.stage != name for record in sweep.study.records)
        self._starts = [] if others else sweep.starts
        self._resumable = [number for number in self._own if not sweep.study[number].state.finished]
        self._begun: dict[int, float] = {}
        for record in sweep.study.records:
            self._sampler.observe(record)
        self._begin()

    def _begin(self) -> None:
        sweep = self._sweep
        sweep.tracker.begin(
            stage_key(self.name),
            SWEEP,
            self.name,
            {},
            {"kind": "stage", "stage": self.name, "asks": self._settings.asks},
        )
        origin = f"from trial {self._previous.number}" if self._previous else "from the task's defaults"
        done = len(self._own) - len(self._resumable)
        again = f", {done} done, {len(self._resumable)} to resume" if self._own else ""
        sweep.progress.say(
            f"[{self.name}] {self._settings.asks} {self.n_trials} trials of up to {self._epochs} epochs over "
            f"{', '.join(self._region.windows)}, {origin}{again}"
        )

    @property
    def exhausted(self) -> bool:
        """Whether the stage starts no more trials: its budget or its time is spent."""
        # Trials that were begun are always resumed; when it is late their first report ends them.
        return not self._resumable and (len(self._own) >= self.n_trials or self._late)

    @property
    def running(self) -> int:
        """Trials under way."""
        return len(self._begun)

    @property
    def _late(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def ask(self) -> TrialSpec | None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        if self.exhausted:
            return None
        record = self._sweep.study[self._resumable.pop(0)] if self._resumable else self._start()
        self._begun[record.number] = time.monotonic()
        self._sweep.track_trial(record, tuple(self._region.windows))
        self._show()
        return TrialSpec(
            number=record.number,
            stage=self.name,
            configuration=record.configuration,
            seed=record.seed,
            epochs=record.epochs,
            directory=self._sweep.checkpoints.folder(record.number),
            save_at=tuple(self._pruner.rungs),
        )

    def _start(self) -> TrialRecord:
        study = self._sweep.study
        number, index = len(study), len(self._own)
        if index < len(self._starts):
            configuration = self._starts[index]
        else:
            configuration = self._region.configuration(self._sampler.propose(number, index))
        record = study.start(
            configuration,
            stage=self.name,
            seed=derive_seed(self._sweep.config.seed, "trial", number),
            epochs=self._epochs,
        )
        self._own.append(number)
        self._sampler.observe(record)
        return record

    def report(self, number: int, result: EpochResult) -> Decision:
        """See :class:`~orchestrator.runners.base.Controller`."""
        study = self._sweep.study
        if study.report(number, result.epoch, result.value):
            self._sweep.add_metrics(number, result)
            self._sweep.tracker.log(trial_key(number), result.epoch, result.metrics)
        self._show()
        record = study[number]
        if result.epoch >= record.epochs:
            return Decision.CONTINUE
        stops = self._late or self._pruner.stops(record, (study[own] for own in self._own))
        return Decision.STOP if stops else Decision.CONTINUE

    def tell(self, number: int, outcome: Outcome) -> None:
        """See :class:`~orchestrator.runners.base.Controller`.

        Raises:
            UserCodeError: the user's code failed before any trial of the sweep succeeded.
        """
        seconds = time.monotonic() - self._begun.pop(number)
        if outcome.end is End.PAUSED:
            return
        state = {End.FINISHED: TrialState.COMPLETE, End.STOPPED: TrialState.PRUNED, End.FAILED: TrialState.INFEASIBLE}
        reason = outcome.reason
        if outcome.end is End.STOPPED:
            reason = Reason.TIMEOUT if self._late else Reason.RUNG
        record = self._sweep.study.finish(
            number, state[outcome.end], seconds=seconds, reason=reason, detail=outcome.detail
        )
        self._sampler.observe(record)
        self._sweep.checkpoints.ended(record, self._sweep.study.records)
        self._sweep.track_end(record)
        if record.state is TrialState.INFEASIBLE:
            line = record.detail.splitlines()[0] if record.detail else ""
            self._sweep.progress.say(f"[{self.name}] trial {number} is infeasible: {record.reason}: {line}")
            if record.reason is Reason.USER_ERROR and self._sweep.best is None:
                raise UserCodeError(f"the task's code failed in the first trials:\n{record.detail}")
        self._show()

    def _show(self) -> None:
        self._sweep.progress.update(self._status)

    def _status(self) -> str:
        study, sweep = self._sweep.study, self._sweep
        done = sum(study[number].state.finished for number in self._own)
        best = sweep.best
        text = f"[{self.name}] {done}/{self.n_trials} trials done, {self.running} running"
        if best is not None:
            text += f", best {sweep.task.objective} {best.value:.4g} (trial {best.number})"
        if done:
            elapsed = time.monotonic() - self._started
            here = max(1, done - (len(self._own) - self.running - done))
            text += f", about {duration(elapsed / here * (self.n_trials - done))} left"
        return text

    def verdict(self) -> Verdict:
        """The stage's answer, when all its trials have ended.

        Raises:
            NoFeasibleTrialError: the sweep has no usable trial at all.
        """
        study, best = self._sweep.study, self._sweep.best
        own = [study[number] for number in self._own]
        reasons = Counter(str(record.reason) for record in own if record.state is TrialState.INFEASIBLE)
        if best is None:
            listed = ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "no trial finished"
            raise NoFeasibleTrialError(
                f"stage {self.name}: none of {len(own)} trials gave a value ({listed}); a lower "
                "space.optimizer.lr.high, or stage time and trials, is where to look first"
            )
        improved = self._previous is None or best.number != self._previous.number
        bounds = {
            name: end
            for name in self._region.windows
            if improved
            and (end := self._region.at_bound(name, best.configuration)) is not None
            # At a hard limit (no warm-up at all, say) there is nothing to widen.
            and (self._region.windows[name].low > 0 if end == "low" else self._region.windows[name].high < 1)
        }
        return Verdict(
            stage=self.name,
            trials=len(own),
            pruned=sum(record.state is TrialState.PRUNED for record in own),
            infeasible=dict(reasons),
            best_trial=best.number,
            best_value=best.value,
            previous_trial=self._previous.number if self._previous else None,
            previous_value=self._previous.value if self._previous else None,
            changed=_changes(self._region, best.configuration),
            at_bound=bounds,
            seconds=time.monotonic() - self._started,
        )


def _changes(region: Region, configuration: Configuration) -> Mapping[str, tuple[Value, Value]]:
    pairs = {name: (region.base[name], configuration[name]) for name in region.windows}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}
