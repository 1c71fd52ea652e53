"""A teacher's predictions of the training split, in a file that is mapped and never read whole.

The file may go on with predictions of mixtures of training inputs, in copies: in each, every example is mixed once
with another. A small training split says little of the teacher; between its examples the teacher can be asked too
(Beyer et al. 2022, "Knowledge distillation: a good teacher is patient and consistent", arXiv 2106.05237, section 3.1,
mix inputs so; the mixtures: Zhang et al. 2018, "mixup", arXiv 1710.09412, with the uniform share of its alpha = 1).
"""

from collections.abc import Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from orchestrator.config.hyperparameters import DistillConfig, Hyperparameters
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import ConfigError
from orchestrator.seeds import derive_seed
from orchestrator.tasks.base import Task
from orchestrator.training.data import load

MIXED = 0.5
"""Share of the teacher's part of the loss that is on mixtures, where there are any (our guess)."""


class Recipe:
    """Which examples are mixed in one copy of the training split, and how: the same wherever it is asked."""

    def __init__(self, examples: int, copy: int) -> None:
        generator = torch.Generator().manual_seed(derive_seed("mixtures", copy))
        self.partners = torch.randperm(examples, generator=generator)
        """Of each example the other one, shape (examples,)."""
        self._shares = torch.rand(examples, generator=generator)

    def mix(self, inputs: Tensor, others: Tensor, rows: Tensor) -> Tensor:
        """The mixtures of the examples ``rows``: their ``inputs`` and those of their partners."""
        shares = self._shares[rows].to(inputs).reshape(-1, *[1] * (inputs.dim() - 1))
        return shares * inputs + (1 - shares) * others


class Teacher:
    """What the teacher predicts for each training example, found by the example's number.

    So it follows the example through shuffling; an augmentation changes the inputs that the student sees, and the
    teacher's prediction stays that of the example as it is. Mixtures are made of inputs that are not augmented.
    """

    def __init__(self, path: Path, settings: DistillConfig, examples: int) -> None:
        """Map the file.

        Raises:
            ConfigError: there is no such file, or it is of another number of examples.
        """
        if not path.is_file():
            raise ConfigError(f"trainer.teacher={path}: there is no such file")
        self._predictions = np.load(path, mmap_mode="r", allow_pickle=False)
        self._settings = settings
        self._examples = examples
        self.copies, rest = len(self._predictions) // examples - 1, len(self._predictions) % examples
        if rest or self.copies < 0:
            raise ConfigError(f"trainer.teacher={path}: of {len(self._predictions)} examples, not {examples}")

    def mixtures(self, dataset: Dataset[Any], order: list[Tensor], epoch: int, workers: int) -> Iterator[Any]:
        """For each batch of ``order`` its examples' partners in this epoch's copy; None: there are no mixtures."""
        if not self.copies:
            return repeat(None, len(order))
        partners = Recipe(self._examples, epoch % self.copies).partners
        return (inputs for inputs, _ in load(dataset, [partners[rows] for rows in order], workers))

    def blend(self, inputs: Tensor, others: Tensor | None, rows: Tensor, epoch: int) -> Tensor | None:
        """The mixtures of a batch with what :meth:`mixtures` gave for it."""
        if others is None:
            return None
        return Recipe(self._examples, epoch % self.copies).mix(inputs, others.to(inputs.device), rows)

    def mix(
        self, task: Task, loss: Tensor, outputs: Tensor, rows: Tensor, mixed: Tensor | None = None, epoch: int = 0
    ) -> Tensor:
        """The loss on the targets mixed with the distance from the teacher.

        Args:
            task: says what that distance is.
            loss: on the targets, a scalar.
            outputs: of the network.
            rows: numbers of the examples in the training split.
            mixed: outputs for the mixtures of these examples, of the copy of ``epoch`` (from 0); None: none.
        """
        distance = self._distance(task, outputs, rows)
        if mixed is not None:
            others = rows + self._examples * (1 + epoch % self.copies)
            distance = (1 - MIXED) * distance + MIXED * self._distance(task, mixed, others)
        return (1 - self._settings.weight) * loss + self._settings.weight * distance

    def _distance(self, task: Task, outputs: Tensor, rows: Tensor) -> Tensor:
        known = torch.from_numpy(np.array(self._predictions[rows.cpu().numpy()])).to(outputs)
        return task.distillation(outputs, known, self._settings.temperature)


def open_teacher(config: TrainerConfig, hyperparameters: Hyperparameters, examples: int) -> Teacher | None:
    """The teacher of a training; None: it has none.

    Raises:
        ConfigError: see :class:`Teacher`.
    """
    if hyperparameters.distill is None:
        return None
    if config.teacher is None:
        raise ConfigError("distill.weight: there is no teacher; run stage=distill")
    return Teacher(Path(config.teacher), hyperparameters.distill, examples)
