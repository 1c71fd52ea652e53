"""Trial programs for the runner contract. Ray's workers import this module, so it holds no tests."""

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from orchestrator.errors import InfeasibleTrialError, StorageError
from orchestrator.training.memory import MemoryMeter
from orchestrator.types import EpochResult, MemoryUse, Reason, TrialSpec

PATIENCE_S = 60
"""How long a waiting trial waits before it gives up (and its test fails)."""


@dataclass(frozen=True)
class Play:
    """Does what the trial's configuration says in ``do``, and leaves notes in the trial's directory.

    ``run``: epochs up to the budget; ``raise``, ``infeasible``, ``full``, ``exit``, ``killed``, ``hang``: one epoch,
    then that; ``starved``: killed, and the file ``vmstat`` counts it; ``creep``: epochs of 0.2 seconds without end;
    ``mark``: notes each epoch that begins; ``wait``: the first epoch comes when the file ``go`` is there; ``refuse``:
    raises when called.
    """

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        if spec.configuration["do"] == "refuse":
            raise ValueError("refused on purpose")
        return self._epochs(spec)

    def _epochs(self, spec: TrialSpec) -> Iterator[EpochResult]:
        do, epoch = spec.configuration["do"], 0
        try:
            for epoch in range(1, spec.epochs + 1):
                began = time.monotonic()
                if do == "mark":
                    note(spec.directory, f"began {spec.number} epoch {epoch}")
                if do == "wait":
                    wait_for(spec.directory / "go")
                if do == "raise" and epoch == 2:
                    user_code()
                if do == "infeasible" and epoch == 2:
                    raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "batch does not fit")
                if do == "full" and epoch == 2:
                    raise StorageError("no room")
                if do == "exit" and epoch == 2:
                    os._exit(1)
                if do == "killed" and epoch == 2:
                    os.kill(os.getpid(), signal.SIGKILL)
                if do == "starved" and epoch == 2:
                    name, count = (spec.directory / "vmstat").read_text().split()
                    (spec.directory / "vmstat").write_text(f"{name} {int(count) + 1}\n")
                    os.kill(os.getpid(), signal.SIGKILL)
                if do == "hang" and epoch == 2:
                    note(spec.directory, f"pid {os.getpid()}")
                    time.sleep(PATIENCE_S)
                if do == "creep":
                    time.sleep(0.2)
                yield EpochResult(epoch, spec.number + epoch / 100, {"pid": float(os.getpid()), "began": began})
        except GeneratorExit:
            note(spec.directory, f"closed {spec.number} after epoch {epoch}")
            raise
        note(spec.directory, f"finished {spec.number}")


@dataclass(frozen=True)
class Hold:
    """Holds ``mb`` megabytes of the machine's memory for its epochs, and measures it.

    With ``gpu``, so many gigabytes of a card of 10 are told to have been measured instead. With ``whole`` it is out
    of memory unless Ray gave it a whole card; with ``until`` it waits for that file. It leaves a note that it began;
    the metrics say when, and what Ray gave.
    """

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        began = time.monotonic()
        note(spec.directory, f"began{spec.number}")
        meter = MemoryMeter(torch.device("cpu"))
        held = torch.ones(int(spec.configuration["mb"]) * 1024**2, dtype=torch.uint8)
        if "whole" in spec.configuration and given()["GPU"] < 1:
            raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "CUDA out of memory, on purpose")
        memory = meter.read()
        if "gpu" in spec.configuration:
            peak = int(float(spec.configuration["gpu"]) * 1e9)
            memory = (MemoryUse("gpu", peak, 10_000_000_000, 1_000_000_000),)
        for epoch in range(1, spec.epochs + 1):
            if "until" in spec.configuration:
                wait_for(spec.directory / str(spec.configuration["until"]))
            metrics = {**given(), "threads": threads(), "began": began}
            yield EpochResult(epoch, float(held[0]), metrics, memory=memory)


def given() -> dict[str, float]:
    """What Ray has given to this worker; nothing where it is none of Ray's."""
    import ray

    return ray.get_runtime_context().get_assigned_resources() if ray.is_initialized() else {}


def threads() -> float:
    """What libraries of the user's code that read it take for the number of their threads."""
    return float(os.environ["OMP_NUM_THREADS"])


def user_code() -> None:
    """Stands for a line of the user's that is wrong."""
    raise ValueError("broken on purpose")


def wait_for(path: Path) -> None:
    """Return when ``path`` exists."""
    limit = time.monotonic() + PATIENCE_S
    while not path.exists():
        if time.monotonic() > limit:
            raise TimeoutError(f"{path} never came")
        time.sleep(0.01)


def note(folder: Path, text: str) -> None:
    """Leave an empty file named ``text``."""
    (folder / text).touch()


def notes(folder: Path) -> list[str]:
    """What trials left in ``folder``."""
    return sorted(path.name for path in folder.iterdir() if " " in path.name)
