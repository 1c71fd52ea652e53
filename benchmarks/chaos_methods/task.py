"""The task that is disturbed: a shipped one that also counts what is trained."""

import os
import time
from pathlib import Path

from torch import Tensor

from orchestrator.tasks.tabular import BreastCancer

COUNTS = "CHAOS_COUNTS"
"""Environment: folder with a file for each worker process, a byte in it for each epoch that it trained."""
DRIVER = "CHAOS_DRIVER"
"""Environment: process id of the driver, which evaluates too (preflight, ensemble) and is not counted."""


PAUSE_S = 0.1
"""Added to each epoch, so that kills find trials in the middle of one."""


class Counted(BreastCancer):
    """Breast cancer; each evaluation in a worker leaves a byte."""

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """The scores; called once for each epoch."""
        found = super().score(predictions, targets)
        if os.environ.get(DRIVER) != str(os.getpid()) and COUNTS in os.environ:
            time.sleep(PAUSE_S)
            with (Path(os.environ[COUNTS]) / str(os.getpid())).open("ab", buffering=0) as handle:
                handle.write(b".")
        return found
