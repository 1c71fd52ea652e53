"""What runs inside a worker process. It imports no Ray, so that a worker starts quickly."""

import os
import pickle
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection
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


def serve(descriptor: int) -> None:
    """Run trials for the local runner at the other end of ``descriptor`` until it closes it, or is gone.

    Args:
        descriptor: of a connection on which come a program (pickled) and a path, and then calls of a
            :class:`TrialWorker`: a name and its arguments.
    """
    connection = Connection(descriptor)
    worker: TrialWorker | None = None
    try:
        while True:
            call, *arguments = connection.recv()
            if call == "load":
                worker = TrialWorker(*arguments)
                connection.send("ready")
            else:
                connection.send(getattr(worker, call)(*arguments))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The driver is gone. Nothing that user code left behind (threads, exit handlers) may keep us.
        os._exit(0)
