"""``ensemble.json``: the ensemble that a sweep chose, its members' weights, and what they cost.

Everything that is needed to predict with it lies below the sweep's folder: each member's weights are a file of its
own (``ensemble/NAME.pt``), so that checkpoints may go, and the arguments of its model are in the record.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from orchestrator.errors import NoFeasibleTrialError, StorageError
from orchestrator.files import replacing, write_json
from orchestrator.importing import one_line
from orchestrator.serving.combine import Form, combine
from orchestrator.tasks.base import Task
from orchestrator.types import Value

ENSEMBLE_FILE = "ensemble.json"
WEIGHTS_FOLDER = "ensemble"
"""Below the sweep's folder: the weights of each member."""

Kind = Literal["single", "uniform", "greedy", "bagged"]
"""The best single candidate; the best few with equal weights; greedy selection; greedy selection over bags."""


@dataclass(frozen=True)
class Member:
    """One network of the ensemble."""

    name: str
    """``trial-17``; ``trial-17-swa`` for weights averaged along its run; ``soup-17`` for a soup whose best
    ingredient is of trial 17."""
    trial: int
    """The trial whose configuration it has."""
    share: float
    """Weight of its predictions; those of all members sum to 1."""
    model: Mapping[str, Value]
    """Keyword arguments of the task's ``model``."""
    file: str
    """Its weights (a state dict), relative to the sweep's folder."""
    digest: str
    """Of the weights."""
    ingredients: tuple[str, ...] = ()
    """Of a soup: the candidates whose weights were averaged."""
    parameters: int = 0
    megabytes: float = 0.0
    """Parameters and buffers in memory, in 1e6 bytes."""
    ms_per_example: float = 0.0
    """Milliseconds of a forward pass divided by the examples of its batch, on the machine that chose it."""

    def state(self, folder: Path) -> dict[str, Tensor]:
        """Its weights, on the CPU. ``folder``: the sweep's.

        Raises:
            StorageError: the file is missing or damaged.
        """
        path = folder / self.file
        try:
            found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise StorageError(
                f"{path}: cannot be read ({one_line(error)}); remove {folder / ENSEMBLE_FILE} and run stage=ensemble "
                "again"
            ) from None
        return found

    def network(self, task: Task, folder: Path) -> nn.Module:
        """The trained network in evaluation mode, on the CPU."""
        network = task.model(**self.model)
        network.load_state_dict(self.state(folder))
        return network.eval()


@dataclass(frozen=True)
class Ensemble:
    """What was chosen. Its prediction: the members' predictions averaged by their shares, then the temperature."""

    kind: Kind
    members: tuple[Member, ...]
    """The greatest share first."""
    temperature: float | None
    """Divides the logarithms of the averaged probabilities (of labels: their logits); None: they stay."""
    form: Form
    class_axis: int = 1
    """With form ``classes``: their dimension in the predictions."""
    single: str = ""
    """Name of the best single candidate: the reference."""
    uniform: tuple[str, ...] = ()
    """Names of the best few: the other reference."""
    objective: str = "loss"
    """The score by which members were chosen."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Member's name to its share."""
        return {member.name: member.share for member in self.members}

    def combine(self, predictions: Sequence[Tensor]) -> Tensor:
        """The ensemble's prediction, float64.

        Args:
            predictions: of each of ``members``, in their order: what ``task.predictions`` gives, examples first.
        """
        shares = [member.share for member in self.members]
        return combine(predictions, shares, self.temperature, self.form, self.class_axis)

    def save(self, folder: Path) -> None:
        """Write ``ensemble.json`` into the sweep's ``folder``, atomically."""
        write_json(folder / ENSEMBLE_FILE, {**asdict(self), "weights": self.weights})


def save_weights(folder: Path, name: str, state: Mapping[str, Tensor]) -> str:
    """Write a member's weights; returns their place relative to the sweep's ``folder``."""
    place = f"{WEIGHTS_FOLDER}/{name}.pt"
    with replacing(folder / place) as aside:
        torch.save(dict(state), aside)
    return place


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Of weights: the beginning of the SHA-256 of names, types, shapes and bytes."""
    total = hashlib.sha256()
    for name, tensor in state.items():
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def load_ensemble(folder: Path) -> Ensemble:
    """The ensemble of the sweep in ``folder``.

    Raises:
        NoFeasibleTrialError: the sweep has none yet.
        StorageError: the file is damaged.
    """
    path = folder / ENSEMBLE_FILE
    if not path.exists():
        raise NoFeasibleTrialError(f"{path}: there is no ensemble yet; run stage=ensemble first")
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        values.pop("weights")
        members = tuple(Member(**{**one, "ingredients": tuple(one["ingredients"])}) for one in values.pop("members"))
        return Ensemble(**{**values, "members": members, "uniform": tuple(values["uniform"])})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(
            f"{path}: is damaged ({one_line(error)}); remove it and run stage=ensemble again"
        ) from None
