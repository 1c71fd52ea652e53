"""The first rank of a trial on several ranks, and what it knows of the others.

The first rank is the trial's own worker process, wherever a runner placed it. The others are processes that a runner
starts for it (:func:`use_peers`): on the same machine if nobody says otherwise. They end with it, and stay for the
next trial as long as all are in step.
"""

import atexit
import fcntl
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

from orchestrator.errors import InfeasibleTrialError
from orchestrator.process import WorkerProcess
from orchestrator.training.parallel import Rank
from orchestrator.types import End, Outcome, Reason, TrialSpec

ANSWER_S = 60.0
"""Seconds that the other ranks have to say how they ended, after one has failed. Our guess: Ray takes up to half a
minute to find that a node is gone."""
JOIN_S = 120.0
"""Seconds that all ranks have to meet, and that one waits for the others in a step: our guess."""
SIOCGIFADDR = 0x8915
"""Linux, ``netdevice(7)``: asks for the address of an interface."""
_OF_OTHERS = re.compile(r"gloo|Connection (closed|reset)|NCCL|process ?group|Socket", re.IGNORECASE)
"""How PyTorch's collectives say that another rank is gone."""


class Peer(Protocol):
    """Another rank, as the first one sees it."""

    @property
    def alive(self) -> bool:
        """Whether its process runs, as far as is known."""
        ...

    def call(self, name: str, *arguments: Any) -> None:
        """Ask it for something."""
        ...

    def answered(self, timeout_s: float | None) -> bool:
        """Wait for its answer, or its death, for no longer than ``timeout_s`` seconds; None: as long as it takes."""
        ...

    def answer(self) -> Outcome | None:
        """How what it was asked for failed, or how it died; None: it did it."""
        ...

    def kill(self) -> None:
        """End it, at once."""
        ...


@dataclass(frozen=True)
class Peers:
    """The other ranks of a trial, just started; each answers once it is up."""

    address: str
    """Where they reach this one: an IPv4 address of this machine."""
    others: Sequence[Peer]


class LocalPeer:
    """A process on this machine; see :class:`Peer`."""

    def __init__(self) -> None:
        self._process = WorkerProcess("orchestrator.ranks", own_group=False)
        self.call = self._process.call
        self.kill = self._process.kill

    @property
    def alive(self) -> bool:
        """See :class:`Peer`."""
        return self._process.alive

    def answered(self, timeout_s: float | None) -> bool:
        """See :class:`Peer`."""
        return self._process.connection.poll(timeout_s)

    def answer(self) -> Outcome | None:
        """See :class:`Peer`."""
        try:
            answer: Outcome | None = self._process.connection.recv()
        except (EOFError, ConnectionResetError):
            return self._process.death()
        return answer


def local_peers(count: int) -> Peers:
    """Start ``count`` more ranks on this machine. Nothing listens beyond loopback."""
    return Peers("127.0.0.1", [LocalPeer() for _ in range(count)])


_start_peers: Callable[[int], Peers] = local_peers


def use_peers(start: Callable[[int], Peers]) -> None:
    """Let ``start`` start the other ranks of this process's trials; it is told how many."""
    global _start_peers
    _start_peers = start


@dataclass(frozen=True)
class Meeting:
    """Where ranks meet: the store that the first one holds."""

    address: str
    port: int
    size: int
    """How many meet."""


def join(meeting: Meeting, rank: int, listener: socket.socket | None = None) -> Rank:
    """Meet the other ranks.

    Args:
        meeting: where.
        rank: which one this is.
        listener: for the first rank: what listens there.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # Nothing is sent: this only looks up by which of our addresses that one is reached.
        probe.connect((meeting.address, meeting.port))
        own = interface(probe.getsockname()[0])
    for library in ("GLOO", "NCCL"):
        if own is not None:
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", own)
    store = dist.TCPStore(  # type: ignore[attr-defined]
        meeting.address,
        meeting.port,
        meeting.size,
        is_master=listener is not None,
        timeout=timedelta(seconds=JOIN_S),
        wait_for_workers=False,
        master_listen_fd=None if listener is None else listener.detach(),
    )
    store.set(f"card/{rank}", card(rank))
    cards = [store.get(f"card/{other}").decode() for other in range(meeting.size)]
    dist.init_process_group(
        backend(cards), store=store, rank=rank, world_size=meeting.size, timeout=timedelta(seconds=JOIN_S)
    )
    return Rank(rank, meeting.size)


def interface(address: str) -> str | None:
    """The network interface with this IPv4 address; None: there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            try:
                found = fcntl.ioctl(asked, SIOCGIFADDR, struct.pack("256s", name.encode()))
            except OSError:
                # It has no such address.
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None


def card(rank: int) -> str:
    """Which GPU this rank trains on, by a name that no other card has; empty: none. Takes it."""
    if not torch.cuda.is_available():
        return ""
    index = rank % torch.cuda.device_count()
    torch.cuda.set_device(index)
    return str(torch.cuda.get_device_properties(index).uuid)


def backend(cards: Sequence[str]) -> str:
    """PyTorch's name of what ranks with these cards talk through: NCCL needs a card for each."""
    return "cpu:gloo,cuda:nccl" if all(cards) and len(set(cards)) == len(cards) else "gloo"


class Team(Rank):
    """The first of ``size`` ranks, with the processes of the others."""

    def __init__(self, size: int) -> None:
        super().__init__(0, size)
        peers = _start_peers(size - 1)
        self._others = peers.others
        self._waiting: set[int] = set(range(size - 1))
        """Those of the others that have been asked and have not answered."""
        try:
            self._settle()
            with socket.create_server((peers.address, 0)) as listener:
                meeting = Meeting(peers.address, listener.getsockname()[1], size)
                for index, other in enumerate(self._others):
                    other.call("join", meeting, index + 1)
                    self._waiting.add(index)
                join(meeting, 0, listener)
            self._settle()
        except BaseException:
            self.close()
            raise

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
        peer = self._others[index]
        if not peer.answered(timeout_s):
            return Outcome(End.FAILED, Reason.HANG, f"it said nothing for {timeout_s:g} seconds")
        answer = peer.answer()
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
