"""Models to ship: the winner and the ensemble of a sweep as folders that predict without it, and in MLflow."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from orchestrator.config.hyperparameters import from_flat
from orchestrator.ensemble.stage import ENSEMBLE_FILE
from orchestrator.serving.model import FORMAT, Description, Member, Network, read_description
from orchestrator.serving.package import EXPORTED, MODEL, Parts, export, version_in, write_package
from orchestrator.stages.sweep import WINNER_FILE, Sweep
from orchestrator.tasks.base import Interface, Splits, Task
from orchestrator.tasks.loading import load_once
from orchestrator.tracking.base import SWEEP, ModelEntry
from orchestrator.training import checkpoint
from orchestrator.types import Configuration

MODELS = "models"
"""Folder of a sweep with a folder for each model."""
NAMES = ("winner", "ensemble")
"""Models that a sweep may have."""
EXAMPLES = 5
"""Inputs kept as an example: our choice (MLflow shows five rows)."""


@dataclass(frozen=True)
class _Ingredient:
    origin: str
    share: float
    configuration: Configuration
    state: Mapping[str, Tensor]


def ship(sweep: Sweep) -> None:
    """Write the models of the sweep that are not there yet, or have changed, and say what could not be exported.

    The winner is written when it has a checkpoint; once the recipe's end has run, the ensemble too, and the
    winner as a torch.export program.
    """
    best = sweep.best
    if best is not None and sweep.checkpoints.has(best.number):
        _ship(sweep, "winner", {best.number: 1.0}, exported=(sweep.folder / ENSEMBLE_FILE).exists())
    if (path := sweep.folder / ENSEMBLE_FILE).exists():
        weights = json.loads(path.read_text(encoding="utf-8"))["weights"]
        _ship(sweep, "ensemble", {int(number): share for number, share in weights.items()}, exported=False)


def _ship(sweep: Sweep, name: str, shares: Mapping[int, float], *, exported: bool) -> None:
    folder = sweep.folder / MODELS / name
    version = _version(sweep, shares)
    if version_in(folder) == version and (not exported or (folder / EXPORTED).exists()):
        return
    if not all(sweep.checkpoints.has(number) for number in shares):
        return
    ingredients = [_ingredient(sweep, number, share) for number, share in shares.items()]
    description, parts = _assemble(sweep, name, version, ingredients)
    write_package(folder, description, parts)
    if exported and (why := export(folder, description, parts)) is not None:
        sweep.progress.say(f"{name}: torch.export does not take this network ({why}); the model itself is in {folder}")


def _version(sweep: Sweep, shares: Mapping[int, float]) -> str:
    known = json.dumps([FORMAT, sweep.ledger.sweep_id, sorted(shares.items())])
    return hashlib.sha256(known.encode()).hexdigest()[:12]


def _ingredient(sweep: Sweep, number: int, share: float) -> _Ingredient:
    state = checkpoint.load(sweep.checkpoints.folder(number))["best"]["model"]
    return _Ingredient(f"trial {number}", share, sweep.study[number].configuration, state)


def _assemble(sweep: Sweep, name: str, version: str, ingredients: list[_Ingredient]) -> tuple[Description, Parts]:
    task, splits = load_once(sweep.config.task)
    interface = task.interface() or Interface(_first_inputs(splits))
    networks: list[nn.Module] = []
    for ingredient in ingredients:
        network = task.model(**from_flat(ingredient.configuration).model)
        network.load_state_dict(dict(ingredient.state))
        networks.append(network)
    parts = Parts(task, networks, interface.statistics, interface.example[:EXAMPLES].cpu().contiguous())
    whole = Network(task, [(network, 1 / len(networks)) for network in networks], interface.statistics)
    with torch.inference_mode():
        outputs = whole(parts.example)
    members = [
        Member(
            origin=ingredient.origin,
            share=ingredient.share,
            weights=f"{index}.pt",
            configuration=dict(ingredient.configuration),
        )
        for index, ingredient in enumerate(ingredients)
    ]
    return _described(sweep, name, version, members, interface, parts, outputs), parts


def _described(
    sweep: Sweep, name: str, version: str, members: list[Member], interface: Interface, parts: Parts, outputs: Tensor
) -> Description:
    config = sweep.config.task
    return Description(
        name=name,
        version=version,
        sweep=sweep.name,
        task=config.target,
        args=dict(config.args),
        members=members,
        shape=list(parts.example.shape[1:]),
        dtype=str(parts.example.numpy().dtype),
        output_shape=list(outputs.shape[1:]),
        columns=list(interface.columns),
        outputs=list(interface.outputs),
    )


def _first_inputs(splits: Splits) -> Tensor:
    return torch.stack([splits.train[index][0] for index in range(EXAMPLES)])


def track_models(sweep: Sweep) -> None:
    """Tell the tracker of the models that are there: it skips those that it has."""
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
            registered=f"{sweep.name}-{name}",
        )
        sweep.tracker.model(SWEEP, entry)


def _configuration_files(sweep: Sweep, name: str) -> tuple[Path, ...]:
    path = sweep.folder / (WINNER_FILE if name == "winner" else ENSEMBLE_FILE)
    return (path,) if path.exists() else ()
