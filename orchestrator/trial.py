"""One trial as a program that a runner executes: seed, build, fit; failures named.

It knows the task and PyTorch, and nothing of Ray, Optuna, MLflow or Hydra.
"""

import os
import sysconfig
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.config.hyperparameters import from_flat
from orchestrator.config.schema import TaskConfig, TrainerConfig
from orchestrator.errors import InfeasibleTrialError
from orchestrator.tasks.loading import load_once
from orchestrator.training.loop import fit
from orchestrator.types import End, EpochResult, Outcome, Reason, TrialSpec

_PACKAGE = f"{Path(__file__).parent}{os.sep}"
_INSTALLED = tuple(f"{sysconfig.get_path(name)}{os.sep}" for name in ("stdlib", "purelib", "platlib"))


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
        try:
            task, splits = load_once(self.task)
            yield from fit(task, splits, from_flat(spec.configuration), self.trainer, spec)
        except (RuntimeError, MemoryError) as error:
            reason = _whose_memory(error)
            if reason is None:
                raise
            # Python's own MemoryError has no text.
            line = next(iter(str(error).splitlines()), type(error).__name__)
            raise InfeasibleTrialError(reason, line) from None


def _whose_memory(error: Exception) -> Reason | None:
    """Of what ``error`` says that no memory was left; None: it says something else."""
    # The CPU's allocator, the CUDA driver, cuBLAS and cuDNN say so in their text only.
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return Reason.HOST_OUT_OF_MEMORY
    signs = ("CUDA error: out of memory", "STATUS_ALLOC_FAILED")
    if isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in signs):
        return Reason.OUT_OF_MEMORY
    return None


def failure(error: Exception) -> Outcome:
    """What ended a trial, for the study: the reason, one line, and the traceback cut to the user's own frames.

    Those are neither of this package nor of an installed one, where there are any.
    """
    if isinstance(error, InfeasibleTrialError):
        return Outcome(End.FAILED, error.reason, error.detail)
    frames = traceback.extract_tb(error.__traceback__)
    others = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
    own = [frame for frame in others if not frame.filename.startswith(_INSTALLED)]
    text = "".join(traceback.format_list(own or others or frames))
    return Outcome(End.FAILED, Reason.USER_ERROR, f"{type(error).__name__}: {error}\n{text}")
