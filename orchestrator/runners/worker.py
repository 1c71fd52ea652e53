"""What runs inside a worker process. It imports no Ray, so that a worker starts quickly."""

import pickle
import sys
from collections.abc import Iterator
from typing import Any

from orchestrator.trial import failure
from orchestrator.types import End, EpochResult, Outcome, TrialProgram, TrialSpec


class TrialWorker:
    """Runs one trial after another in the same process, with PyTorch and the data loaded."""

    def __init__(self, program: bytes, path: list[str]) -> None:
        """``program`` is a pickled :class:`~orchestrator.types.TrialProgram`, ``path`` the driver's ``sys.path``."""
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._program: TrialProgram = pickle.loads(program)
        self._epochs: Iterator[EpochResult] = iter(())

    def step(self, spec: TrialSpec | None = None) -> dict[str, Any]:
        """One epoch, or the end of the trial; ``spec`` begins another one.

        A failure is a result too, so that the worker lives on.
        """
        try:
            if spec is not None:
                self._epochs = self._program(spec)
            return {"epoch_result": next(self._epochs), "done": False}
        except StopIteration:
            return {"outcome": Outcome(End.FINISHED), "done": True}
        except Exception as error:
            return {"outcome": failure(error), "done": True}

    def end(self) -> None:
        """End the trial early and in good order: it is checkpointed."""
        self._epochs.close()  # type: ignore[attr-defined]
