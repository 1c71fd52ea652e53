"""The parts of the page on what came of the sweep: importance, preflight, winner, ensemble, cost, lineage."""

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.ensemble.winner import PICTURE_FILE
from orchestrator.progress import short
from orchestrator.report.committee import committee
from orchestrator.report.html import Picture, bullets, code, details, figures, paragraph, table, text
from orchestrator.report.pictures import Pictures
from orchestrator.report.view import FINALIST, FINISHED, INFEASIBLE, REPEATS, RUNNING, STOPPED, SweepView
from orchestrator.stages.notes import finalist_rows
from orchestrator.stages.sweep import retrain_command
from orchestrator.utilisation import Use, describe, shares

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
    "mispredicted": "The validation examples on which the winner has the highest loss, with the right and the "
    "predicted target, as they enter the network.",
    "label_noise": "Examples whose label a classical model doubts most: look whether they are labelled wrongly.",
}
"""What the preflight's pictures show, by the beginning of their file's name."""
_COLOURS = {
    FINISHED: "--c1",
    STOPPED: "--muted",
    INFEASIBLE: "--c4",
    REPEATS: "--c3",
    FINALIST: "--c5",
    RUNNING: "--c2",
}


def mattered(view: SweepView, pictures: Pictures) -> str:
    """Importance, parallel coordinates, and pairs that interact."""
    return figures(pictures["importance"])


def _image(file: Path, conclude: str = "") -> Picture | None:
    """A picture file inside the page; None where it is not there or too large."""
    if not file.exists() or file.stat().st_size > _PICTURE_BYTES:
        return None
    stem = file.stem
    shows = next((told for key, told in _PICTURES.items() if stem.startswith(key)), f"{stem} of the preflight.")
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    return Picture(
        stem,
        f'<img loading="lazy" alt="{text(stem)}" src="data:image/png;base64,{data}">',
        shows,
        conclude,
        wide=True,
    )


def winner(view: SweepView, pictures: Pictures) -> str:
    """What the winner predicts on validation: dynamics, confusion, calibration, its worst mistakes."""
    known = view.predictions
    if not known:
        return ""
    own = view.best is not None and known["trial"] == view.best.number
    stale = "" if own else " A later trial is better by now; its predictions are kept when the command ends."
    body = paragraph(
        f"Trial {known['trial']} at its best epoch, {known['best_epoch']}, on the {known['examples']} examples of "
        f"validation.{stale}"
    )
    body += figures(pictures["winner"])
    worst = known.get("worst")
    if worst:
        body += "<h3>Mispredictions with the highest loss</h3>"
        image = _image(view.folder / PICTURE_FILE, _read_worst(worst))
        body += figures([image]) if image is not None else ""
        rows: list[Sequence[object]] = [["example of validation", "target", "predicted", "loss"]]
        rows += [[row["example"], row["target"], row["predicted"], f"{row['loss']:.4g}"] for row in worst]
        body += details(f"The {len(worst)} examples with the highest loss", table(rows))
    return body


def _read_worst(worst: Sequence[Mapping[str, Any]]) -> str:
    wrong = sum(row["target"] != row["predicted"] for row in worst)
    return (
        f"{wrong} of these {len(worst)} are predicted wrongly, the others right but unsure. If you would "
        "have labelled "
        "one otherwise yourself, look at its label; if several look alike, the training data may lack such examples."
    )


def ensemble(view: SweepView, pictures: Pictures) -> str:
    """Ensemble against the best single model."""
    body = ""
    for entry in view.finished.values():
        if "weights" in entry:
            body += committee(view, entry)
        elif "mean_gain" in entry:
            body += "<h3>A student of the ensemble</h3>" + code(entry["text"])
    return body + figures(pictures["ensemble"]) if body else ""


def finalists(view: SweepView, pictures: Pictures) -> str:
    """Every finalist with every seed, beside its value in the search, and how sure the winner is."""
    body = ""
    for entry in view.finished.values():
        if "finalists" not in entry:
            continue
        won = entry["winner"]
        body += paragraph(
            f"The best {len(entry['finalists'])} configurations of the search, trained again for {entry['budget']} "
            f"epochs and more while they improved, with the same {len(entry['seeds'])} fresh seeds. "
            + (
                f"The configuration of trial {won} has the best mean; trial {entry['best_trial']}, its best fresh "
                "seed, is the winner of the sweep."
                if won is not None
                else "None was through: the search's best stays."
            )
        )
        body += table(finalist_rows(entry))
        body += "".join(paragraph(f"{line[0].upper()}{line[1:]}.") for line in entry["remarks"])
    return body


def cost(view: SweepView, pictures: Pictures) -> str:
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
    runner = view.config.runner
    devices = [("CPU hours", runner.cpus_per_trial), ("GPU hours", runner.gpus_per_trial)]
    used = [(name, share) for name, share in devices if share]
    heads = ["what became of it", "trainings", "epochs", "share of epochs", "seconds", *(name for name, _ in used)]
    rows: list[Sequence[object]] = [heads]
    for kind, trainings, run, took in [
        *((k, count[k], epochs[k], seconds[k]) for k in kinds),
        ("in all", len(view.trainings), sum(epochs.values()), sum(seconds.values())),
    ]:
        hours = [f"{took * share / 3600:.3g}" for _, share in used]
        rows.append([kind, trainings, run, f"{run / total:.0%}", f"{took:.0f}", *hours])
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
    used_up = _workers(view)
    return f'<div class="bar">{bar}</div><p>{keys}</p>{table(rows)}{paragraph(told)}{used_up}{audited}'


def _workers(view: SweepView) -> str:
    """What the workers' time went into: each command in a line, each worker in a row; empty where it is unknown."""
    if not view.usage:
        return ""
    lines = [f"{command['began']}: {describe(command['workers'], command['seconds'])}" for command in view.usage]
    rows: list[Sequence[object]] = [["began", "worker", "seconds", *(str(use).replace("_", "-") for use in Use)]]
    for command in view.usage:
        for number, spent in enumerate(command["workers"]):
            rows.append([command["began"], number, f"{sum(spent.values()):.0f}",
                         *(f"{share:.1%}" for share in shares(spent).values())])  # fmt: skip
    return "<h3>What the workers did</h3>" + bullets(lines) + details("Each worker", table(rows))


def preflight(view: SweepView, pictures: Pictures) -> str:
    """Findings, classical models and pictures of the checks."""
    found = [entry for entry in view.finished.values() if "findings" in entry]
    if not found:
        return ""
    entry = found[-1]
    body = code(entry["text"])
    if not entry["findings"]:
        body += paragraph("Nothing to complain of: data, training code and baselines passed every check.")
    files = [view.folder / name for name in entry["files"]]
    return body + figures([shown for file in files if file.suffix == ".png" and (shown := _image(file))])


def lineage(view: SweepView, pictures: Pictures) -> str:
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


def reproduce(view: SweepView, pictures: Pictures) -> str:
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
