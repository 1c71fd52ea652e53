"""A shipped model: a folder with a description and weights, and what predicts with them.

Nothing of the sweep is needed, and neither is its data: the task's class is built for its ``model``,
``prepare``, ``predictions`` and ``restore`` only.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError, StorageError
from orchestrator.importing import build_target, one_line
from orchestrator.serving.combine import Form, combine
from orchestrator.tasks.base import Task
from orchestrator.types import Value

DESCRIPTION = "model.json"
STATISTICS = "statistics.pt"
FORMAT = 2
"""Of the folder; a folder with another number is refused."""
BATCH = 1024
"""Examples per forward pass (as many as ``trainer.eval_batch_size`` has by default)."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One trained network of the model."""

    origin: str
    """Where it comes from: ``trial 12``."""
    share: float
    """Its weight in the average of the members' predictions; the shares sum to 1."""
    weights: str
    """File of its state dict, in the model's folder."""
    model: Mapping[str, Value]
    """Keyword arguments of the task's ``model``."""
    configuration: Mapping[str, Value]
    """All hyperparameters of its training, by dotted name."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a model is, takes and gives."""

    name: str
    """winner, ensemble or student."""
    version: str
    """Changes when the model does."""
    sweep: str
    task: str
    """Import path of the task's class."""
    args: Mapping[str, Any]
    """Its keyword arguments."""
    members: Sequence[Member]
    shape: Sequence[int]
    """Of one raw input."""
    dtype: str
    """Of raw inputs, in NumPy's words."""
    output_shape: Sequence[int]
    """Of one prediction."""
    columns: Sequence[str]
    """Names of a table's columns, in order; empty: the inputs are no table."""
    outputs: Sequence[str]
    """Names of what is predicted; empty: they have none."""
    parameters: int
    """Of all members together."""
    megabytes: float
    """Parameters and buffers in memory, in 1e6 bytes."""
    ms_per_example: float
    """Milliseconds of a large batch, from raw inputs to predictions, divided by its examples; on the machine that
    wrote the model."""
    temperature: float | None = None
    form: Form = "values"
    class_axis: int = 1
    """How the members' predictions become one: see :func:`~orchestrator.serving.combine.combine`."""
    format: int = FORMAT

    @property
    def combined(self) -> tuple[float | None, Form, int]:
        """Temperature, form and class axis."""
        return self.temperature, self.form, self.class_axis

    def plain(self) -> dict[str, Any]:
        """As nested plain values."""
        return asdict(self)


class Network(nn.Module):
    """From raw inputs to predictions in the user's units: preparation, members, average, restoring."""

    def __init__(
        self,
        task: Task,
        members: Sequence[tuple[nn.Module, float]],
        statistics: Mapping[str, Tensor],
        combined: tuple[float | None, Form, int] = (None, "values", 1),
    ) -> None:
        super().__init__()
        self.task = task
        self.members = nn.ModuleList(network for network, _ in members)
        self.shares = [share for _, share in members]
        self.combined = combined
        self._names = list(statistics)
        for name, value in statistics.items():
            self.register_buffer(f"statistics_{name}", value)
        self.eval()

    def forward(self, raw: Tensor) -> Tensor:
        """Predictions, float64, first axis examples."""
        statistics = {name: getattr(self, f"statistics_{name}") for name in self._names}
        inputs = self.task.prepare(raw, statistics)
        parts = [self.task.predictions(network(inputs).float()) for network in self.members]
        total = combine(parts, self.shares, *self.combined)
        return self.task.restore(total, statistics)


class Model:
    """A shipped model in memory."""

    def __init__(self, description: Description, network: Network) -> None:
        self.description = description
        self.network = network

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> "Model":
        """The model in ``folder``. No code in its files is executed (``weights_only``).

        Raises:
            StorageError: there is none, or it is damaged or of another version of this package.
            ConfigError: its task cannot be imported.
        """
        folder = Path(folder)
        description = read_description(folder)
        task = build_target(description.task, dict(description.args), "task._target_")
        members = []
        for member in description.members:
            network = task.model(**member.model)
            network.load_state_dict(load_weights(folder / member.weights))
            members.append((network, member.share))
        network = Network(task, members, load_weights(folder / STATISTICS), description.combined)
        return cls(description, network.to(device))

    @torch.inference_mode()
    def predict(self, inputs: np.ndarray) -> np.ndarray:
        """Predictions, float64, first axis examples.

        Args:
            inputs: raw inputs, shape (examples, ...) as the description says.

        Raises:
            ConfigError: the shape or the type is wrong.
        """
        description = self.description
        if inputs.shape[1:] != tuple(description.shape) or inputs.ndim == 0:
            wanted = ", ".join(["examples", *map(str, description.shape)])
            raise ConfigError(f"inputs have shape {inputs.shape}; the {description.name} takes ({wanted})")
        if not np.can_cast(inputs.dtype, description.dtype, "same_kind"):
            raise ConfigError(f"inputs are {inputs.dtype}; the {description.name} takes {description.dtype}")
        device = next(self.network.parameters()).device
        found = [np.empty((0, *description.output_shape))]
        for start in range(0, len(inputs), BATCH):
            # A copy: what is mapped from a file may not be written to, which PyTorch warns of.
            batch = np.array(inputs[start : start + BATCH], dtype=description.dtype, order="C")
            found.append(self.network(torch.from_numpy(batch).to(device)).cpu().numpy())
        return np.concatenate(found)


def read_description(folder: Path) -> Description:
    """What the model in ``folder`` is.

    Raises:
        StorageError: there is none, or it is damaged or of another version of this package.
    """
    path = folder / DESCRIPTION
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if values["format"] != FORMAT:
            raise StorageError(f"{path}: has format {values['format']}, this version reads {FORMAT}; ship it again")
        return Description(**{**values, "members": [Member(**member) for member in values["members"]]})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: is no description of a model: {one_line(error)}") from None


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors in ``path``, by name, on the CPU. No code in it is executed.

    Raises:
        StorageError: it is damaged.
    """
    try:
        found: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise StorageError(f"{path}: is damaged ({one_line(error)})") from None
    return found
