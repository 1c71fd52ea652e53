"""The processes that are killed: drivers and their workers.

A driver is forked from the benchmark, which has imported everything: the imports are paid once, and what is killed
is a process like any other.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from leftovers import Belongings, workers

from chaos_methods.task import DRIVER


def fork(body: Callable[[], int], output: Path, environment: dict[str, str] | None = None) -> int:
    """Run ``body`` in a child, with what it prints appended to ``output``; returns the process id."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.environ.update({DRIVER: str(os.getpid()), **(environment or {})})
        handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = body()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def in_child(body: Callable[[], Any], folder: Path) -> Any:
    """What ``body`` returns (as JSON can hold it), computed in a child: this process imports and opens nothing."""
    answer = folder / "answer.json"

    def write() -> int:
        answer.write_text(json.dumps(body()))
        return 0

    code = wait(fork(write, folder / "checks.log"))
    if code != 0:
        raise RuntimeError(f"the check failed: {(folder / 'checks.log').read_text()}")
    return json.loads(answer.read_text())


def wait(process: int, until: float = float("inf")) -> int | None:
    """The exit code of a child, negative for a signal; None if it still runs at ``until`` (monotonic)."""
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.01)


def kill_worker(driver: int, rng: random.Random) -> bool:
    """Kill one of the driver's workers; False if it has none."""
    found = workers(driver)
    if not found:
        return False
    try:
        rng.choice(found).kill()
    except psutil.NoSuchProcess:
        return False
    return True


def kill_driver(driver: int) -> list[str]:
    """Kill the driver; what is left behind of it."""
    belongings = Belongings.of(driver)
    os.kill(driver, signal.SIGKILL)
    wait(driver)
    return belongings.left()
