"""Nothing of a private Ray listens beyond this machine."""

import ipaddress
from pathlib import Path

import psutil
import pytest

from orchestrator.config.schema import TaskConfig, TrainerConfig
from orchestrator.runners.base import Runner
from orchestrator.trial import TrainingProgram
from orchestrator.types import Decision, EpochResult, Outcome, TrialSpec

Socket = tuple[str, str, int]
"""Process name, address, port."""


def listening() -> set[Socket]:
    """Every listening TCP socket of this process and of all it started."""
    here = psutil.Process()
    found: set[Socket] = set()
    for process in [here, *here.children(recursive=True)]:
        try:
            for connection in process.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    found.add((process.name(), connection.laddr.ip, connection.laddr.port))
        except psutil.NoSuchProcess:
            continue
    return found


def is_loopback(address: str) -> bool:
    """Also for an IPv4 address in IPv6 form (``::ffff:127.0.0.1``)."""
    found = ipaddress.ip_address(address)
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


class Watcher:
    """Runs one trial and looks at the sockets while its worker is up."""

    def __init__(self, folder: Path) -> None:
        self.waiting = [TrialSpec(0, "lr", {}, seed=0, epochs=1, directory=folder, keep=False)]
        self.seen: set[Socket] = set()

    def ask(self) -> TrialSpec | None:
        return self.waiting.pop() if self.waiting else None

    def report(self, number: int, result: EpochResult) -> Decision:
        self.seen |= listening()
        return Decision.CONTINUE

    def tell(self, number: int, outcome: Outcome) -> None:
        pass

    def commit(self) -> None:
        pass


@pytest.mark.timeout(120)
def test_ray_listens_on_loopback_only(ray_runner: Runner, tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    task = TaskConfig(name="diabetes", target="orchestrator.tasks.tabular.Diabetes")
    ray_runner.run(TrainingProgram(task, TrainerConfig(epochs=1), threads=1), watcher)
    names = {name for name, _, _ in watcher.seen}
    assert {"gcs_server", "raylet"} <= names, "Ray's own processes were not found"
    beyond = [socket for socket in watcher.seen if not is_loopback(socket[1])]
    assert beyond == []
