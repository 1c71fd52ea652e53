"""What runs in the process of a rank that is not the first; see :mod:`orchestrator.training.team`."""

import os
import pickle
from multiprocessing.connection import Connection

from orchestrator.training.loop import Loop
from orchestrator.training.parallel import Rank
from orchestrator.training.team import Meeting, join
from orchestrator.trial import TrainingProgram, failure, named
from orchestrator.types import Outcome, Reason, TrialSpec

IN_STEP = (Reason.NON_FINITE, Reason.DIVERGED)
"""Ends of a trial that all ranks see in the same step."""


class Follower:
    """Does what the first rank asks for; each method gives None, or how it failed."""

    def __init__(self) -> None:
        self._rank: Rank | None = None
        self._loop: Loop | None = None

    def join(self, meeting: Meeting, rank: int) -> None:
        """Meet the other ranks."""
        self._rank = join(meeting, rank)

    def begin(self, program: bytes, spec: TrialSpec) -> None:
        """Build the trial, as the first rank does at the same time."""
        assert self._rank is not None
        trained: TrainingProgram = pickle.loads(program)
        self._loop = None
        self._loop = trained.follow(spec, self._rank)

    def epoch(self) -> None:
        """Train an epoch, as the first rank does at the same time."""
        assert self._loop is not None
        self._loop.follow()


def serve(descriptor: int) -> None:
    """Follow the first rank at the other end of ``descriptor`` until it closes it, or is gone."""
    connection, follower = Connection(descriptor), Follower()
    try:
        connection.send(None)
        while True:
            call, *arguments = connection.recv()
            failed = _attempt(follower, call, arguments)
            connection.send(failed)
            if failed is not None and failed.reason not in IN_STEP:
                # The others wait for this rank until its end of their connections is gone.
                os._exit(0)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        # The first rank is gone, and nothing that user code left behind may keep us.
        os._exit(0)


def _attempt(follower: Follower, call: str, arguments: list[object]) -> Outcome | None:
    try:
        getattr(follower, call)(*arguments)
    except Exception as error:
        return failure(named(error))
    return None
