"""Write a model to ship: a folder that stands by itself.

::

    models/winner/
      model/             model.json (what it is, takes and gives), weights, statistics: see serving/model.py
      code/              the task's source files, and those of this package that predicting needs
      requirements.txt   the installed packages that these import, with their versions
      example.npy        raw inputs
      model.pt2          the same as one torch.export program, where the network allows
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.errors import StorageError
from orchestrator.files import storing, sync, write_json
from orchestrator.importing import one_line
from orchestrator.serving.model import DESCRIPTION, STATISTICS, Description, Network, read_description
from orchestrator.serving.sources import copy_sources, modules_of, sources_of
from orchestrator.tasks.base import Task

MODEL, CODE, REQUIREMENTS, EXAMPLE, EXPORTED = "model", "code", "requirements.txt", "example.npy", "model.pt2"
_LOADER = "orchestrator.serving.mlflow_model"


@dataclass(frozen=True)
class Parts:
    """What a description does not hold."""

    task: Task
    networks: Sequence[nn.Module]
    """In the order of the description's members."""
    statistics: Mapping[str, Tensor]
    example: Tensor


def version_in(folder: Path) -> str | None:
    """The version of the model in ``folder``; None: there is none that this package can read."""
    try:
        return read_description(folder / MODEL).version
    except StorageError:
        return None


def write_package(folder: Path, description: Description, parts: Parts) -> None:
    """Write the model, in place of what is there: whole, or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    aside, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    with storing(folder):
        for left in (aside, old):
            shutil.rmtree(left, ignore_errors=True)
        (aside / MODEL).mkdir(parents=True)
        for member, network in zip(description.members, parts.networks, strict=True):
            torch.save({name: value.cpu() for name, value in network.state_dict().items()},
                       aside / MODEL / member.weights)  # fmt: skip
        torch.save(dict(parts.statistics), aside / MODEL / STATISTICS)
        write_json(aside / MODEL / DESCRIPTION, description.plain())
        np.save(aside / EXAMPLE, parts.example.numpy(), allow_pickle=False)
        files, packages = sources_of([*modules_of(description.task), type(parts.task).__module__, _LOADER])
        copy_sources(files, aside / CODE)
        (aside / REQUIREMENTS).write_text("".join(f"{line}\n" for line in packages), encoding="utf-8")
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        sync(folder.parent)
        shutil.rmtree(old, ignore_errors=True)


def export(folder: Path, description: Description, parts: Parts) -> str | None:
    """Write ``model.pt2``: raw inputs to predictions as one program for any number of examples.

    It is loaded again and compared with the network, on two batch sizes.

    Returns:
        Why there is none; None: it is written.
    """
    members = [(network.cpu(), member.share) for network, member in
               zip(parts.networks, description.members, strict=True)]  # fmt: skip
    network = Network(parts.task, members, parts.statistics, description.combined)
    # torch.export takes a single example for a fixed size.
    example = torch.cat([parts.example] * (3 if len(parts.example) == 1 else 1))
    path = folder / EXPORTED
    try:
        program = torch.export.export(network, (example,), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        torch.export.save(program, path)
        again = torch.export.load(path).module()
        with torch.inference_mode():
            for batch in (example, torch.cat([example, example])):
                torch.testing.assert_close(again(batch), network(batch))
    except Exception as error:  # whatever the user's network makes torch.export raise
        path.unlink(missing_ok=True)
        return one_line(error)
    return None
