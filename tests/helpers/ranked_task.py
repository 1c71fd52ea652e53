"""A task for trials on several ranks. Their processes import this module, so it holds no tests."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator import ClassificationTask, Splits


class Ranked(ClassificationTask):
    """50 training examples: with batches of 16 the last has 2. 21 to validate on.

    Args:
        folder: where notes go.
        how: ``killed``: the second rank kills itself in the third epoch, the first time; ``raises``: it raises then,
            every time; ``memory``: it says that memory is out; ``nan``: every loss of the second rank is NaN;
            ``waits``: the second rank waits in the third epoch for the file ``go``.
    """

    def __init__(self, folder: str = "", how: str = "") -> None:
        self.folder = Path(folder)
        self.how = how
        self.calls = 0

    def splits(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(100, 6, generator=generator)
        targets = (inputs[:, :3].sum(1) > 0).long() + (inputs[:, 3] > 0.5).long()
        parts = [TensorDataset(inputs[a:b], targets[a:b]) for a, b in ((0, 50), (50, 71), (71, 100))]
        return Splits(*parts)

    def model(self, width: int = 8, norm: bool = True) -> nn.Module:
        middle: nn.Module = nn.BatchNorm1d(width) if norm else nn.Identity()
        return nn.Sequential(nn.Linear(6, width), middle, nn.Tanh(), nn.Linear(width, 3))

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        if dist.is_initialized():
            self._note(f"pid {os.getpid()}")
            if dist.get_rank() == 1:
                self._do()
                if self.how == "nan":
                    return outputs.sum() * torch.nan
        return super().loss(outputs, targets, label_smoothing)

    def _do(self) -> None:
        self.calls += 1
        if self.calls < 10 or self.how in ("", "nan"):
            return
        if self.how == "killed" and not (self.folder / "killed once").exists():
            self._note("killed once")
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "waits":
            self._note("waiting")
            while not (self.folder / "go").exists():
                time.sleep(0.02)
        if self.how == "raises":
            raise ValueError("broken on purpose")
        if self.how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory, on purpose")

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        return {**super().score(predictions, targets), "examples": float(len(predictions))}

    def _note(self, text: str) -> None:
        if self.folder != Path():
            (self.folder / text).touch()


def rank_processes(folder: Path) -> list[int]:
    """The processes of all ranks that left a note."""
    return [int(path.name.split()[1]) for path in folder.glob("pid *")]


def arguments(folder: Path, how: str = "") -> dict[str, Any]:
    """The task's arguments."""
    return {"folder": str(folder), "how": how}
