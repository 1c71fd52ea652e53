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
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from chaos_methods.task import DRIVER

ORPHAN_S = 15.0
"""Seconds in which the processes of a killed driver must be gone: our guess."""
RAY_AGENTS = ("dashboard/agent.py", "runtime_env/agent/main.py", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's helpers, which run no trial. When Ray is killed they end by themselves, but after a minute, in which they try
to report it (``publish_error_to_driver``): here they are ended, and not counted."""


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


def descendants(process: int) -> list[psutil.Process]:
    """All processes below ``process``."""
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(driver: int) -> list[psutil.Process]:
    """The processes in which trials run, now."""
    return [process for process in descendants(driver) if _is_worker(process)]


def _is_worker(process: psutil.Process) -> bool:
    words = _words(process)
    return "orchestrator.runners.worker" in words or words.startswith("ray::TrialWorker")


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


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
    """Kill the driver; what of it is left after a while."""
    below = {process: _words(process) for process in descendants(driver)}
    os.kill(driver, signal.SIGKILL)
    wait(driver)
    agents = [process for process, words in below.items() if any(agent in words for agent in RAY_AGENTS)]
    _, alive = psutil.wait_procs([process for process in below if process not in agents], timeout=ORPHAN_S)
    for process in (*alive, *agents):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    return [below[process] for process in alive]
