"""What a sweep, its stages and its trials are called and how they are described for review, in Markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.masking import mask
from orchestrator.progress import duration, short
from orchestrator.stages.duplicates import pointing_to
from orchestrator.stages.visits import stage_of
from orchestrator.study.records import TrialRecord
from orchestrator.tracking.base import NOTE, link, stage_key, trial_key
from orchestrator.types import Configuration, TrialState, Value

_ABBREVIATIONS = {
    "data.batch_size": "bs",
    "optimizer.weight_decay": "wd",
    "loss.label_smoothing": "smooth",
    "data.augmentation": "augment",
}
"""Names as people in the field write them; the others by their last part."""
_MOST_IN_NAME = 6
"""Hyperparameters in a trial's name: more do not fit a column of MLflow's table. Those that a stage varies are
named even where they have the default, unless it varies more than half as many."""
_DETAIL_CHARACTERS = 3000
"""Of a traceback, its end: what was raised."""


def trial_name(record: TrialRecord, varied: Sequence[str], base: Configuration) -> str:
    """What was tried: the learning rate, what the stage varies, and what else differs from ``base``."""
    changed = [name for name, value in record.configuration.items() if value != base.get(name)]
    named = [name for name in ("optimizer.lr", *varied, *changed) if name in record.configuration]
    asked = varied if len(varied) <= _MOST_IN_NAME / 2 else ()
    names = [name for name in dict.fromkeys(named) if name in changed or name in asked]
    shown = " ".join(_setting(name, record.configuration[name]) for name in names[:_MOST_IN_NAME])
    shown += f" +{len(names) - _MOST_IN_NAME}" if len(names) > _MOST_IN_NAME else ""
    if record.repeats is not None:
        longer = f", longer from epoch {record.inherited}" if record.parent is not None else ", longer"
        return f"{shown or 'defaults'} again, seed {record.seed}{longer if record.finalist else ''}"
    return f"{shown or 'defaults'}" + (f" from epoch {record.inherited}" if record.parent is not None else "")


def _setting(name: str, value: Value) -> str:
    return f"{_ABBREVIATIONS.get(name, name.rpartition('.')[2])}={short(value)}"


def begin_tags(record: TrialRecord) -> dict[str, str]:
    """What to filter a trial's run by, known when it begins."""
    tags = {"kind": "trial", "stage": stage_of(record.stage), "visit": record.stage}
    tags |= {"trial": str(record.number), "seed": str(record.seed)}
    if record.parent is not None:
        tags |= {"parent": str(record.parent)}
        tags[NOTE] = (
            f"Continues {link(trial_key(record.parent), f'trial {record.parent}')} from epoch {record.inherited}, "
            "where that ended."
        )
    if record.repeats is not None:
        tags |= {"repeats": str(record.repeats)}
        whose = link(trial_key(record.repeats), f"trial {record.repeats}")
        if record.finalist:
            tags[NOTE] = f"A finalist: trains the configuration of {whose} for longer. {tags.get(NOTE, '')}".strip()
        else:
            tags[NOTE] = f"Trains the configuration of {whose} with another seed, to measure seed noise."
    return tags


def end_tags(record: TrialRecord) -> dict[str, str]:
    """What to filter a trial's run by, known when it has ended; why it failed as its description."""
    tags = {"state": record.state.value, "reason": record.reason or ""}
    if record.state is TrialState.PRUNED:
        tags["rung"] = str(record.epochs_run)
    if record.restarts:
        tags["restarts"] = str(record.restarts)
    if record.parent is not None and record.detail == pointing_to(record.parent):
        tags[NOTE] = f"Not trained again: the same as {link(trial_key(record.parent), f'trial {record.parent}')}."
    elif record.state is TrialState.INFEASIBLE:
        line, _, trace = mask(record.detail).partition("\n")
        traced = f"\n\n```\n{trace[-_DETAIL_CHARACTERS:].strip()}\n```" if trace.strip() else ""
        tags["detail"] = line[:500]
        tags[NOTE] = f"**Infeasible: {record.reason}** after {record.epochs_run} epochs. {line[:500]}{traced}"
    return tags


def end_metrics(record: TrialRecord) -> dict[str, float]:
    """The few numbers that sum a trial up: best and last objective, epochs, seconds, peak memory."""
    metrics = {"epochs": float(record.epochs_run), "duration_s": record.seconds}
    if record.value is not None:
        metrics["best"] = record.value
    if record.curve:
        metrics["final"] = record.curve[record.epochs_run]
    return metrics | {f"memory/{use.where}_mb": use.peak_bytes / 1e6 for use in record.memory}


