"""``stage=ui``: MLflow's pages for the command's store, on this machine only."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.stages.sweep import Plan
from orchestrator.tracking.address import tracking_uri
from orchestrator.tracking.mlflow_entities import review_pages

_HOST = "127.0.0.1"
_START_S = 120.0
"""Seconds that MLflow may take until it answers: it upgrades an older store's tables first."""


def serve_ui(plan: Plan, say: Callable[[str], None] = print) -> None:
    """Start MLflow's server, say its address, and wait until Ctrl-C (or SIGTERM) ends both.

    Raises:
        ConfigError: there is no such store, or the port is taken.
        OrchestratorError: the server ended by itself.
    """
    config = plan.config
    uri = tracking_uri(config)
    if uri.startswith(("http://", "https://")):
        say("MLflow runs as a server already: open the address given as tracking.uri")
        return
    file = uri.removeprefix("sqlite:///")
    if file != uri and not Path(file).exists():
        raise ConfigError(f"nothing is tracked yet in {file}: run a stage first, or give sweep.dir or tracking.uri")
    _check_port(config.ui.port)
    # The address by environment: it may hold a password, and a process's words are public.
    environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_DISABLE_TELEMETRY": "true"}
    words = [sys.executable, "-m", "mlflow", "server", "--host", _HOST, "--port", str(config.ui.port)]
    before = signal.signal(signal.SIGTERM, _interrupt)
    process = subprocess.Popen(
        [*words, "--workers", "1"],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for(process, config.ui.port)
        address = f"http://{_HOST}:{config.ui.port}"
        say(f"MLflow: {address} (Ctrl-C ends it)")
        for view, below in review_pages(uri, plan.config.task.name, minimize=plan.task.direction.cost(1.0) > 0):
            say(f"  {view}: {address}{below}")
        _ended(process.wait())
    except KeyboardInterrupt:
        say("MLflow is stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
        _stop(process)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise ConfigError(f"ui.port={port}: {error.strerror}; give another one: ui.port={port + 1}") from None


def _wait_for(process: "subprocess.Popen[bytes]", port: int) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        if process.poll() is not None:
            _ended(process.returncode)
        try:
            with urllib.request.urlopen(f"http://{_HOST}:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise OrchestratorError(f"MLflow's server does not answer on port {port} after {_START_S:.0f} s")


def _ended(code: int) -> None:
    raise OrchestratorError(
        f"MLflow's server ended by itself with exit code {code}; to see why: mlflow ui --backend-store-uri URI"
    )


def _stop(process: "subprocess.Popen[bytes]") -> None:
    """End the server and its workers; they are a process group of their own."""
    try:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=10)
    except ProcessLookupError:
        return
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
