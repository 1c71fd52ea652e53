"""What runs inside a worker process. It imports no Ray, so that a worker starts quickly."""

import os
import pickle
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import Any

from orchestrator.trial import failure
from orchestrator.types import End, EpochResult, Outcome, TrialProgram, TrialSpec, Work


class TrialWorker:
    """Runs one trial after another in the same process, with PyTorch and the data loaded."""

    def __init__(self, program: bytes, path: list[str]) -> None:
        """``program`` is a pickled :class:`~orchestrator.types.TrialProgram`, ``path`` the driver's ``sys.path``."""
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._program: TrialProgram = pickle.loads(program)
        self._epochs: Iterator[EpochResult] = iter(())
        self._fresh = True

    def step(self, spec: TrialSpec | None = None) -> dict[str, Any]:
        """One epoch, or the end of the trial; ``spec`` begins another one.

        A failure is a result too, so that the worker lives on.
        """
        asked = time.monotonic()
        try:
            if spec is not None:
                self._epochs = self._program(spec)
            result = next(self._epochs)
            return {"epoch_result": replace(result, work=self._work(asked)), "done": False}
        except StopIteration:
            outcome = Outcome(End.FINISHED)
        except Exception as error:
            outcome = failure(error)
        return {"outcome": replace(outcome, work=self._work(asked)), "done": True}

    def end(self) -> Work:
        """End the trial early and in good order: it is checkpointed."""
        asked = time.monotonic()
        self._epochs.close()  # type: ignore[attr-defined]
        return self._work(asked)

    def _work(self, asked: float) -> Work:
        fresh, self._fresh = self._fresh, False
        return Work(time.monotonic() - asked, fresh)


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