def stage_note(entry: Mapping[str, Any], objective: str) -> str:
    """The verdict of a finished stage: what it found, what that changed, what to look at next."""
    if entry.get("skipped"):
        return f"**Skipped**: {entry['skipped']}."
    if "weights" in entry:
        return _ensemble_note(entry)
    if "finalists" in entry:
        return _finalists_note(entry, objective)
    if "findings" in entry:
        return _preflight_note(entry)
    if "best_value" not in entry:
        return f"```\n{entry['text']}\n```"
    return _search_note(entry, objective)


def _search_note(entry: Mapping[str, Any], objective: str) -> str:
    best, before = entry["best_value"], entry["previous_value"]
    parts = [f"**{_verdict(entry, objective)}**"]
    failed = ", ".join(f"{count} {reason}" for reason, count in entry["infeasible"].items())
    rows = [("trials", entry["trials"]), ("stopped early", entry["pruned"]), ("continued", entry["promoted"])]
    rows += [("infeasible", failed or "none"), ("epochs", entry["epochs"]), ("time", duration(entry["seconds"]))]
    parts += [_next(remarks(entry), entry["best_trial"]), _table([("", ""), *rows])]
    if entry["changed"] and best != before:
        changes = [(name, short(old), short(new)) for name, (old, new) in entry["changed"].items()]
        parts.append(_table([("hyperparameter", "before", "now"), *changes]))
    return "\n\n".join(parts)


def _verdict(entry: Mapping[str, Any], objective: str) -> str:
    best, before, noise = entry["best_value"], entry["previous_value"], entry["noise"]
    if best is None:
        return "Nothing was trained to its end yet."
    sure = f"; seed noise {noise:.2g}, {'measured' if entry['noise_measured'] else 'estimated'}" if noise else ""
    trial = link(trial_key(entry["best_trial"]), f"trial {entry['best_trial']}")
    if before is None:
        return f"First best: {objective} {best:.4g} by {trial}{sure}."
    if entry["best_trial"] == entry["previous_trial"]:
        return f"Nothing beat {trial} with {objective} {before:.4g}{sure}."
    luck = " - within it, so this may be luck" if noise and abs(best - before) <= noise else ""
    return f"{objective} {before:.4g} -> {best:.4g} by {trial}{sure}{luck}."


def remarks(entry: Mapping[str, Any]) -> list[str]:
    """What of a search verdict asks for attention."""
    found = [
        f"`{name}` lies at the {end} end of what was searched: widen `space.{name}.{end}`"
        for name, end in entry["at_bound"].items()
    ]
    found += [
        f"`{name}` was searched beyond its range, {short(low)} to {short(high)}"
        for name, (low, high) in entry["widened"].items()
    ]
    found += [
        f"`{name}` moved from {short(old)} to {short(new)} when tuned again: it interacts with this stage"
        for name, (old, new) in entry["moved"].items()
    ]
    if entry["rising"]:
        found.append("the best was still improving at its last epoch: more `trainer.epochs` may pay")
    if entry["infeasible"]:
        found.append("why trials failed: filter by `tags.state = 'infeasible'`, group by `reason`")
    return found


def _next(found: Sequence[str], best: int | None) -> str:
    see = [f"the curves of {link(trial_key(best), f'trial {best}')}"] if best is not None else []
    return "Look at next:\n" + "\n".join(f"- {line}" for line in [*found, *see, "pictures: Artifacts, `pictures/`"])


def _ensemble_note(entry: Mapping[str, Any]) -> str:
    names = list(entry["validation"]["single"])
    rows: list[tuple[object, ...]] = [
        ("", *(f"{split} {name}" for split in ("validation", "test") for name in names))
    ]
    labels = (("single", f"best single, trial {entry['single']}"), ("uniform", f"mean of {len(entry['uniform'])}"))
    for who, label in (*labels, ("ensemble", f"ensemble ({entry['kind']})")):
        rows.append((label, *(f"{entry[s][who][name]:.4g}" for s in ("validation", "test") for name in names)))
    members = ", ".join(
        f"{link(trial_key(one['trial']), one['name'])} {one['share']:.0%}" for one in entry["members"]
    )
    gain = entry["gains"]["validation"]
    told = f"Gain over the best single, cross-fitted: {gain['value']:+.2g} ± {gain['error']:.2g}."
    return f"{_table(rows)}\n\n{told} Members: {members}.\n\nThe test split was read here."


def _finalists_note(entry: Mapping[str, Any], objective: str) -> str:
    if entry["winner"] is None:
        return f"**No training of a finalist was through.**\n\n{_table(finalist_rows(entry))}"
    won = link(trial_key(entry["winner"]), f"trial {entry['winner']}")
    best = link(trial_key(entry["best_trial"]), f"trial {entry['best_trial']}")
    parts = [
        f"**The configuration of {won} wins with {objective} {with_spread(entry['mean'], entry['spread'])} over "
        f"fresh seeds.** Its best fresh seed is {best} with {entry['best_value']:.4g}.",
        _table(finalist_rows(entry)),
        *(f"{line[0].upper()}{line[1:]}." for line in entry["remarks"]),
    ]
    return "\n\n".join(parts)


