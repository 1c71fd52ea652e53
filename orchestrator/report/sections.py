"""The parts of the page, each a function from the sweep to HTML; empty where there is nothing to say."""

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.progress import duration, short
from orchestrator.report.answers import gain, next_steps, question, sureness
from orchestrator.report.html import bullets, code, details, figure, paragraph, table, text
from orchestrator.report.stage_charts import curves, rate_map, response
from orchestrator.report.sweep_charts import best_so_far, importance
from orchestrator.report.view import FINISHED, INFEASIBLE, REPEATS, RUNNING, STOPPED, SweepView
from orchestrator.stages.sweep import retrain_command
from orchestrator.stages.visits import stage_of

_RESPONSES = 4
"""Response curves of one stage: those of the most important hyperparameters it asked about."""
_TRAININGS_A_PICTURE = 5
"""A stage with fewer trainings for each shows fewer response curves."""
_PICTURE_BYTES = 1_500_000
"""Pictures of the preflight beyond this size stay in the sweep's folder."""
_PICTURES = {
    "gallery": "Examples exactly as they enter the network, with their labels: look for wrong labels, cut or "
    "distorted inputs, and anything you could not tell apart yourself.",
    "distributions": "How inputs and targets are distributed in training and validation: the two should look alike.",
    "layers": "Spread of values and gradients through the layers of the untrained network: neither "
    "should die out nor "
    "blow up from layer to layer.",
    "overfit": "The loss on a few examples that the network must be able to learn by heart: it should "
    "fall to about 0.",
    "label_noise": "Examples whose label a classical model doubts most: look whether they are labelled wrongly.",
}
"""What the preflight's pictures show, by the beginning of their file's name."""
_HOW_TO_READ = paragraph(
    "How to read the response curves: every dot is a training at its best within the stated number of "
    "epochs, so that "
    "like is compared with like; the line joins the best at each value, whatever the other hyperparameters were. A "
    "valley in the line is a preference, a level line means that the value does not matter. Dotted "
    "upright lines: ends "
    "of the searched range. Green band: one seed noise around the sweep's best. Red crosses at the top: infeasible. "
    "Hollow triangles: beyond the edge of the picture. Passes of one stage (lr, lr@2, ...) are shown together."
)
_COLOURS = {FINISHED: "--c1", STOPPED: "--muted", INFEASIBLE: "--c4", REPEATS: "--c3", RUNNING: "--c2"}


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


def answer(view: SweepView) -> str:
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
    return f'{told}<div class="figures"><div>{body}</div>{best_so_far(view)}</div>'


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


def path(view: SweepView) -> str:
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
    elif "weights" in entries[-1]:
        told = f"{len(entries[-1]['weights'])} members"
    else:
        told = f"{epochs} epochs" + (f", {len(entries)} visits" if len(entries) > 1 else "")
    kind, mark = (' class="gain"', f"<em>{text(won)}</em> ") if won else ("", "")
    return f"<li{kind}><b>{text(name)}</b>{mark}{text(told)}</li>"


def stages(view: SweepView) -> str:
    """For each search stage: verdicts, pictures and what they say."""
    told = "".join(_stage(view, name) for name in view.stages if name in view.by_stage)
    return _HOW_TO_READ + told if told else ""


