"""One trial as a program that a runner executes: seed, build, fit; failures named.

It knows the task and PyTorch, and nothing of Ray, Optuna, MLflow or Hydra.
"""

import gc
import os
import pickle
import sysconfig
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
from orchestrator.training.fit import fit, restore
from orchestrator.training.loop import Loop
from orchestrator.training.parallel import ALONE, Group
from orchestrator.training.team import together
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
    """PyTorch threads of all ranks: the same with every runner, because the sum of floats depends on them."""

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        """Yield after each epoch."""
        ranks = self.trainer.workers
        use_threads(max(1, self.threads // ranks))
        try:
            if ranks == 1:
                yield from self._fit(spec, ALONE)
            else:
                with together(ranks, pickle.dumps(self), spec) as group:
                    yield from self._fit(spec, group)
        except (RuntimeError, MemoryError) as error:
            raise named(error) from None

    def _fit(self, spec: TrialSpec, group: Group) -> Iterator[EpochResult]:
        task, splits = load_once(self.task)
        return fit(task, splits, from_flat(spec.configuration), self.trainer, spec, group)

    def follow(self, spec: TrialSpec, group: Group) -> Loop:
        """The trial on another rank than the first, up to where it begins or goes on."""
        use_threads(max(1, self.threads // self.trainer.workers))
        task, splits = load_once(self.task)
        loop = Loop(task, splits, from_flat(spec.configuration), self.trainer, spec, group)
        restore(loop)
        return loop


def named(error: Exception) -> Exception:
    """``error``, or what it means where it says that no memory was left; then the memory is freed."""
    reason = _whose_memory(error)
    if reason is None:
        return error
    # Python's own MemoryError has no text.
    line = next(iter(str(error).splitlines()), type(error).__name__)
    # The frames of the traceback hold what did not fit.
    traceback.clear_frames(error.__traceback__)
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return InfeasibleTrialError(reason, line)


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
    if isinstance(error, StorageError):
        # Nothing is known of the configuration: the trial is neither infeasible nor ended.
        return Outcome(End.PAUSED, Reason.STORAGE, str(error))
    frames = traceback.extract_tb(error.__traceback__)
    others = [frame for frame in frames if not frame.filename.startswith(_PACKAGE)]
    own = [frame for frame in others if not frame.filename.startswith(_INSTALLED)]
    text = "".join(traceback.format_list(own or others or frames))
    return Outcome(End.FAILED, Reason.USER_ERROR, mask_addresses(f"{type(error).__name__}: {error}\n{text}"))
