"""Logical Ray workers: many asynchronous ones in a few processes.

An empty Ray actor takes 130 MB, so 256 of them do not fit a small machine. The logical ones answer Tune's event loop
as actors would: its calls, futures and messages are real, and only the processes behind them are shared.
"""

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import ray

from orchestrator.runners import tune
from orchestrator.types import End, EpochResult, Outcome, TrialSpec, Work
from scale_methods.curve import metrics, value_of

PROCESSES = 4
"""Host processes of the logical workers: our choice."""


class _Host:
    """Plays many workers (:class:`~orchestrator.runners.worker.TrialWorker`) at once."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._trials: dict[int, tuple[TrialSpec, int]] = {}

    async def ready(self) -> None:
        """It is there."""

    async def step(self, worker: int, spec: TrialSpec | None = None) -> dict[str, Any]:
        """One epoch, or the end of the trial."""
        asked = time.monotonic()
        known, epoch = self._trials[worker] if spec is None else (spec, 0)
        if epoch >= known.epochs:
            return {"outcome": Outcome(End.FINISHED, work=Work(time.monotonic() - asked)), "done": True}
        await asyncio.sleep(self._seconds)
        self._trials[worker] = (known, epoch + 1)
        value = value_of(known.configuration, known.seed, epoch + 1)
        work = Work(time.monotonic() - asked)
        return {"epoch_result": EpochResult(epoch + 1, value, metrics(self._seconds), work=work), "done": False}

    async def end(self, worker: int) -> Work:
        """End the trial early."""
        return Work(0.0)


class _Method:
    """A method of a logical worker, as Ray would hold it."""

    def __init__(self, handle: Any, *bound: Any) -> None:
        self._handle, self._bound = handle, bound

    def options(self, **_: Any) -> "_Method":
        return self

    def remote(self, *arguments: Any) -> Any:
        return self._handle.remote(*self._bound, *arguments)


class _Worker:
    """What Tune holds of a logical worker: an actor's handle to look at."""

    def __init__(self, host: Any, number: int) -> None:
        self._host, self._number = host, number

    def __getattr__(self, name: str) -> _Method:
        if name == "__ray_ready__":
            return _Method(self._host.ready)
        return _Method(getattr(self._host, name), self._number)


class _WorkerClass:
    """What ``ray.remote(TrialWorker)`` gives, of logical workers."""

    # Tune would wrap what is no actor class.
    __class__ = ray.actor.ActorClass  # type: ignore[assignment]

    def __init__(self, seconds: float, workers: int) -> None:
        host = ray.remote(_Host).options(num_cpus=0, max_concurrency=workers + 1)
        self._hosts = [host.remote(seconds) for _ in range(PROCESSES)]
        ray.get([one.ready.remote() for one in self._hosts])
        self._made = 0

    def options(self, **_: Any) -> "_WorkerClass":
        return self

    def remote(self, **_: Any) -> _Worker:
        self._made += 1
        return _Worker(self._hosts[self._made % PROCESSES], self._made)


def use_logical_workers(seconds: float, workers: int) -> None:
    """From now on Tune's loop gets logical workers, whose epochs take ``seconds``."""
    made = _WorkerClass(seconds, workers)
    # The module's own view of Ray, in this process only: making and killing actors is all it does with it here.
    tune.ray = SimpleNamespace(**{**vars(ray), "remote": lambda *_, **__: made, "kill": lambda _: None})