def _stage(view: SweepView, name: str) -> str:
    settings = view.config.stages.get(name)
    entries = {key: entry for key, entry in view.finished.items() if stage_of(key) == name}
    asked = sorted(view.asked(name), key=lambda n: -view.importance.get(n, 0.0))
    most = max(1, min(_RESPONSES, len(view.by_stage[name]) // _TRAININGS_A_PICTURE))
    pictures = [picture for n in asked[:most] if (picture := response(view, name, n))]
    pictures += [picture for picture in (rate_map(view, name), curves(view, name)) if picture]
    more = f" Drawn: the most important of its {len(asked)} hyperparameters." if len(asked) > most else ""
    counts = Counter(training.outcome for training in view.by_stage[name])
    listed = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    body = f'<h3 id="stage-{text(name)}">{text(name)}: {text(settings.asks if settings else "")}</h3>'
    body += paragraph(f"{len(view.by_stage[name])} trainings: {listed}.{more}")
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
    return body + (f'<div class="figures">{"".join(pictures)}</div>' if pictures else "")


def mattered(view: SweepView) -> str:
    """Importance."""
    picture = importance(view)
    return f'<div class="figures">{picture}</div>' if picture else ""


def preflight(view: SweepView) -> str:
    """Findings, classical models and pictures of the checks."""
    found = [entry for entry in view.finished.values() if "findings" in entry]
    if not found:
        return ""
    entry = found[-1]
    body = code(entry["text"])
    if not entry["findings"]:
        body += paragraph("Nothing to complain of: data, training code and baselines passed every check.")
    pictures = ""
    for name in entry["files"]:
        file = view.folder / name
        if file.suffix == ".png" and file.exists() and file.stat().st_size <= _PICTURE_BYTES:
            stem = file.stem
            shows = next(
                (told for key, told in _PICTURES.items() if stem.startswith(key)), f"{stem} of the preflight."
            )
            data = base64.b64encode(file.read_bytes()).decode("ascii")
            image = f'<img loading="lazy" alt="{text(stem)}" src="data:image/png;base64,{data}">'
            pictures += figure(image, shows, "")
    return body + (f'<div class="figures">{pictures}</div>' if pictures else "")


def ensemble(view: SweepView) -> str:
    """Ensemble against the best single model."""
    body = ""
    for entry in view.finished.values():
        if "weights" in entry:
            scores = list(entry["validation"]["single"])
            rows = [["", *(f"{split} {name}" for split in ("validation", "test") for name in scores)]]
            for who, label in (("single", f"best single (trial {entry['single']})"), ("ensemble", "ensemble")):
                rows.append(
                    [label, *(f"{entry[s][who][name]:.4g}" for s in ("validation", "test") for name in scores)]
                )
            members = ", ".join(f"trial {number} {share:.0%}" for number, share in entry["weights"].items())
            body += table(rows) + paragraph(f"Members: {members}.") + paragraph(_worth(view, entry))
    return body


def _worth(view: SweepView, entry: Mapping[str, Any]) -> str:
    better = {
        split: view.direction.better(entry[split]["ensemble"][view.objective], entry[split]["single"][view.objective])
        for split in ("validation", "test")
    }
    count = len(entry["weights"])
    told = {
        (True, True): "The ensemble is better on validation and on test",
        (True, False): "The ensemble is better on validation but not on test: do not count on it",
        (False, True): "The ensemble is better on test, but was not on validation: the gain is uncertain",
        (False, False): "The ensemble is no better than the best single model: use that one",
    }[better["validation"], better["test"]]
    return f"{told}. It costs {count} predictions instead of one. The test split was read once, at {view.test_read}."


def cost(view: SweepView) -> str:
    """Epochs and seconds by what became of the training, and the audit of early stopping."""
    if not view.records:
        return ""
    epochs: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    count = Counter(training.outcome for training in view.trainings)
    for training in view.trainings:
        epochs[training.outcome] += sum(trial.epochs_paid for trial in training.trials)
        seconds[training.outcome] += sum(trial.seconds for trial in training.trials)  # type: ignore[assignment]
    total = sum(epochs.values()) or 1
    kinds = [kind for kind in _COLOURS if count[kind]]
    bar = "".join(
        f'<span style="width:{epochs[kind] / total:.2%};background:var({_COLOURS[kind]})"></span>' for kind in kinds
    )
    rows: list[Sequence[object]] = [["what became of it", "trainings", "epochs", "share of epochs", "seconds"]]
    rows += [[k, count[k], epochs[k], f"{epochs[k] / total:.0%}", f"{seconds[k]:.0f}"] for k in kinds]
    whole = len(view.trainings) * view.epochs
    told = (
        f"In sum {total} epochs; training every configuration to its end would have taken {whole}. Epochs of failed "
        "trials found out where not to go; a large share of them asks for a narrower range."
    )
    keys = "".join(f'<span class="key" style="background:var({_COLOURS[k]})"></span>{text(k)} ' for k in kinds)
    audits = [
        f"{key}: {audit['trials']} trials due to be stopped ran {audit['epochs']} epochs more; the best of "
        f"them reached "
        f"{audit['best']:.4g}; stopping would have lost {audit['lost']:.2g}."
        for key, entry in view.finished.items()
        if (audit := entry.get("audit"))
    ]
    audited = "<h3>Audit of early stopping</h3>" + bullets(audits) if audits else ""
    return f'<div class="bar">{bar}</div><p>{keys}</p>{table(rows)}{paragraph(told)}{audited}'


def lineage(view: SweepView) -> str:
    """Every best so far that stages went on from, beside the defaults, and the whole of the winner's "
    "configuration."""
    best = view.best
    if best is None:
        return ""
    numbers = [entry["best_trial"] for entry in view.finished.values() if entry.get("best_trial") is not None]
    numbers = list(dict.fromkeys([*numbers, best.number]))
    steps = [view.records[number] for number in numbers]
    names = [n for n in view.space.hyperparameters if any(s.configuration[n] != view.base[n] for s in steps)]
    rows = [["", "defaults", *(f"trial {s.number}" for s in steps)]]
    rows.append(["stage", "", *(s.stage for s in steps)])
    rows.append([view.objective, "", *(f"{s.value:.4g}" if s.value is not None else "" for s in steps)])
    rows += [[name, short(view.base[name]), *(short(s.configuration[name]) for s in steps)] for name in names]
    chain = [best]
    while chain[0].parent is not None:
        chain.insert(0, view.records[chain[0].parent])
    told = " → ".join(f"trial {t.number} ({t.stage}, to epoch {t.epochs_run})" for t in chain)
    body = paragraph("Each column is a best so far from which the stages after it started; the last is the winner.")
    body += table(rows)
    body += paragraph(f"The winner was stopped and continued: {told}." if len(chain) > 1 else
                      f"The winner was trained in one go: {told}.")  # fmt: skip
    whole = [["hyperparameter", "value"], *([name, repr(value)] for name, value in best.configuration.items())]
    return body + details(f"Every value of trial {best.number} (training seed {best.seed})", table(whole))


def reproduce(view: SweepView) -> str:
    """The commands that were given, and the one that trains the winner again."""
    body = ""
    if view.best is not None:
        body += paragraph(
            "The winner's configuration, seed and budget are in one file; this trains exactly it again:"
        )
        body += code(retrain_command(view.folder))
    given = [
        file.read_text(encoding="utf-8").partition("\n")[0]
        for file in sorted((view.folder / "commands").glob("*.yaml"))
    ]
    if given:
        body += paragraph(
            "The commands of this sweep, oldest first. Given again with another sweep.name they repeat it: trial by "
            "trial with one worker or deterministic=true, else as far as timing allows."
        )
        body += code("\n".join(line.removeprefix("# ") for line in given[-20:]))
    return body
