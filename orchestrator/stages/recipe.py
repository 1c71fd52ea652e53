"""Stage after stage: one controller hands a runner the trials of all search stages in turn.

The workers stay up from the first stage to the last: a stage ends, and its successor begins, inside
``ask``, as soon as the last trial has been told.
"""

from collections.abc import Callable, Sequence

from orchestrator.progress import duration, table
from orchestrator.stages.ledger import Verdict
from orchestrator.stages.search import SearchStage, make_region
from orchestrator.stages.sweep import Sweep, short
from orchestrator.types import Decision, EpochResult, Outcome, TrialSpec


class StageSequence:
    """The unfinished search stages among ``names``, in order; a :class:`~orchestrator.runners.base.Controller`."""

    def __init__(self, sweep: Sweep, names: Sequence[str], stopping: Callable[[], bool]) -> None:
        self._sweep = sweep
        self._names = list(names)
        self._stopping = stopping
        self._stage: SearchStage | None = None

    def ask(self) -> TrialSpec | None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        while not self._stopping():
            if self._stage is None and not self._begin_next():
                return None
            assert self._stage is not None
            spec = self._stage.ask()
            if spec is not None or self._stage.running or not self._stage.exhausted:
                return spec
            self._finish(self._stage)
        return None

    def report(self, number: int, result: EpochResult) -> Decision:
        """See :class:`~orchestrator.runners.base.Controller`."""
        assert self._stage is not None
        decision = self._stage.report(number, result)
        paused = self._stopping() and decision is Decision.CONTINUE
        return Decision.PAUSE if paused else decision

    def tell(self, number: int, outcome: Outcome) -> None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        assert self._stage is not None
        self._stage.tell(number, outcome)

    def _begin_next(self) -> bool:
        """Begin the next stage that has something to search; False when there is none left."""
        while self._names:
            name = self._names.pop(0)
            if name in self._sweep.ledger.finished:
                self._sweep.progress.say(f"[{name}] finished before; skipped")
                continue
            if not make_region(self._sweep, name).windows:
                skip_stage(self._sweep, name)
                continue
            self._stage = SearchStage(self._sweep, name)
            return True
        return False

    def _finish(self, stage: SearchStage) -> None:
        verdict = stage.verdict()
        sweep = self._sweep
        text = describe(sweep, verdict)
        sweep.ledger.finish(stage.name, verdict, text)
        sweep.track_stage_end(stage.name)
        sweep.write_winner()
        sweep.progress.say(text)
        self._stage = None


def skip_stage(sweep: Sweep, name: str) -> None:
    """Note that ``name`` has nothing to search on this task, and say so."""
    wanted = sweep.config.stages[name].varies
    why = f"the task has no {' or '.join(wanted) or 'hyperparameter to vary'}"
    best = sweep.best
    number, value = (best.number, best.value) if best else (None, None)
    text = f"[{name}] skipped: {why}"
    sweep.ledger.finish(name, Verdict(name, 0, 0, {}, number, value, number, value, skipped=why), text)
    sweep.progress.say(text)


def describe(sweep: Sweep, verdict: Verdict) -> str:
    """A stage's verdict in words and a small table."""
    objective = sweep.task.objective
    failed = ", ".join(f"{count} {reason}" for reason, count in verdict.infeasible.items())
    counts = f"{verdict.trials} trials ({verdict.pruned} stopped early{', infeasible: ' + failed if failed else ''})"
    lines = [f"[{verdict.stage}] verdict after {counts} in {duration(verdict.seconds)}:"]
    if verdict.previous_trial is None:
        lines.append(f"  best: trial {verdict.best_trial} with {objective} {verdict.best_value:.4g}")
    elif verdict.improved and verdict.best_value is not None and verdict.previous_value is not None:
        margin = abs(verdict.best_value - verdict.previous_value)
        lines.append(
            f"  best: trial {verdict.best_trial} with {objective} {verdict.best_value:.4g}, better by {margin:.2g} "
            f"than trial {verdict.previous_trial} ({verdict.previous_value:.4g})"
        )
    else:
        lines.append(f"  nothing beat trial {verdict.previous_trial} with {objective} {verdict.previous_value:.4g}")
    if verdict.changed and verdict.improved:
        rows = [["hyperparameter", "before", "now"]]
        rows += [[name, short(old), short(new)] for name, (old, new) in verdict.changed.items()]
        lines.append(table(rows))
    for name, end in verdict.at_bound.items():
        lines.append(f"  {name} lies at the {end} end of its range: widen space.{name}.{end} and look again")
    return "\n".join(lines)
