"""The first rank of a trial on several ranks, and the processes of the others.

The first rank is the trial's own worker process, wherever a runner placed it; the others are started by it, on the
same machine, and end with it. They stay for the next trial as long as all are in step.
"""

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from orchestrator.errors import InfeasibleTrialError
from orchestrator.process import WorkerProcess
from orchestrator.training.parallel import Rank
from orchestrator.types import End, Outcome, Reason, TrialSpec

ANSWER_S = 20.0
"""Seconds that the other ranks have to say how they ended, after one has failed: our guess."""
JOIN_S = 120.0
"""Seconds that all ranks have to meet: our guess."""
_OF_OTHERS = re.compile(r"gloo|Connection (closed|reset)|NCCL|process ?group|Socket", re.IGNORECASE)
"""How PyTorch's collectives say that another rank is gone."""


def join(store: Path, rank: int, size: int) -> Rank:
    """Meet the other ranks through the file ``store``. Nothing listens beyond loopback."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    gpus = torch.cuda.device_count() >= size
    if gpus:
        torch.cuda.set_device(rank)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        store=dist.FileStore(str(store), size),  # type: ignore[attr-defined]
        rank=rank,
        world_size=size,
        timeout=timedelta(seconds=JOIN_S),
    )
    return Rank(rank, size)


class Team(Rank):
    """The first of ``size`` ranks, with the processes of the others."""

    def __init__(self, size: int) -> None:
        super().__init__(0, size)
        self._others = [WorkerProcess("orchestrator.ranks", own_group=False) for _ in range(size - 1)]
        self._waiting: set[int] = set(range(size - 1))
        """Those of the others that have been asked and have not answered."""
        folder = Path(tempfile.mkdtemp(prefix="orchestrator-ranks-"))
        try:
            self._settle()
            for rank in range(1, size):
                self._others[rank - 1].call("join", folder / "store", rank, size)
                self._waiting.add(rank - 1)
            join(folder / "store", 0, size)
            self._settle()
        except BaseException:
            self.close()
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    @property
    def whole(self) -> bool:
        """Whether all are there."""
        return all(other.alive for other in self._others)

    def call(self, name: str, *arguments: Any) -> None:
        """Ask all others for something."""
        for index, other in enumerate(self._others):
            other.call(name, *arguments)
            self._waiting.add(index)

    def begin_epoch(self) -> None:
        """See :class:`Group`."""
        self._settle()
        self.call("epoch")

    def end_epoch(self) -> None:
        """See :class:`Group`."""
        self._settle()

    def _settle(self) -> None:
        """Wait for all answers.

        Raises:
            InfeasibleTrialError: one failed, or died.
        """
        for index in sorted(self._waiting):
            failed = self._answer(index, None)
            if failed is not None:
                raise self._error(index, failed)

    def _answer(self, index: int, timeout_s: float | None) -> Outcome | None:
        """How the rank failed; None: it did not. Waits no longer than ``timeout_s`` seconds."""
        process = self._others[index]
        try:
            if not process.connection.poll(timeout_s):
                return Outcome(End.FAILED, Reason.HANG, f"it said nothing for {timeout_s:g} seconds")
            answer: Outcome | None = process.connection.recv()
        except (EOFError, ConnectionResetError):
            answer = process.death()
        self._waiting.discard(index)
        return answer

    def _error(self, index: int, outcome: Outcome) -> InfeasibleTrialError:
        assert outcome.reason is not None
        died = outcome.reason in (Reason.WORKER_DIED, Reason.HOST_OUT_OF_MEMORY)
        detail = f"rank {index + 1}: {outcome.detail}" if died else outcome.detail
        return InfeasibleTrialError(outcome.reason, detail)

    def cause(self, error: Exception) -> Exception:
        """What ended a trial that ended with ``error`` here: perhaps another rank, which is only felt here.

        The team is given up, unless all ranks ended alike.
        """
        if not isinstance(error, InfeasibleTrialError) and not _felt(error):
            self.close()
            return error
        failed = {index: self._answer(index, ANSWER_S) for index in sorted(self._waiting)}
        ends = {None if each is None else each.reason for each in failed.values()}
        # All have failed like this rank, or have ended the epoch that this one did not like.
        if isinstance(error, InfeasibleTrialError) and ends in ({error.reason}, {None}, set()):
            return error
        self.close()
        known = {index: each for index, each in failed.items() if each is not None}
        for index, each in sorted(known.items(), key=lambda item: item[1].reason is Reason.USER_ERROR):
            if each.reason is not Reason.USER_ERROR or not _OF_OTHERS.search(each.detail.splitlines()[0]):
                return self._error(index, each)
        return error

    def close(self) -> None:
        """End the other ranks, at once."""
        for other in self._others:
            other.kill()
        if dist.is_initialized():
            dist.destroy_process_group()


def _felt(error: Exception) -> bool:
    return isinstance(error, RuntimeError) and bool(_OF_OTHERS.search(str(error)))


_team: Team | None = None


@contextmanager
def together(size: int, program: bytes, spec: TrialSpec) -> Iterator[Team]:
    """The first of ``size`` ranks for one trial; the others run it, too.

    Args:
        size: ranks.
        program: a pickled program with ``follow``.
        spec: the trial.

    Raises:
        InfeasibleTrialError: what ended the trial, on whichever rank. A rank that died is a worker that died.
    """
    global _team
    if _team is not None and not (_team.whole and _team.size == size):
        _team.close()
        _team = None
    if _team is None:
        _team = Team(size)
    try:
        _team.call("begin", program, spec)
        yield _team
        _team.end_epoch()
    except Exception as error:
        cause = _team.cause(error)
        if not _team.whole:
            _team = None
        raise cause from None


@atexit.register
def _end() -> None:
    if _team is not None:
        _team.close()
