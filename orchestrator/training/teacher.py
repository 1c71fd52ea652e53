"""A teacher's predictions of the training split, in a file that is mapped and never read whole."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.hyperparameters import DistillConfig, Hyperparameters
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import ConfigError
from orchestrator.tasks.base import Task


class Teacher:
    """What the teacher predicts for each training example, found by the example's number.

    So it follows the example through shuffling; an augmentation changes the inputs that the student sees, and the
    teacher's prediction stays that of the example as it is.
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
        if len(self._predictions) != examples:
            raise ConfigError(f"trainer.teacher={path}: of {len(self._predictions)} examples, not {examples}")

    def mix(self, task: Task, loss: Tensor, outputs: Tensor, rows: Tensor) -> Tensor:
        """The loss on the targets mixed with the distance from the teacher.

        Args:
            task: says what that distance is.
            loss: on the targets, a scalar.
            outputs: of the network.
            rows: numbers of the examples in the training split.
        """
        known = torch.from_numpy(np.array(self._predictions[rows.cpu().numpy()])).to(outputs)
        share = self._settings.weight
        return (1 - share) * loss + share * task.distillation(outputs, known, self._settings.temperature)


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
