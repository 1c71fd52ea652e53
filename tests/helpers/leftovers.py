"""What the processes of a command leave behind: found by looking."""

import socket
from dataclasses import dataclass
from pathlib import Path

import psutil

GONE_S = 10.0
"""Seconds that processes have to end."""
RAY_GONE_S = 60.0
"""The same for Ray's: a worker that is just starting looks for its node for a while."""
RAY_AGENTS = ("dashboard/agent.py", "runtime_env/agent/main.py", "ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""Ray's helpers, which run no trial. When Ray is killed they end by themselves, but after a minute, in which they try
to report it (``publish_error_to_driver``): they are ended here, and not counted."""


def words(process: psutil.Process) -> str:
    """The command line; empty if the process is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def descendants(process: int) -> list[psutil.Process]:
    """All processes below ``process``."""
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def workers(driver: int) -> list[psutil.Process]:
    """The processes in which trials run, now."""
    return [process for process in descendants(driver) if _is_worker(words(process))]


def _is_worker(line: str) -> bool:
    return "orchestrator/start.py" in line or line.startswith("ray::TrialWorker")


@dataclass(frozen=True)
class Belongings:
    """Processes, ports and files of shared memory below a driver."""

    processes: dict[psutil.Process, str]
    ports: set[int]
    shared: set[Path]

    @classmethod
    def of(cls, driver: int) -> "Belongings":
        """What there is now."""
        processes = {process: words(process) for process in descendants(driver)}
        everyone = [*processes, psutil.Process(driver)]
        ports = {port for process in everyone for port in _listening(process)}
        return cls(processes, ports, {path for process in everyone for path in _shared(process)})

    def left(self) -> list[str]:
        """What of it is still there, once it had time to go; Ray's agents (see above) are ended."""
        agents = [p for p, line in self.processes.items() if any(agent in line for agent in RAY_AGENTS)]
        patience = RAY_GONE_S if any("raylet" in line for line in self.processes.values()) else GONE_S
        _, alive = psutil.wait_procs([p for p in self.processes if p not in agents], timeout=patience)
        found = [f"process {process.pid}: {self.processes[process]}" for process in alive]
        for process in (*alive, *agents):
            if process.is_running():
                process.kill()
        psutil.wait_procs(agents, timeout=GONE_S)
        return found + [f"port {port}" for port in self.ports if _answers(port)] + [
            str(path) for path in self.shared if path.exists()
        ]  # fmt: skip


def _listening(process: psutil.Process) -> list[int]:
    try:
        return [c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _shared(process: psutil.Process) -> list[Path]:
    try:
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
    except OSError:
        return []
    found = [line.split(maxsplit=5)[5] for line in lines if " /dev/shm/" in line]
    return [Path(path.removesuffix(" (deleted)")) for path in found]
