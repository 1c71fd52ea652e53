"""Models to ship: the winner and the ensemble of a sweep as folders that predict without it, and in MLflow."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.config.hyperparameters import from_flat
from orchestrator.ensemble.distill import STUDENT_FILE, load_student
from orchestrator.ensemble.record import ENSEMBLE_FILE, load_ensemble
from orchestrator.masking import masked
from orchestrator.serving.combine import Form
from orchestrator.serving.costs import costs_of
from orchestrator.serving.model import FORMAT, Description, Member, Network, load_weights, read_description
from orchestrator.serving.package import EXPORTED, MODEL, Parts, export, version_in, write_package
from orchestrator.stages.sweep import WINNER_FILE, Sweep
from orchestrator.study.records import TrialRecord
from orchestrator.tasks.base import Interface, Splits
from orchestrator.tasks.loading import load_once
from orchestrator.tracking.base import SWEEP, ModelEntry

MODELS = "models"
"""Folder of a sweep with a folder for each model."""
NAMES = ("winner", "ensemble", "student")
"""Models that a sweep may have."""
EXAMPLES = 5
"""Inputs kept as an example: our choice (MLflow shows five rows)."""


@dataclass(frozen=True)
class _Recipe:
    """What a model is made of, before any weights are read."""

    members: Sequence[Member]
    states: Callable[[], list[Mapping[str, Tensor]]]
    combined: tuple[float | None, Form, int] = (None, "values", 1)


def ship(sweep: Sweep) -> None:
    """Write the models of the sweep that are not there yet, or have changed, and say what could not be exported.

    The winner is written when it has a checkpoint; once there is an ensemble, that too, and the winner as a
    torch.export program.
    """
    last = (sweep.folder / ENSEMBLE_FILE).exists()
    best = sweep.best
    if best is not None and sweep.checkpoints.has(best.number):
        _ship(sweep, "winner", _winner(sweep, best), exported=last)
    if last:
        _ship(sweep, "ensemble", _ensemble(sweep), exported=False)
    if (sweep.folder / STUDENT_FILE).exists():
        _ship(sweep, "student", _student(sweep), exported=True)


def _winner(sweep: Sweep, best: TrialRecord) -> _Recipe:
    member = Member(
        origin=f"trial {best.number}",
        share=1.0,
        weights="0.pt",
        model=from_flat(best.configuration).model,
        configuration=best.configuration,
    )
    return _Recipe([member], lambda: [sweep.checkpoints.load(best.number)["best"]["model"]])


def _student(sweep: Sweep) -> _Recipe:
    student = load_student(sweep.folder)
    member = Member(
        origin=f"student seed {student['seed']} ({student['digest']})",
        share=1.0,
        weights="0.pt",
        model=student["model"],
        configuration=student["configuration"],
    )
    return _Recipe([member], lambda: [load_weights(sweep.folder / student["file"])])


def _ensemble(sweep: Sweep) -> _Recipe:
    ensemble = load_ensemble(sweep.folder)
    members = [
        Member(
            origin=f"{member.name} ({member.digest})",
            share=member.share,
            weights=f"{index}.pt",
            model=member.model,
            configuration=sweep.study[member.trial].configuration,
        )
        for index, member in enumerate(ensemble.members)
    ]
    combined = (ensemble.temperature, ensemble.form, ensemble.class_axis)
    return _Recipe(members, lambda: [member.state(sweep.folder) for member in ensemble.members], combined)


def _ship(sweep: Sweep, name: str, recipe: _Recipe, *, exported: bool) -> None:
    folder = sweep.folder / MODELS / name
    # With the exported program it is another version: MLflow has the one without it already.
    known = [FORMAT, sweep.ledger.sweep_id, [asdict(member) for member in recipe.members], recipe.combined, exported]
    version = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:12]
    if version_in(folder) != version:
        write_package(folder, *_assemble(sweep, name, version, recipe))
    if exported and not (folder / EXPORTED).exists():
        why = export(folder, *_assemble(sweep, name, version, recipe))
        if why is not None:
            sweep.progress.say(f"{name}: torch.export does not take it ({why}); the model itself is in {folder}")


def _assemble(sweep: Sweep, name: str, version: str, recipe: _Recipe) -> tuple[Description, Parts]:
    task, splits = load_once(sweep.config.task)
    interface = task.interface() or Interface(_first_inputs(splits))
    networks: list[nn.Module] = []
    for member, state in zip(recipe.members, recipe.states(), strict=True):
        network = task.model(**member.model)
        network.load_state_dict(dict(state))
        networks.append(network)
    parts = Parts(task, networks, interface.statistics, interface.example[:EXAMPLES].cpu().contiguous())
    shares = [member.share for member in recipe.members]
    whole = Network(task, list(zip(networks, shares, strict=True)), interface.statistics, recipe.combined)
    return _described(sweep, (name, version), recipe, interface, parts, whole), parts


def _described(
    sweep: Sweep, called: tuple[str, str], recipe: _Recipe, interface: Interface, parts: Parts, whole: Network
) -> Description:
    name, version = called
    config = sweep.config.task
    with torch.inference_mode():
        outputs = whole(parts.example)
    # As many as an evaluation takes at a time.
    count = sweep.config.trainer.eval_batch_size
    many = torch.cat([parts.example] * math.ceil(count / len(parts.example)))[:count]
    temperature, form, class_axis = recipe.combined
    return Description(
        name=name,
        version=version,
        sweep=sweep.name,
        task=config.target,
        # Where it predicts the data is not read: an address needs no password there.
        args=masked(dict(config.args)),
        members=recipe.members,
        shape=list(parts.example.shape[1:]),
        dtype=str(parts.example.numpy().dtype),
        output_shape=list(outputs.shape[1:]),
        columns=list(interface.columns),
        outputs=list(interface.outputs),
        **asdict(costs_of(whole, many)),
        temperature=temperature,
        form=form,
        class_axis=class_axis,
    )


def _first_inputs(splits: Splits) -> Tensor:
    return torch.stack([splits.train[index][0] for index in range(EXAMPLES)])


def track_models(sweep: Sweep) -> list[str]:
    """Tell the tracker of the models that are there: it skips those that it has. Returns their names."""
    found = []
    for name in NAMES:
        folder = sweep.folder / MODELS / name
        if version_in(folder) is None:
            continue
        description = read_description(folder / MODEL)
        best = sweep.best if name == "winner" else None
        tags = {
            "model": name,
            "version": description.version,
            "task": description.task,
            "members": ", ".join(member.origin for member in description.members),
        }
        entry = ModelEntry(
            name=f"{sweep.name}-{name}-{description.version}",
            params=description.members[0].configuration if len(description.members) == 1 else {},
            tags=tags,
            files=_configuration_files(sweep, name),
            metrics={f"winner/{sweep.task.objective}": best.value} if best and best.value is not None else {},
            package=folder,
            registered=registered_name(sweep.name, name),
        )
        sweep.tracker.model(SWEEP, entry)
        found.append(name)
    return found


def registered_name(sweep: str, model: str) -> str:
    """In MLflow's registry. Each version has the alias that is the version of the model's description."""
    return f"{sweep}-{model}"


def _configuration_files(sweep: Sweep, name: str) -> tuple[Path, ...]:
    path = sweep.folder / {"winner": WINNER_FILE, "ensemble": ENSEMBLE_FILE, "student": STUDENT_FILE}[name]
    return (path,) if path.exists() else ()
