"""A task whose trainings fail in every way, by batch size. Worker processes import this module."""

import os
import signal
import time

from torch import Tensor

from orchestrator.tasks.tabular import BreastCancer

HANGS, KILLED, NO_MEMORY, RAISES = 40, 41, 42, 43
"""Batch sizes."""
LONG_S = 600


class Failing(BreastCancer):
    """Breast cancer; what happens in the first training step depends on the batch size."""

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, if it comes to that."""
        size = len(targets)
        if size == HANGS:
            time.sleep(LONG_S)
        if size == KILLED:
            os.kill(os.getpid(), signal.SIGKILL)
        if size == NO_MEMORY:
            bytearray(2**62)
        if size == RAISES:
            raise ValueError("no such batch")
        return super().loss(outputs, targets, label_smoothing)
