"""What a visit found, and how sure that is."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence

from orchestrator.errors import NoFeasibleTrialError
from orchestrator.progress import duration, short, table
from orchestrator.stages.beginning import make_region, windows
from orchestrator.stages.ledger import Audit, Verdict
from orchestrator.stages.search import SearchStage
from orchestrator.stages.sweep import Sweep
from orchestrator.stages.visits import varied
from orchestrator.study.records import TrialRecord, searched
from orchestrator.types import Configuration, Reason, TrialState, Value

_MOVED = 0.1
"""A hyperparameter tuned again has moved when it did so by this share of its searched range: our guess."""
_RISING = 0.01
"""A curve still rises when the last tenth of it brought this share of all that it brought: our guess."""

_REMEDIES: dict[str, str] = {
    Reason.OUT_OF_MEMORY: "a smaller data.batch_size or model",
    Reason.HOST_OUT_OF_MEMORY: "a smaller data.batch_size or model",
    Reason.HANG: "what an epoch takes, beside failure.heartbeat_s,",
    Reason.TRIAL_TIMEOUT: "what a trial takes, beside failure.trial_timeout_s,",
}


def judge(stage: SearchStage) -> Verdict:
    """The visit's answer, when all its trials have ended.

    Raises:
        NoFeasibleTrialError: the sweep has no usable trial, where a stage by itself should have one.
    """
    sweep, best, previous = stage.sweep, stage.incumbent, stage.previous
    own = stage.records
    reasons = Counter(str(record.reason) for record in own if record.state is TrialState.INFEASIBLE)
    if best is None and not _may_wait(stage, own):
        listed = ", ".join(f"{count} x {reason}" for reason, count in reasons.items()) or "no trial finished"
        raise NoFeasibleTrialError(
            f"stage {stage.visit.key}: none of {len(own)} trials gave a value ({listed}); "
            f"{_remedy(reasons)} is where to look first"
        )
    base = previous.configuration if previous else sweep.base
    noise, measured = _seed_noise(stage, best)
    searched = [*varied(sweep.space, sweep.config.stages[stage.visit.stage]), *windows(sweep, stage.visit.key)]
    return Verdict(
        stage=stage.visit.key,
        trials=len(own),
        epochs=stage.spent,
        pruned=sum(record.state is TrialState.PRUNED for record in own),
        promoted=sum(record.parent is not None and record.epochs_run > record.inherited for record in own),
        infeasible=dict(reasons),
        best_trial=best.number if best else None,
        best_value=best.value if best else None,
        found_by=best.stage if best and best != previous and best.stage != stage.visit.key else "",
        previous_trial=previous.number if previous else None,
        previous_value=previous.value if previous else None,
        noise=noise,
        noise_measured=measured,
        changed=_changes(searched, base, best.configuration) if best else {},
        moved=_moved(sweep, stage, base, best.configuration) if best and previous else {},
        at_bound=_at_bound(sweep, stage, best) if best and (previous is None or best != previous) else {},
        widened=_widened(sweep, own),
        opened=stage.policy.opened,
        rising=best is not None and _rising(sweep, best),
        audit=_audit(sweep, own),
        seconds=time.monotonic() - stage.started,
    )


def _remedy(reasons: Counter[str]) -> str:
    """What most often helps against the commonest of ``reasons``."""
    commonest = reasons.most_common(1)[0][0] if reasons else ""
    return _REMEDIES.get(commonest, "a lower space.optimizer.lr.high, or the time and trials of the stage")


def _may_wait(stage: SearchStage, own: Sequence[TrialRecord]) -> bool:
    """In a pass, a later stage may finish the first trial: something must have given a value, though."""
    return not stage.visit.alone and any(record.value is not None for record in own)


def _seed_noise(stage: SearchStage, best: TrialRecord | None) -> tuple[float | None, bool]:
    """Standard deviation between seeds at the best value, and whether repeats measured it."""
    if best is None or best.value is None:
        return None, False
    records = stage.sweep.study.records
    again = [r for r in searched(records) if r.feasible and r.repeats == best.number]
    values = [r.value for r in again if r.value is not None]
    if values:
        return statistics.stdev([best.value, *values]), True
    return stage.policy.seed_noise(best.value), False


def _changes(names: Sequence[str], base: Configuration, now: Configuration) -> Mapping[str, tuple[Value, Value]]:
    pairs = {name: (base[name], now[name]) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _moved(
    sweep: Sweep, stage: SearchStage, base: Configuration, now: Configuration
) -> Mapping[str, tuple[Value, Value]]:
    """What earlier stages had tuned and this one moved, by more than ``_MOVED`` of its range."""
    found = {}
    for name in windows(sweep, stage.visit.key):
        item = sweep.space[name]
        if item.is_choice:
            moved = base[name] != now[name]
        else:
            low, high = item.searched
            moved = abs(item.to_unit(now[name]) - item.to_unit(base[name])) > _MOVED * (high - low)
        if moved:
            found[name] = (base[name], now[name])
    return found


def _at_bound(sweep: Sweep, stage: SearchStage, best: TrialRecord) -> Mapping[str, str]:
    """Which of the best values lie at an end of what was searched, where the limits leave room beyond it."""
    region = make_region(sweep, stage.visit.key)
    if sweep.config.sampler.name != "staged":
        ends = {name: region.at_bound(name, best.configuration) for name in region.windows}
        return {n: e for n, e in ends.items() if e and _room(e, region.windows[n].low, region.windows[n].high)}
    found = {}
    for name in varied(sweep.space, sweep.config.stages[stage.visit.stage]):
        item = sweep.space[name]
        tried = [item.to_unit(r.configuration[name]) for r in sweep.study.records] if not item.is_choice else []
        low, high = item.searched
        at = 0.0 if item.is_choice else item.to_unit(best.configuration[name])
        if tried and at <= low and at <= min(tried) and at > 0:
            found[name] = "low"
        elif tried and at >= high and at >= max(tried) and at < 1:
            found[name] = "high"
    return found


def _room(end: str, low: float, high: float) -> bool:
    return low > 0 if end == "low" else high < 1


def _widened(sweep: Sweep, own: Sequence[TrialRecord]) -> Mapping[str, tuple[Value, Value]]:
    """Where trials lie beyond the searched range: the least and the greatest value tried."""
    found: dict[str, tuple[Value, Value]] = {}
    for name, item in sweep.space.hyperparameters.items():
        if item.is_choice or not own:
            continue
        units = sorted((item.to_unit(record.configuration[name]), record.number) for record in own)
        low, high = item.searched
        base = item.to_unit(sweep.base[name])
        # The task's own default may lie outside without anything having been widened.
        if units[0][0] < min(low, base) - 1e-9 or units[-1][0] > max(high, base) + 1e-9:
            ends = [sweep.study[number].configuration[name] for _, number in (units[0], units[-1])]
            found[name] = (ends[0], ends[1])
    return found


def _rising(sweep: Sweep, best: TrialRecord) -> bool:
    """Whether the best trial was still getting better at the end of its budget."""
    costs = {epoch: sweep.direction.cost(value) for epoch, value in best.curve.items()}
    late = [cost for epoch, cost in costs.items() if epoch > 0.9 * best.epochs]
    early = [cost for epoch, cost in costs.items() if epoch <= 0.9 * best.epochs]
    if not late or not early:
        return False
    gain = min(early) - min(late)
    return gain > _RISING * (max(costs.values()) - min(late))


def _audit(sweep: Sweep, own: Sequence[TrialRecord]) -> Audit | None:
    """What became of the trials that were due to be stopped and let through."""
    audited = [record for record in own if record.audited is not None and record.value is not None]
    if not audited:
        return None
    best = sweep.direction.best([record.value for record in audited if record.value is not None])
    others = [r.value for r in own if r.audited is None and r.value is not None and r.feasible]
    without = sweep.direction.best(others)
    cost = max(0.0, sweep.direction.cost(without) - sweep.direction.cost(best)) if others else 0.0
    epochs = sum(record.epochs_run - (record.audited or 0) for record in audited)
    return Audit(len(audited), epochs, best, cost if math.isfinite(cost) else 0.0)


def describe(sweep: Sweep, verdict: Verdict, *, brief: bool = False) -> str:
    """A verdict in words and a small table; ``brief`` for a short visit of a pass."""
    objective = sweep.task.objective
    failed = ", ".join(f"{count} {reason}" for reason, count in verdict.infeasible.items())
    promoted = f", {verdict.promoted} promotions" if verdict.promoted else ""
    counts = (
        f"{verdict.trials} trials, {verdict.epochs} epochs ({verdict.pruned} stopped early{promoted}"
        f"{', infeasible: ' + failed if failed else ''})"
    )
    lines = [f"[{verdict.stage}] verdict after {counts} in {duration(verdict.seconds)}:", _answer(verdict, objective)]
    if verdict.changed and verdict.improved and not brief:
        rows = [["hyperparameter", "before", "now"]]
        rows += [[name, short(old), short(new)] for name, (old, new) in verdict.changed.items()]
        lines.append(table(rows))
    if brief:
        return " ".join(line.strip() for line in lines)
    return "\n".join([*lines, *_remarks(verdict)])


def _answer(verdict: Verdict, objective: str) -> str:
    best, before = verdict.best_value, verdict.previous_value
    if best is None:
        return "  nothing was trained to its end yet"
    sure = ""
    if verdict.noise is not None:
        how = "measured with more seeds" if verdict.noise_measured else "estimated"
        sure = f"; seed noise {verdict.noise:.2g} ({how})"
    found = f" (of {verdict.found_by})" if verdict.found_by else ""
    if before is None:
        return f"  best: trial {verdict.best_trial}{found} with {objective} {best:.4g}{sure}"
    if not verdict.improved:
        return f"  nothing beat trial {verdict.previous_trial} with {objective} {before:.4g}{sure}"
    within = " (within it: this may be luck)" if verdict.doubtful else ""
    return (
        f"  best: trial {verdict.best_trial}{found} with {objective} {best:.4g}, better by {abs(best - before):.2g} "
        f"than trial {verdict.previous_trial} ({before:.4g}){sure}{within}"
    )


def _remarks(verdict: Verdict) -> list[str]:
    lines = []
    for name, (low, high) in verdict.widened.items():
        lines.append(
            f"  {name}: the best lay at the end of its range, which was widened: {short(low)} to {short(high)}"
        )
    for name, end in verdict.at_bound.items():
        lines.append(f"  {name} lies at the {end} end of what was searched: widen space.{name}.{end} and look again")
    for name, (old, new) in verdict.moved.items():
        lines.append(
            f"  {name} moved from {short(old)} to {short(new)} when tuned again: it interacts with this stage"
        )
    if verdict.opened:
        lines.append(f"  {verdict.opened} proposals came from the whole space: it promised more than the windows did")
    if verdict.rising:
        lines.append("  the best was still improving at its last epoch: more trainer.epochs may pay")
    share = sum(verdict.infeasible.values()) / max(verdict.trials, 1)
    if share > 0.3:
        lines.append(f"  {share:.0%} of the trials were infeasible: look at their reasons before the next stage")
    if verdict.audit is not None:
        audit = verdict.audit
        cost = f"lost {audit.lost:.2g}" if audit.lost else "lost nothing"
        lines.append(
            f"  audit of early stopping: {audit.trials} trials due to be stopped ran {audit.epochs} epochs more; "
            f"the best of them reached {audit.best:.4g}: stopping would have {cost}"
        )
    return lines
