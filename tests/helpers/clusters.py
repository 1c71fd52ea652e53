"""A Ray cluster of several nodes on this machine, with logical CPUs and GPUs."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import Any

from ray.cluster_utils import Cluster

MEMORY = 80 * 1024**2
"""Bytes of each node's object store; Ray wants 75 MiB."""
DETECTION = {
    "health_check_initial_delay_ms": 0,
    "health_check_period_ms": 300,
    "health_check_failure_threshold": 3,
}
"""A node that dies is noticed within a second; with Ray's own settings it takes up to half a minute."""


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, on which the command runs; :func:`add_node` adds to it."""
    found = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": MEMORY, "_system_config": DETECTION},
    )
    try:
        yield found
    finally:
        found.shutdown()


@contextmanager
def folders() -> Iterator[Callable[[], str]]:
    """Makes folders for nodes. With short names: a socket's path has at most 107 letters."""
    made: list[str] = []

    def make() -> str:
        made.append(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
        return made[-1]

    yield make
    for folder in made:
        shutil.rmtree(folder)


def wait_until(holds: Callable[[], Any], what: str, command: Popen[str], seconds: float = 90.0) -> None:
    """Wait until ``holds()`` while ``command`` runs; ``what`` says what has not happened by then."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, what
        if command.poll() is not None:
            raise AssertionError(f"{what}, and the command has ended: {command.stdout and command.stdout.read()}")
        time.sleep(0.1)