def finalist_rows(entry: Mapping[str, Any]) -> list[list[str]]:
    """The finalists of a finished stage as a table with a heading: each beside its value in the search."""
    seeds = [f"seed {index + 1}" for index in range(len(entry["seeds"]))]
    found = [["trial", "in the search", "mean ± spread", *seeds, "own seed, longer", "epochs", ""]]
    for item in entry["finalists"]:
        epochs = [count for count in item["epochs"] if count]
        span = f"{min(epochs)} to {max(epochs)}" if len(set(epochs)) > 1 else "".join(map(str, epochs[:1]))
        values = [*item["values"], item["own"]]
        shown = ["-" if value is None else f"{value:.4g}" for value in values]
        mean = with_spread(item["mean"], item["spread"])
        found.append([str(item["trial"]), f"{item['search_value']:.4g}", mean, *shown, span or "-", item["remark"]])
    return found


def with_spread(mean: float | None, spread: float | None) -> str:
    """A mean and the standard deviation around it, as far as they are known."""
    if mean is None:
        return "-"
    return f"{mean:.4g}" + (f" ± {spread:.2g}" if spread is not None else "")


def over_seeds(finished: Mapping[str, Mapping[str, Any]]) -> str:
    """What the winner's configuration is worth over the finalists' fresh seeds; empty where there are none.

    The winner itself is the best of these: its own value is a lucky one.
    """
    won = [entry for entry in finished.values() if entry.get("winner") is not None]
    return f"{with_spread(won[-1]['mean'], won[-1]['spread'])} over {len(won[-1]['seeds'])} seeds" if won else ""


def _preflight_note(entry: Mapping[str, Any]) -> str:
    rows: list[tuple[object, ...]] = [("severity", "check", "found")]
    rows += [(f["severity"], f["check"], f["statistic"]) for f in entry["findings"]]
    told = _table(rows) if len(rows) > 1 else "Data, training code and baselines passed every check."
    models = ", ".join(entry["baselines"])
    return f"**{entry['worst']}**\n\n{told}" + (f"\n\nClassical models, as metrics: {models}." if models else "")


@dataclass(frozen=True)
class Facts:
    """What the description of a sweep's run is made of."""

    name: str
    task: str
    objective: str
    base: Configuration
    finished: Mapping[str, Mapping[str, Any]]
    best: TrialRecord | None
    ancestors: Sequence[int]
    """The trials whose training the winner continued, the latest first."""
    retrain: str
    """The command that trains the winner again."""


def sweep_note(facts: Facts) -> str:
    """What was found, how it came about, and where to look."""
    best = facts.best
    if best is None or best.value is None:
        return f"Hyperparameter sweep of **{facts.task}**; no training has run to its end yet."
    own = link(trial_key(best.number), f"trial {best.number}")
    noises = [e for e in facts.finished.values() if e.get("noise") is not None]
    noise = f", seed noise {noises[-1]['noise']:.2g}" if noises else ""
    noise = f", {over_seeds(facts.finished)}" if over_seeds(facts.finished) else noise
    parts = [
        f"**{facts.objective} {best.value:.4g}** on validation by {own}{noise}. Look at next:\n"
        "- everything in one page: Artifacts, `report/report.html`\n"
        "- all trials: sort by `best`; filter by the tags `stage`, `state`, `reason`, `rung`, `parent`, `seed`\n"
        f"- train the winner again: `{facts.retrain}`"
    ]
    if facts.ancestors:
        chain = ", ".join(link(trial_key(number), f"trial {number}") for number in facts.ancestors)
        parts.append(f"The winner continued the training of {chain}, from checkpoint to checkpoint.")
    changed = [(n, short(facts.base[n]), short(v)) for n, v in best.configuration.items() if v != facts.base.get(n)]
    parts.append(_table([("hyperparameter", "default", "best"), *changed]) if changed else "The defaults were best.")
    rows: list[tuple[object, ...]] = []
    for key, entry in facts.finished.items():
        if entry.get("best_value") is None or entry.get("skipped") or entry["best_trial"] == entry["previous_trial"]:
            continue
        before = "" if entry["previous_value"] is None else f"{entry['previous_value']:.4g}"
        trial = link(trial_key(entry["best_trial"]), f"trial {entry['best_trial']}")
        rows.append((link(stage_key(key), key), before, f"{entry['best_value']:.4g}", trial, entry["epochs"]))
    if rows:
        parts.append("How it came about (visits that improved the best):")
        parts.append(_table([("visit", "before", "after", "by", "epochs"), *rows[-25:]]))
    return "\n\n".join(parts)


def _table(rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first row is its heading."""
    lines = [
        "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
