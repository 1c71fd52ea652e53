"""A worker process, as the one that started it sees it, and what its death means."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from orchestrator import start
from orchestrator.types import End, Outcome, Reason

OOM_COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Where Linux counts the processes that it killed for want of memory: the machine's, and the container's."""
KILLED_FOR_MEMORY = Outcome(End.FAILED, Reason.HOST_OUT_OF_MEMORY, "the kernel killed the worker: no memory was left")
"""How the trial ended whose worker they count."""
CLOSE_S = 5.0
"""Seconds that an idle worker has to end by itself: our guess."""


class WorkerProcess:
    """A process that runs :mod:`orchestrator.start`.

    Args:
        module: its ``serve`` works for us.
        own_group: whether it and what it starts are a process group of their own, which ends with it; else they end
            with ours.
        environment: variables; None: ours.
    """

    def __init__(self, module: str, *, own_group: bool = True, environment: Mapping[str, str] | None = None) -> None:
        self.connection, theirs = Pipe(duplex=True)
        # Not by multiprocessing, which imports the command's own main module in every process: seconds.
        words = [module, str(theirs.fileno()), str(os.getpid()), json.dumps(sys.path)]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", start.__file__, *words],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0 if own_group else None,
                env=environment,
            )
        self._own_group = own_group
        self._killed_before = killed_for_memory()

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process.poll() is None

    def call(self, name: str, *arguments: Any) -> None:
        """Ask for a call of the worker; one that is dead is found out by reading."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send((name, *arguments))

    def kill(self) -> None:
        """End it and all it started, at once."""
        with suppress(ProcessLookupError):
            if self._own_group:
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        self.connection.close()

    def close(self) -> None:
        """Let it end; kill it if it does not."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(CLOSE_S)
        self.kill()

    def death(self) -> Outcome:
        """What its death means for its trial; waits for it."""
        code = self._process.wait()
        if code == -signal.SIGKILL and killed_for_memory() > self._killed_before:
            return KILLED_FOR_MEMORY
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Outcome(End.FAILED, Reason.WORKER_DIED, f"its worker process {self._process.pid} {how}")


def killed_for_memory() -> int:
    """How many processes the kernel has killed for want of memory, by every counter that can be read."""
    total = 0
    for path in OOM_COUNTERS:
        try:
            lines = path.read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total
