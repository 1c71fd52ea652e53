"""Visit after visit: one controller hands a runner the trials of all search stages in turn.

The workers stay up from the first stage to the last. In passes, a worker that finds nothing to begin in a visit
goes on to the next one while the others end theirs.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from orchestrator.errors import StorageError
from orchestrator.progress import duration
from orchestrator.stages.beginning import pauses
from orchestrator.stages.finalists import FinalistsStage
from orchestrator.stages.ledger import Verdict
from orchestrator.stages.search import SearchStage
from orchestrator.stages.standing import conclude
from orchestrator.stages.standing import describe as describe_standing
from orchestrator.stages.sweep import Sweep
from orchestrator.stages.verdict import describe, judge
from orchestrator.stages.visits import Visit, make_visits, stage_of, varied
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.types import Decision, EpochResult, Outcome, Reason, TrialSpec
from orchestrator.utilisation import Use, Utilisation, added, shares


class StageSequence:
    """The unfinished visits of the stages ``names``, searches first, then finalists; a
    :class:`~orchestrator.runners.base.Controller`.

    Args:
        sweep: the open sweep.
        names: its search stages, in order.
        stopping: whether the command is to end.
        workers: trials that run at a time, where the settings do not say how many are wanted.
        usage: the meter of the workers' time; None: a new one.
    """

    def __init__(
        self,
        sweep: Sweep,
        names: Sequence[str],
        stopping: Callable[[], bool],
        workers: int = 1,
        usage: Utilisation | None = None,
    ) -> None:
        self._sweep = sweep
        self._stopping = stopping
        # Fewer may run now: a cluster may grow.
        self._workers = sweep.config.runner.workers or workers
        self.usage = usage or Utilisation(workers)
        self._usage_before: dict[str, dict[str, float]] = {}
        asking = []
        kinds = {name: sweep.config.stages[name].kind for name in names}
        for name in (name for name in names if kinds[name] == "search"):
            if varied(sweep.space, sweep.config.stages[name]):
                asking.append(name)
            elif name not in sweep.ledger.finished:
                wanted = " or ".join(sweep.config.stages[name].varies) or "hyperparameter to vary"
                skip_stage(sweep, name, f"the task has no {wanted}")
        self._visits = make_visits(sweep.config, asking)
        self._visits += [Visit(name) for name in names if kinds[name] == "finalists"]
        self._several = len(self._visits) > 1
        self._began, self._epochs_before = time.monotonic(), sweep.study.epochs_paid
        sweep.progress.whole = self._progress
        # Oldest first; only the last begins trials, those before it wait for theirs to end.
        self._active: list[SearchStage | FinalistsStage] = []

    def ask(self) -> TrialSpec | None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        with self.usage.proposing():
            spec = self._ask()
        if spec is None:
            self.usage.nothing_to_begin()
        else:
            self.usage.begin(spec.number)
        return spec

    def _ask(self) -> TrialSpec | None:
        while not self._stopping():
            if not self._active and not self._begin_next():
                return None
            # Of the visits before the last only trials whose worker died begin again.
            stage = next((stage for stage in self._active if stage.resumable), self._active[-1])
            spec = stage.ask()
            if spec is not None:
                return spec
            if not stage.running and len(self._active) == 1:
                self._finish(stage)
            elif not (self._may_overlap(stage) and self._begin_next()):
                return None
        return None

    def report(self, number: int, result: EpochResult) -> Decision:
        """See :class:`~orchestrator.runners.base.Controller`."""
        with self.usage.reporting(number, result):
            decision = self._stage_of(number).report(number, result)
        paused = self._stopping() and decision is Decision.CONTINUE
        return Decision.PAUSE if paused else decision

    def tell(self, number: int, outcome: Outcome) -> None:
        """See :class:`~orchestrator.runners.base.Controller`.

        Raises:
            StorageError: the trial's files cannot be written or read; it stays as it was.
        """
        with self.usage.ending(number, outcome):
            self._tell(number, outcome)

    def commit(self) -> None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        self._sweep.commit()

    def _tell(self, number: int, outcome: Outcome) -> None:
        if outcome.reason is Reason.STORAGE:
            raise StorageError(f"trial {number}: {outcome.detail}")
        stage = self._stage_of(number)
        stage.tell(number, outcome)
        for other in self._active:
            if other is not stage:
                other.observe(self._sweep.study[number])
        while len(self._active) > 1 and not self._active[0].running and not self._stopping():
            self._finish(self._active[0])

    def note_usage(self) -> None:
        """Write down what the workers' time went into, for the report."""
        self.usage.settle()
        self._sweep.ledger.note_usage(self.usage.seconds, self.usage.workers)

    def _progress(self) -> str:
        """How far the whole search is, about how long it will still take, and how busy the workers are."""
        busy = shares(added(self.usage.workers)).get(Use.BUSY)
        told = "" if busy is None else f"workers {busy:.0%} busy"
        whole = self._whole() if self._several else ""
        return ", ".join(part for part in (whole, told) if part)

    def _whole(self) -> str:
        total = self._active[-1].visit.ceiling if self._active else None
        spent = self._sweep.study.epochs_paid
        if not total:
            return f"{len(self._visits)} visits to come"
        share, own = min(spent / total, 1.0), spent - self._epochs_before
        took = time.monotonic() - self._began
        left = f", about {duration(took * (total - spent) / own)} left" if own > 0.02 * total and share < 1 else ""
        return f"sweep {share:.0%}{left}"

    def _stage_of(self, number: int) -> SearchStage | FinalistsStage:
        return next(stage for stage in self._active if number in stage.begun)

    def _may_overlap(self, stage: SearchStage | FinalistsStage) -> bool:
        """Whether the next visit may begin while trials of this one run: in passes, so that no worker waits; but
        not before the last visit, whose budget is what the others have left."""
        passing = not stage.visit.alone and not self._sweep.config.deterministic
        return passing and bool(self._visits) and not self._visits[0].alone and self._visits[0].up_to is None

    def _begin_next(self) -> bool:
        """Begin the next visit; False when there is none left."""
        while self._visits:
            visit = self._visits[0]
            if visit.key in self._sweep.ledger.finished:
                self._visits.pop(0)
                self._sweep.progress.say(f"[{visit.key}] finished before; skipped")
                continue
            if not self._affords(visit):
                if self._active:
                    return False  # what runs may leave something
                self._visits.pop(0)
                if stage_of(visit.key) not in map(stage_of, self._sweep.ledger.finished):
                    skip_stage(self._sweep, visit.key, "nothing is left of the search's budget")
                continue
            self._visits.pop(0)
            self.usage.settle()
            self._usage_before[visit.key] = added(self.usage.workers)
            if self._sweep.config.stages[visit.stage].kind == "finalists":
                self._active.append(FinalistsStage(self._sweep, visit))
            else:
                self._active.append(SearchStage(self._sweep, visit, self._workers))
            return True
        return False

    def _affords(self, visit: Visit) -> bool:
        """Whether the visit may begin a trial, or has begun one: the visits before it may have spent everything."""
        study = self._sweep.study
        if visit.ceiling is None or any(record.stage == visit.key for record in study.records):
            return True
        waited_for = self._active[-1] if self._active else None
        left = waited_for.below_ceiling() if isinstance(waited_for, SearchStage) else None
        config = self._sweep.config
        shortest = min(pauses(config, visit.stage), default=config.trainer.epochs)
        return (visit.ceiling - study.epochs_paid if left is None else left) >= shortest

    def _finish(self, stage: SearchStage | FinalistsStage) -> None:
        sweep, key = self._sweep, stage.visit.key
        # The ledger says nothing that the study could still lose.
        sweep.commit()
        before = self._usage_before.pop(key)
        self.note_usage()
        usage = shares({use: seconds - before[use] for use, seconds in added(self.usage.workers).items()})
        if isinstance(stage, FinalistsStage):
            standing = replace(conclude(stage), usage=usage)
            said = text = describe_standing(sweep, standing)
            sweep.ledger.finish(key, standing, text)
        else:
            verdict = replace(judge(stage), usage=usage)
            text = describe(sweep, verdict)
            sweep.ledger.finish(key, verdict, text)
            brief = not stage.visit.alone and any(not visit.alone for visit in self._visits)
            said = describe(sweep, verdict, brief=brief)
        sweep.track_stage_end(key)
        sweep.write_winner()
        sweep.progress.say(said)
        self._active.remove(stage)


def skip_stage(sweep: Sweep, name: str, why: str) -> None:
    """Note that the visit ``name`` is none, and say so."""
    sweep.commit()
    best = sweep.best
    number, value = (best.number, best.value) if best else (None, None)
    text = f"[{name}] skipped: {why}"
    verdict = Verdict(
        stage=name,
        best_trial=number,
        best_value=value,
        previous_trial=number,
        previous_value=value,
        skipped=why,
    )
    sweep.ledger.finish(name, verdict, text)
    sweep.tracker.begin(stage_key(name), SWEEP, name, {}, {"kind": "stage", "stage": stage_of(name)})
    sweep.track_stage_end(name)
    sweep.progress.say(text)
