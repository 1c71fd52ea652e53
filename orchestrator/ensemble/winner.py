"""What the winner predicts on validation, kept for the report: where it errs, how sure it is, how it got there.

At most one forward pass over the validation split with the winner's own checkpoint, stored as the ensemble stage
does; nothing is trained.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from orchestrator.ensemble.calibrate import Probabilities
from orchestrator.ensemble.candidates import Predictor, of_trial
from orchestrator.ensemble.predictions import data_digest
from orchestrator.files import replacing, write_json
from orchestrator.preflight.gallery_draw import save, sheet
from orchestrator.stages.sweep import Sweep
from orchestrator.tasks.loading import load_once
from orchestrator.tracking.base import SWEEP, DatasetEntry
from orchestrator.training.data import in_sequence, size
from orchestrator.training.watch import class_dimension, example_errors
from orchestrator.types import Value

PREDICTIONS_FILE = "predictions.json"
PICTURE_FILE = "mispredicted.png"
WEIGHTS_FILE = "winner.pt"
WORST = 20
"""Examples with the highest loss that are shown (our choice: two rows of a picture)."""
MOST_CLASSES = 30
"""Classes beyond which a confusion matrix is no longer readable (our choice)."""
PAIRS = 500
"""Pairs of target and predicted value that are kept for a picture (our choice)."""


def keep_predictions(sweep: Sweep) -> None:
    """Write ``predictions.json``, ``mispredicted.png`` and ``winner.pt`` of the winner, if it has a checkpoint.

    Nothing is done where they are of the same trial already.
    """
    best = sweep.best
    if best is None or not sweep.checkpoints.has(best.number):
        return
    path = sweep.folder / PREDICTIONS_FILE
    if path.exists() and json.loads(path.read_text(encoding="utf-8"))["trial"] == best.number:
        return
    state = sweep.checkpoints.load(best.number)
    predictor = Predictor(sweep, "validation")
    predictions = predictor.predictions(of_trial(sweep, best))
    targets = predictor.store.targets()
    with replacing(sweep.folder / WEIGHTS_FILE) as aside:
        torch.save(state["best"]["model"], aside)
    classes = class_dimension(predictions, targets)
    found: dict[str, Any] = {"trial": best.number, "best_epoch": state["best"]["epoch"], "examples": len(targets)}
    if classes is not None and targets.dim() == 1:
        how = Probabilities(targets, "classes", classes)
        found |= {"calibration": how.bins(predictions), "confusion": _confusion(predictions, targets)}
    elif predictions.shape == targets.shape and targets.numel() == len(targets):
        chosen = torch.linspace(0, len(targets) - 1, min(len(targets), PAIRS)).long()
        found["pairs"] = [targets[chosen].flatten().tolist(), predictions[chosen].flatten().tolist()]
    errors = example_errors(predictions, targets, classes)
    if errors is not None:
        found["worst"] = _worst(sweep, predictions, targets, errors, classes)
    found["followed"] = _plain(state["watch"]["followed"])
    write_json(path, found)


def _confusion(probabilities: Tensor, targets: Tensor) -> list[list[int]]:
    """Examples by right class (rows) and likeliest class (columns); empty for more than ``MOST_CLASSES``."""
    classes = probabilities.shape[1]
    if classes > MOST_CLASSES:
        return []
    pairs = targets * classes + probabilities.argmax(dim=1)
    counts: list[list[int]] = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).tolist()
    return counts


def _worst(
    sweep: Sweep, predictions: Tensor, targets: Tensor, errors: Tensor, classes: int | None
) -> list[dict[str, Any]]:
    """The examples with the highest loss, the highest first; their picture goes into the sweep's folder."""
    order = errors.argsort(descending=True)[:WORST].tolist()
    said = predictions.argmax(dim=classes) if classes is not None else predictions
    rows = [
        {"example": n, "target": _short(targets[n]), "predicted": _short(said[n]), "loss": float(errors[n])}
        for n in order
    ]
    task, splits = load_once(sweep.config.task)
    inputs: dict[int, Tensor] = {}
    wanted, first = set(order), 0
    for some, _ in in_sequence(splits.validation, sweep.config.trainer.eval_batch_size, 0):
        inputs |= {n: some[n - first] for n in wanted if first <= n < first + len(some)}
        first += len(some)
    shown = task.decode(torch.stack([inputs[n] for n in order]).cpu())
    examples = list(shown.double().numpy()) if isinstance(shown, Tensor) else list(shown)
    captions = [_caption(row["target"], row["predicted"]) for row in rows]
    half = -(-len(examples) // 2)
    groups = [
        ("worst", examples[:half], captions[:half]),
        *([("then", examples[half:], captions[half:])] if examples[half:] else []),
    ]
    save(sheet(groups, "validation examples with the highest loss: what they are, what the winner takes them for"),
         sweep.folder / PICTURE_FILE)  # fmt: skip
    return rows


def _caption(target: str, predicted: str) -> str:
    return f"{target}, unsure" if target == predicted else f"{target}, not {predicted}"


def _short(value: Tensor) -> str:
    return " ".join(f"{number:.3g}" for number in value.flatten()[:4].tolist())


def _plain(followed: Mapping[str, Tensor | None]) -> dict[str, Any]:
    """As lists, probabilities to four digits."""
    return {
        name: None
        if value is None
        else [[round(x, 4) for x in row] for row in value.tolist()]
        if value.dim() == 2
        else value.tolist()
        for name, value in followed.items()
    }


def track_data(sweep: Sweep) -> None:
    """Tell the tracker which data the sweep used."""
    _, splits = load_once(sweep.config.task)
    source = sweep.config.task.target
    for context, split in (("training", splits.train), ("validation", splits.validation)):
        first = split[0]
        shape = list(first[0].shape) if isinstance(first[0], Tensor) else []
        profile: dict[str, Value] = {"examples": size(split), "input shape": str(shape)}
        name = f"{sweep.config.task.name} {context}"
        sweep.tracker.dataset(SWEEP, DatasetEntry(name, data_digest(split), source, context, profile))


def files(folder: Path) -> list[Path]:
    """Those of :func:`keep_predictions` that are there."""
    return [path for name in (PREDICTIONS_FILE, PICTURE_FILE) if (path := folder / name).exists()]
