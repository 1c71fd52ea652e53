"""Distillation: one network taught by the ensemble, beside the same network taught by the targets alone.

Hinton et al. 2015, "Distilling the knowledge in a neural network" (arXiv 1503.02531).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from orchestrator.config.hyperparameters import from_flat
from orchestrator.ensemble.record import digest_of, load_ensemble, save_weights
from orchestrator.errors import ConfigError, StorageError
from orchestrator.files import replacing, write_json
from orchestrator.importing import one_line
from orchestrator.progress import table
from orchestrator.stages.sweep import Sweep
from orchestrator.tasks.base import Task
from orchestrator.tasks.loading import load_once
from orchestrator.training.data import in_sequence, size
from orchestrator.training.loop import pick_device, predict
from orchestrator.types import Configuration, Direction, Value

STUDENT_FILE = "student.json"
TEACHER_FILE = "teacher.npy"


@dataclass(frozen=True)
class DistillResult:
    """Student and label-only network side by side."""

    configuration: Configuration
    """The student's."""
    pairs: Sequence[tuple[float, float]]
    """Objective on validation of the label-only network and of the student, seed by seed."""
    mean_gain: float
    """Of the student over the label-only network, positive if it is better: mean over the seeds."""
    gain_error: float
    """Standard error of that mean."""
    recovered: float | None
    """The mean gain as a share of the ensemble's gain over the label-only network; None: the ensemble has none."""
    validation: Mapping[str, Mapping[str, float]]
    """``label_only``, ``student`` (means over the seeds) and ``ensemble`` (cross-fitted) to the objective."""
    test: Mapping[str, Mapping[str, float]]
    """``label_only`` and ``student`` (means over the seeds) and ``shipped`` (the student that is kept) to scores;
    empty: the test split was not read."""
    changed: Mapping[str, Value]
    """Arguments of the student's model that are not the winner's."""


def check_can_distill(sweep: Sweep) -> None:
    """Refuse a task that says no distance from a teacher, or whose augmentation changes targets.

    Raises:
        ConfigError: with what to do.
    """
    task, splits = load_once(sweep.config.task)
    if type(task).distillation is Task.distillation:
        raise ConfigError(
            f"stage=distill: {type(task).__name__} has no distillation method: how far is it from a teacher?"
        )
    best = sweep.best
    strength = float(best.configuration["data.augmentation"]) if best is not None else 0.0
    if strength:
        inputs, targets = next(in_sequence(splits.train, 64, 0))
        _, changed = task.augment(inputs, targets, strength)
        if changed.shape != targets.shape or not torch.equal(changed, targets):
            raise ConfigError(
                f"stage=distill: {type(task).__name__}.augment changes targets: the teacher's stored "
                "predictions cannot follow"
            )


@torch.inference_mode()
def write_teacher(sweep: Sweep, folder: Path) -> Path:
    """The ensemble's predictions of the training split as a float32 array file, written batch by batch, once."""
    ensemble = load_ensemble(sweep.folder)
    path = folder / TEACHER_FILE
    mark = path.with_suffix(".json")
    known = [[member.name, member.digest, member.share] for member in ensemble.members] + [ensemble.temperature]
    if path.exists() and mark.exists() and json.loads(mark.read_text(encoding="utf-8")) == known:
        return path
    task, splits = load_once(sweep.config.task)
    torch.set_num_threads(sweep.config.runner.cpus_per_trial)
    device = pick_device(sweep.config.trainer)
    networks = [member.network(task, sweep.folder).to(device) for member in ensemble.members]
    total, done = size(splits.train), 0
    with replacing(path) as aside:
        stored: Any = None
        for inputs, _ in in_sequence(splits.train, sweep.config.trainer.eval_batch_size, 0):
            parts = [task.predictions(network(inputs.to(device)).float()).cpu() for network in networks]
            combined = ensemble.combine(parts)
            if stored is None:
                stored = open_memmap(aside, "w+", "float32", (total, *combined.shape[1:]))
            stored[done : done + len(combined)] = combined.numpy()
            done += len(combined)
        stored.flush()
    write_json(mark, known)
    return path


@dataclass(frozen=True)
class Training:
    """The end of one of the compared trainings."""

    value: float
    """Best objective on validation."""
    state: Mapping[str, Tensor]
    """The weights there."""


