"""The parts of the page, each a function from the sweep to HTML; empty where there is nothing to say."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.progress import duration, short
from orchestrator.report.answers import gain, in_a_minute, next_steps, question, sureness
from orchestrator.report.html import bullets, code, details, figure, figures, paragraph, table, text
from orchestrator.report.pictures import Pictures, responses_of
from orchestrator.report.view import INFEASIBLE, SweepView
from orchestrator.stages.notes import over_seeds
from orchestrator.stages.sweep import retrain_command
from orchestrator.stages.visits import stage_of

_HOW_TO_READ = paragraph(
    "How to read the response curves: every dot is a training at its best within the stated number of "
    "epochs, so that "
    "like is compared with like; the line joins the best at each value, whatever the other hyperparameters were. A "
    "valley in the line is a preference, a level line means that the value does not matter. Dotted "
    "upright lines: ends "
    "of the searched range. Green band: one seed noise around the "
    "sweep's best. Red crosses at the top: infeasible; red "
    "ground: most trainings there were. "
    "Hollow triangles: beyond the edge of the picture. Passes of one stage (lr, lr@2, ...) are shown together."
)


def head(view: SweepView) -> str:
    """Name, question, and the four answers that a reader wants first."""
    tiles = [("What was asked", "", question(view)), *_found(view)]
    cells = "".join(
        f'<div class="tile"><h3>{text(title)}</h3>'
        + (f'<p class="big">{text(big)}</p>' if big else "")
        + f"<p>{text(told)}</p></div>"
        for title, big, told in tiles
    )
    command = code(retrain_command(view.folder)) if view.best else ""
    return (
        f'<p class="kicker">hyperparameter search report</p><h1>{text(view.name)}</h1>'
        f'<div class="tiles">{cells}</div>'
        + (f"<p><b>Train the winner again, exactly:</b></p>{command}" if command else "")
    )


def _found(view: SweepView) -> Sequence[tuple[str, str, str]]:
    best = view.best
    spent = sum(record.epochs_paid for record in view.records)
    work = duration(sum(record.seconds for record in view.records))
    cost = f"{len(view.trainings)} trainings, {work} of work in all trials together"
    if best is None or best.value is None:
        return [
            ("What was found", "nothing yet", "No training has run to its end."),
            ("What it cost", f"{spent} epochs", cost),
        ]
    changed = [name for name in view.space.hyperparameters if best.configuration[name] != view.base[name]]
    named = [name for name in ("optimizer.lr", *view.importance, *changed) if name in changed]
    first = list(dict.fromkeys(named))[:4]
    told = ", ".join(f"{name.rpartition('.')[2]} {short(best.configuration[name])}" for name in first)
    more = f" and {len(changed) - len(first)} more changes" if len(changed) > len(first) else ""
    seeds = over_seeds(view.finished)
    more += f"; its configuration has {seeds}" if seeds else ""
    sure, why = sureness(view)
    return [
        (
            "What was found",
            f"{view.objective} {best.value:.4g}",
            f"trial {best.number}: {told or 'the defaults'}{more}",
        ),
        ("How sure", sure, why),
        ("What it cost", f"{spent} epochs", cost),
    ]


def answer(view: SweepView, pictures: Pictures) -> str:
    """The winner against the defaults and the classical models, what to do next, and best so far."""
    body = ""
    best = view.best
    if best is None:
        body += paragraph(
            "Nothing was trained to its end, so there is no winner. See below what became of the trials."
        )
    else:
        names = [name for name in view.space.hyperparameters if best.configuration[name] != view.base[name]]
        rows = [["hyperparameter", "default", "best"]]
        rows += [[name, short(view.base[name]), short(best.configuration[name])] for name in names]
        body += table(rows) if names else paragraph("The task's defaults were best.")
        body += _baselines(view)
    steps = next_steps(view)
    told = "<h3>What to look at next</h3>" + bullets(steps) if steps else ""
    drawn = "".join(map(figure, pictures["answer"]))
    minute = "".join(f"<dt>{text(asked)}</dt><dd>{text(said)}</dd>" for asked, said in in_a_minute(view))
    listed = f'<h3>In a minute</h3><dl class="minute">{minute}</dl>' if minute else ""
    return f'{listed}{told}<div class="figures"><div>{body}</div>{drawn}</div>'


def _baselines(view: SweepView) -> str:
    models: dict[str, Mapping[str, float]] = {}
    for entry in view.finished.values():
        models |= entry.get("baselines") or {}
    if not models or view.best is None:
        return ""
    value = view.best.value
    assert value is not None
    names = list(dict.fromkeys(name for scores in models.values() for name in scores))
    rows = [["on validation", *names]]
    rows += [[who, *(f"{scores[n]:.4g}" if n in scores else "" for n in names)] for who, scores in models.items()]
    scores = {view.objective: value, **view.scores(view.best.number)}
    own = [f"{scores[name]:.4g}" if name in scores else "" for name in names]
    return table([*rows, [f"tuned network (trial {view.best.number})", *own]])


def path(view: SweepView, pictures: Pictures) -> str:
    """Stages as a chain, then every visit as a row."""
    if not view.finished:
        return ""
    visits: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for key, entry in view.finished.items():
        visits[stage_of(key)].append(entry)
    chain = "".join(_link(view, name, visits[name]) for name in view.stages if name in visits)
    rows: list[Sequence[object]] = [
        ["visit", "trainings begun or continued", "epochs", "seconds", "best after", "gain"]
    ]
    for key, entry in view.finished.items():
        if "best_value" in entry and not entry.get("skipped"):
            value = entry["best_value"]
            rows.append([key, entry["trials"], entry["epochs"], f"{entry['seconds']:.0f}",
                         "-" if value is None else f"{value:.4g}", gain(view, [entry]) or "-"])  # fmt: skip
    told = paragraph(
        "Each box is one stage with all its passes: what it gained in sum, and what it cost. Green: it "
        "improved the best."
    )
    listed = details("Every visit in numbers", table(rows)) if len(rows) > 1 else ""
    return f'{told}<ol class="path">{chain}</ol>{listed}'


def _link(view: SweepView, name: str, entries: Sequence[Mapping[str, Any]]) -> str:
    won = gain(view, entries)
    epochs = sum(entry.get("epochs", 0) for entry in entries)
    if all(entry.get("skipped") for entry in entries):
        told = "skipped"
    elif "worst" in entries[-1]:
        told = entries[-1]["worst"]
    elif "finalists" in entries[-1]:
        told = f"{len(entries[-1]['finalists'])} finalists, {epochs} epochs"
    elif "weights" in entries[-1]:
        told = f"{len(entries[-1]['weights'])} members"
    elif "mean_gain" in entries[-1]:
        told = f"a student, {len(entries[-1]['pairs'])} seeds"
    else:
        told = f"{epochs} epochs" + (f", {len(entries)} visits" if len(entries) > 1 else "")
    kind, mark = (' class="gain"', f"<em>{text(won)}</em> ") if won else ("", "")
    return f"<li{kind}><b>{text(name)}</b>{mark}{text(told)}</li>"


def stages(view: SweepView, pictures: Pictures) -> str:
    """For each search stage: verdicts, pictures and what they say."""
    told = "".join(_stage(view, name, pictures) for name in view.stages if name in view.by_stage)
    return _HOW_TO_READ + told if told else ""


def _stage(view: SweepView, name: str, pictures: Pictures) -> str:
    settings = view.config.stages.get(name)
    entries = {key: entry for key, entry in view.finished.items() if stage_of(key) == name}
    asked, drawn = view.asked(name), responses_of(view, name)
    more = f" Drawn: the most important of its {len(asked)} hyperparameters." if len(asked) > len(drawn) else ""
    counts = Counter(training.outcome for training in view.by_stage[name])
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    body = f'<h3 id="stage-{text(name)}">{text(name)}: {text(settings.asks if settings else "")}</h3>'
    count = len(view.by_stage[name])
    body += paragraph(f"{count} training{'s' if count != 1 else ''}: {listed}.{more}")
    if entries:
        last, *earlier = [entry["text"] for entry in reversed(entries.values())]
        body += code(last)
        body += (
            details(f"Verdicts of {len(earlier)} earlier visits", code("\n".join(earlier[::-1]))) if earlier else ""
        )
    else:
        body += paragraph("Not finished: no verdict yet.")
    reasons = Counter(str(t.last.reason) for t in view.by_stage[name] if t.outcome == INFEASIBLE)
    for reason, count in reasons.items():
        example = next(
            t.last for t in view.by_stage[name] if str(t.last.reason) == reason and t.outcome == INFEASIBLE
        )
        first = next(iter(example.detail.splitlines()), "")
        body += paragraph(f"Infeasible: {count} x {reason}, for example trial {example.number}: {first}")
    return body + figures(pictures[f"stage-{name}"])
