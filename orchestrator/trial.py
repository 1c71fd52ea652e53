"""One trial as a program that a runner executes: seed, build, fit; failures named.

It knows the task and PyTorch, and nothing of Ray, Optuna, MLflow or Hydra.
"""

import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.config.hyperparameters import from_flat
from orchestrator.config.schema import TaskConfig, TrainerConfig
from orchestrator.errors import InfeasibleTrialError, StorageError
from orchestrator.masking import mask_addresses
from orchestrator.tasks.loading import load_once
from orchestrator.training.loop import fit
from orchestrator.types import End, EpochResult, Outcome, Reason, TrialSpec

_PACKAGE = str(Path(__file__).parent)


def use_threads(threads: int) -> None:
    """Let PyTorch use so many threads of this process."""
    torch.set_num_threads(threads)


@dataclass(frozen=True)
class TrainingProgram:
    """Train the task's model with the trial's configuration. See :class:`~orchestrator.types.TrialProgram`."""

    task: TaskConfig
    trainer: TrainerConfig
    threads: int
    """PyTorch threads: the same with every runner, because the sum of floats depends on them."""

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        """Yield after each epoch."""
        use_threads(self.threads)
        task, splits = load_once(self.task)
        try:
            yield from fit(task, splits, from_flat(spec.configuration), self.trainer, spec)
        except (RuntimeError, MemoryError) as error:
            if not _out_of_memory(error):
                raise
            # Python's own MemoryError has no text.
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, line) from None


def _out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # The CPU allocator, the CUDA driver, cuBLAS and cuDNN say so in their text only.
    signs = ("can't allocate memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    return any(sign in str(error) for sign in signs)


def failure(error: Exception) -> Outcome:
    """What ended a trial, for the study: the reason, one line, and the traceback from the user's frames on."""
    if isinstance(error, InfeasibleTrialError):
        return Outcome(End.FAILED, error.reason, error.detail)
    if isinstance(error, StorageError):
        # Nothing is known of the configuration: the trial is neither infeasible nor ended.
        return Outcome(End.PAUSED, Reason.STORAGE, str(error))
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)] or frames
    text = "".join(traceback.format_list(own))
    return Outcome(End.FAILED, Reason.USER_ERROR, mask_addresses(f"{type(error).__name__}: {error}\n{text}"))