def compare(
    sweep: Sweep,
    configuration: Configuration,
    label_only: Sequence[Training],
    students: Sequence[Training],
    *,
    reading: bool,
) -> DistillResult:
    """Compare the trainings seed by seed, and keep the best student (``student.json`` and its weights).

    Args:
        reading: whether the ensemble stage reads the test split just now, for both. If it has read it before, it is
            read here with the user's consent only (``ensemble.read_test_again``).
    """
    direction, objective = sweep.direction, sweep.task.objective
    pairs = [(a.value, b.value) for a, b in zip(label_only, students, strict=True)]
    gains = [direction.cost(a) - direction.cost(b) for a, b in pairs]
    means = [mean(pair[side] for pair in pairs) for side in (0, 1)]
    validation = {"label_only": {objective: means[0]}, "student": {objective: means[1]}}
    ensembles = [result["validation"]["ensemble"] for result in sweep.ledger.finished.values()
                 if "ensemble" in result.get("validation", {}) and "mean_gain" not in result]  # fmt: skip
    recovered = None
    if ensembles:
        validation["ensemble"] = {objective: ensembles[-1][objective]}
        recovered = _recovered(direction, means, ensembles[-1][objective])
    kept = min(range(len(students)), key=lambda index: direction.cost(students[index].value))
    _keep(sweep, configuration, kept, students[kept])
    own, best = from_flat(configuration).model, sweep.best
    before = {} if best is None else from_flat(best.configuration).model
    compared = {"label_only": label_only, "student": students, "shipped": [students[kept]]}
    error = stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else math.nan
    return DistillResult(
        configuration=configuration,
        pairs=pairs,
        mean_gain=mean(gains),
        gain_error=error,
        recovered=recovered,
        validation=validation,
        test=_tested(sweep, own, compared, reading=reading),
        changed={name: value for name, value in own.items() if value != before.get(name)},
    )


def _tested(
    sweep: Sweep, model: Mapping[str, Value], trainings: Mapping[str, Sequence[Training]], *, reading: bool
) -> Mapping[str, Mapping[str, float]]:
    """Scores on test, means over the seeds; empty where it may not be read again."""
    if not reading:
        if not sweep.config.ensemble.read_test_again:
            return {}
        # Noted before it happens: a kill in between must not hide a reading.
        sweep.ledger.note_test_read()
    task, splits = load_once(sweep.config.task)
    config = sweep.config.trainer

    def scores(training: Training) -> Mapping[str, float]:
        network = task.model(**model)
        network.load_state_dict(dict(training.state))
        return task.score(*predict(task, network.to(pick_device(config)), splits.test, config))

    found = {who: [scores(one) for one in some] for who, some in trainings.items()}
    return {who: {name: mean(one[name] for one in some) for name in some[0]} for who, some in found.items()}


def _recovered(direction: Direction, means: Sequence[float], ensemble: float) -> float | None:
    label, student, whole = (direction.cost(value) for value in (*means, ensemble))
    return (label - student) / (label - whole) if label > whole else None


def _keep(sweep: Sweep, configuration: Configuration, seed: int, student: Training) -> None:
    record = {
        "seed": seed,
        "value": student.value,
        "model": dict(from_flat(configuration).model),
        "configuration": dict(configuration),
        "file": save_weights(sweep.folder, "student", student.state),
        "digest": digest_of(student.state),
    }
    write_json(sweep.folder / STUDENT_FILE, record)


def load_student(folder: Path) -> Mapping[str, Any]:
    """The student of the sweep in ``folder``: seed, value, model, configuration, file, digest.

    Raises:
        StorageError: the file is damaged.
    """
    path = folder / STUDENT_FILE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {key: found[key] for key in ("seed", "value", "model", "configuration", "file", "digest")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(
            f"{path}: cannot be read ({one_line(error)}); remove it and run stage=distill again"
        ) from None


_WHO = (("label_only", "targets alone"), ("student", "taught by the ensemble"))


def describe(sweep: Sweep, result: DistillResult) -> str:
    """The comparison as a table and a sentence."""
    objective = sweep.task.objective
    rows = [["", *(f"seed {index}" for index in range(len(result.pairs))), "mean"]]
    for side, (who, label) in enumerate(_WHO):
        values = [f"{pair[side]:.4g}" for pair in result.pairs]
        rows.append([f"{objective}, {label}", *values, f"{result.validation[who][objective]:.4g}"])
    if "ensemble" in result.validation:
        blanks = ["" for _ in result.pairs]
        rows.append([f"{objective}, the ensemble", *blanks, f"{result.validation['ensemble'][objective]:.4g}"])
    tested = "".join(
        f"\n  on test, mean over the seeds: {label} {result.test[who][objective]:.4g}"
        for who, label in _WHO
        if result.test
    )
    share = "" if result.recovered is None else f", {result.recovered:.0%} of the ensemble's gain"
    settings = ", ".join(
        f"{name} {value:.3g}"
        for name, value in result.configuration.items()
        if name.startswith("distill.") and isinstance(value, float)
    )
    gain = f"the teacher brings {result.mean_gain:.3g} (standard error {result.gain_error:.2g})"
    note = "best epoch on validation, the same seeds with and without; the student's settings were tuned there"
    other = ", ".join(f"{name} {value}" for name, value in result.changed.items())
    network = f"\n  another network than the winner's: {other}" if other else ""
    return f"{table(rows)}\n  {gain}{share}; {settings}{network}{tested}\n  ({note})"
