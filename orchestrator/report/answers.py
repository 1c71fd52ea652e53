"""What the page says in words: the question, how sure the answer is, what to look at next."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.progress import short
from orchestrator.report.view import ASIDE, FINISHED, INFEASIBLE, SweepView
from orchestrator.stages.ledger import describe_reads
from orchestrator.stages.visits import stage_of
from orchestrator.study.records import TrialRecord


def question(view: SweepView) -> str:
    """What the sweep was asked, in a sentence."""
    verb = "smallest" if view.direction.cost(1.0) > 0 else "largest"
    searched = sorted({name for stage in view.stages for name in view.asked(stage)})
    over = f" over {len(searched)} hyperparameters" if searched else ""
    return (
        f"Which configuration of {view.config.task.name} gives the {verb} {view.objective} on validation within "
        f"{view.epochs} epochs? Searched{over} with the sampler {view.config.sampler.name}, seed {view.config.seed}."
    )


def sureness(view: SweepView) -> tuple[str, str]:
    """Seed noise at the best value, and how many other trainings come as close as it."""
    noise, measured = view.noise
    final = [entry for entry in view.finished.values() if entry.get("winner") is not None]
    if final and noise is not None:
        told = " ".join(f"{line[0].upper()}{line[1:]}." for line in final[-1]["remarks"])
        return f"± {noise:.2g}", f"One standard deviation between seeds, measured with the finalists. {told}"
    best = view.best
    if noise is None or best is None or best.value is None:
        return "unknown", "Seed noise was neither measured nor estimated: a small gain may be luck."
    value = best.value
    near = [
        training
        for training in view.trainings
        if training.outcome == FINISHED
        and training.last.number != best.number
        and training.last.value is not None
        and abs(training.last.value - value) <= noise
    ]
    how = "measured with more seeds of the best" if measured else "estimated from all trials, not measured"
    told = f"One standard deviation between seeds, {how}. "
    told += (
        f"{len(near)} other finished {'trainings are' if len(near) != 1 else 'training is'} within it: they "
        f"may be as good."
        if near
        else "No other finished training is within it."
    )
    return f"± {noise:.2g}", told


def gain(view: SweepView, entries: Sequence[Mapping[str, Any]]) -> str:
    """By how much visits improved the best, in sum; empty where they did not, or began without one."""
    total = 0.0
    first = ""
    for entry in entries:
        before, after = entry.get("previous_value"), entry.get("best_value")
        if after is None or entry.get("found_by"):
            continue
        if before is None:
            first = f"first best {after:.4g}"
        else:
            total += view.direction.cost(before) - view.direction.cost(after)
    sign = "-" if view.direction.cost(1.0) > 0 else "+"
    told = f"{sign}{total:.2g}" if total > 0 else ""
    return ", then ".join(part for part in (first, told) if part)


def next_steps(view: SweepView) -> Sequence[str]:
    """What the verdicts warn of, the most recent of each kind."""
    found = [*_beaten(view), *_bounds(view), *_doubts(view), *_failures(view)]
    latest = list(view.finished.values())
    if any(entry.get("rising") for entry in latest[-3:]):
        found.append("The best was still improving at its last epoch: more trainer.epochs may pay.")
    for entry in latest:
        for check in entry.get("failed", ()):
            found.append(f"Preflight: {check} failed; what follows may rest on broken data or code.")
    return found


def _bounds(view: SweepView) -> Sequence[str]:
    """Where the winner itself lies at an end of what was searched, by the last verdict that made it the best."""
    best = view.best
    if best is None:
        return []
    ends: dict[str, str] = {}
    for entry in view.finished.values():
        if entry.get("best_trial") == best.number:
            ends |= entry.get("at_bound", {})
    return [
        f"{name} = {short(best.configuration[name])} lies at the {end} end of what was searched: widen "
        f"space.{name}.{end} and look again."
        for name, end in ends.items()
    ]


def _doubts(view: SweepView) -> Sequence[str]:
    doubtful = []
    for key, entry in view.finished.items():
        before, after, noise = entry.get("previous_value"), entry.get("best_value"), entry.get("noise")
        if entry.get("found_by"):
            continue
        if before is not None and after is not None and noise is not None and 0 < abs(after - before) <= noise:
            doubtful.append(key)
    if not doubtful:
        return []
    return [f"The gain of {', '.join(doubtful)} is within seed noise and may be luck."]


def _failures(view: SweepView) -> Sequence[str]:
    found = []
    for stage, trainings in view.by_stage.items():
        failed = sum(training.outcome == INFEASIBLE for training in trainings)
        if failed > 0.3 * len(trainings):
            found.append(f"{stage_of(stage)}: {failed} of {len(trainings)} trainings were infeasible; see why below.")
    return found


def _beaten(view: SweepView) -> Sequence[str]:
    best = view.best
    if best is None or best.value is None:
        return []
    value = best.value
    models = {
        name: scores[view.objective]
        for entry in view.finished.values()
        for name, scores in (entry.get("baselines") or {}).items()
        if view.objective in scores
    }
    better = [name for name, score in models.items() if not view.direction.better(value, score)]
    return [f"{name} does as well or better on validation ({models[name]:.4g})." for name in better]


def worth(view: SweepView, entry: Mapping[str, Any]) -> str:
    """Whether the ensemble of ``entry`` pays, in words."""
    better = {
        split: view.direction.better(entry[split]["ensemble"][view.objective], entry[split]["single"][view.objective])
        for split in ("validation", "test")
    }
    count = len(entry["weights"])
    tested = entry["gains"]["test"]
    # What is within two standard errors, so few examples cannot say.
    unclear = abs(tested["value"]) <= 2 * tested["error"]
    against = "on test it is not, by less than two standard errors" if unclear else "not on test: do not count on it"
    told = {
        (True, True): "The ensemble is better on validation and on test",
        (True, False): f"The ensemble is better on validation; {against}",
        (False, True): "The ensemble is better on test, but was not on validation: the gain is uncertain",
        (False, False): "The ensemble is no better than the best single model: use that one",
    }[better["validation"], better["test"]]
    gain = entry["gains"]["validation"]
    sure = "" if gain["value"] > gain["error"] or not better["validation"] else " (within a standard error)"
    costs = f"It costs {count} prediction{'s' if count > 1 else ''} instead of one"
    return f"{told}{sure}. {costs}. The test split was read {describe_reads(view.test_reads)}."


def in_a_minute(view: SweepView) -> Sequence[tuple[str, str]]:
    """The questions that a reader who did not run the sweep asks first, with the answers; empty without a winner."""
    if view.best is None:
        return []
    found = [
        ("Which learning rate, and why?", _learning_rate(view)) if "optimizer.lr" in view.space else None,
        ("Was a range too narrow?", _narrow(view)),
        ("What failed, and why?", _failed(view)),
        ("What did each stage gain?", _gains(view)),
    ]
    found += [
        ("Is the ensemble worth its cost?", worth(view, entry))
        for entry in view.finished.values()
        if "weights" in entry
    ]
    return [pair for pair in found if pair is not None]


def _learning_rate(view: SweepView) -> str:
    best = view.searched_best
    assert best is not None
    assert best.value is not None
    rate = float(best.configuration["optimizer.lr"])
    noise = view.noise[0]
    ended = [t for t in view.trainings if t.outcome == FINISHED and t.last.value is not None]
    told = f"{rate:.3g}: it was in the configuration that did best of {len(view.trainings)} trainings"
    rates = sorted(float(t.configuration["optimizer.lr"]) for t in view.trainings)
    told += f" at rates from {rates[0]:.2g} to {rates[-1]:.2g}. {_by_decade(view)}"
    if noise and len(ended) > 1:
        near = [
            float(t.configuration["optimizer.lr"])
            for t in ended
            if abs((t.last.value or 0.0) - best.value) <= 2 * noise
        ]
        told += (
            f" Finished trainings within two seed noises of it had rates from {min(near):.3g} to {max(near):.3g}."
            if len(near) > 1
            else " No other finished training came within two seed noises of it."
        )
    failed = [
        float(t.configuration["optimizer.lr"])
        for t in view.trainings
        if t.outcome == INFEASIBLE and str(t.last.reason) in ("non_finite", "diverged")
    ]
    if failed:
        told += f" Training diverged at rates from {min(failed):.3g} up."
    return told


def _by_decade(view: SweepView) -> str:
    """What each decade of learning rates came to at best, all after equally many epochs; empty with one decade."""
    trainings = [t for t in view.trainings if t.outcome not in ASIDE]
    epoch = view.common_epoch(trainings)
    decades: dict[int, float] = {}
    for training in trainings:
        value = training.best_by(epoch) if epoch else None
        if value is not None:
            decade = math.floor(math.log10(float(training.configuration["optimizer.lr"])))
            decades[decade] = view.direction.best([value, decades.get(decade, view.direction.worst)])
    if len(decades) < 2:
        return ""
    listed = ", ".join(f"{10.0**d:g} to {10.0 ** (d + 1):g}: {decades[d]:.3g}" for d in sorted(decades))
    return f"The best {view.objective} after {epoch} epoch{'s' if epoch > 1 else ''} by rate: {listed}."


def _narrow(view: SweepView) -> str:
    """Where the winner lies beyond the range that was given, or at an end of what was searched."""
    best = view.best
    assert best is not None
    told = [said for name in view.space.hyperparameters if (said := _beyond(view, best, name))]
    told += [
        said for said in _bounds(view) if not any(said.startswith(f"{other.partition(':')[0]} ") for other in told)
    ]
    return " ".join(told) or "No: the winner lies inside every range that was searched."


def _beyond(view: SweepView, best: TrialRecord, name: str) -> str:
    item, value = view.space[name], best.configuration[name]
    if item.is_choice or (item.config.zero and value == 0):
        return ""
    place, (low, high) = item.to_unit(value), item.searched
    if low - 1e-9 <= place <= high + 1e-9:
        return ""
    below = place < low
    tried = [item.to_unit(t.configuration[name]) for t in view.trainings]
    extreme = place <= min(tried) if below else place >= max(tried)
    more = f", and is the {'least' if below else 'greatest'} value tried: widen it further" if extreme else ""
    return (
        f"{name}: yes. The winner's {short(value)} lies {'below' if below else 'above'} the range that was given, "
        f"{item.config.low:g} to {item.config.high:g}; the search went on beyond it{more}."
    )


def _failed(view: SweepView) -> str:
    failed = [t for t in view.trainings if t.outcome == INFEASIBLE]
    if not failed:
        return f"None of {len(view.trainings)} trainings."
    reasons = Counter(str(t.last.reason) for t in failed)
    parts = []
    for reason, count in reasons.most_common():
        own = [t for t in failed if str(t.last.reason) == reason]
        detail = next(iter(own[0].last.detail.splitlines()), "")
        rates = sorted(float(t.configuration["optimizer.lr"]) for t in own if "optimizer.lr" in t.configuration)
        where = f" at learning rates from {rates[0]:.2g} to {rates[-1]:.2g}" if rates else ""
        parts.append(f"{count} x {reason}{where} (for example: {detail[:120]})")
    return f"{len(failed)} of {len(view.trainings)} trainings: {'; '.join(parts)}."


def _gains(view: SweepView) -> str:
    visits: dict[str, list[Mapping[str, Any]]] = {}
    for key, entry in view.finished.items():
        if "best_value" in entry and not entry.get("skipped"):
            visits.setdefault(stage_of(key), []).append(entry)
    won = {name: told for name, entries in visits.items() if (told := gain(view, entries))}
    nothing = [name for name in visits if name not in won]
    told = "; ".join(f"{name}: {what}" for name, what in won.items())
    return told + (f"; nothing: {', '.join(nothing)}" if nothing else "") + "."
