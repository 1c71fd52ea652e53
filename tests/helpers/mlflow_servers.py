"""A real MLflow server that can be killed and started again, and a proxy that does what can go wrong on the way.

Also for ``benchmarks/chaos.py``.
"""

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

START_S = 60.0
DELAY_S = 0.05


def free_port() -> int:
    """A port of this machine that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


class Server:
    """An MLflow server with an SQLite store in ``folder``, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, without waiting for it."""
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{self._folder / 'server.db'}"]
        words += ["--artifacts-destination", str(self._folder / "artifacts")]
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *words],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            )

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"MLflow did not start: {(self._folder / 'server.log').read_text()}")
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL for it and its own workers."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *words: object) -> None:
        """Nothing: a client that no longer waits for its answer is what the tests are about."""


class Proxy:
    """Stands before an MLflow server; ``mode`` is what it does with requests.

    ``well``: passes them on; ``slow``: after a while; ``error``: answers 503; ``garbage``: answers with a page of
    something else; ``cut``: passes them on and loses the answer; ``deaf``: never answers.
    """

    def __init__(self, port: int) -> None:
        self.mode = "well"
        self.seen = 0
        """Requests that were not treated well."""
        self._server = _Quiet(("127.0.0.1", 0), _handler(self, port))
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy, port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _pass_on(self) -> None:
            mode = proxy.mode
            proxy.seen += mode != "well"
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if mode == "deaf":
                time.sleep(START_S)
                return
            if mode in ("error", "garbage"):
                self._answer(503 if mode == "error" else 200, b"<html>the wrong page</html>", "text/html")
                return
            if mode == "slow":
                time.sleep(DELAY_S)
            there = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "host"}
            there.request(self.command, self.path, body, headers)
            answer = there.getresponse()
            content = answer.read()
            there.close()
            if mode != "cut":
                self._answer(answer.status, content, answer.headers.get("Content-Type", "application/json"))

        def _answer(self, status: int, content: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass_on  # noqa: N815

        def log_message(self, *words: object) -> None:
            """Nothing: the tests' output is not for it."""

    return Handler
