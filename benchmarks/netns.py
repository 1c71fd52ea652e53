"""Two hosts with addresses of their own, their cable pulled and put back: python benchmarks/netns.py [ranks] (root).

Two network namespaces on one machine stand for two hosts, a pair of virtual devices for the cable. Ray's head and
the command are in the first, with two CPUs; a node with two more is in the second. In the middle of a sweep the cable
is pulled for longer than Ray's health checks wait, and put back; a node is started there again, as a cluster's
manager would. Prints what was placed where, and whether anything was lost or doubled. Not part of CI: it needs root.

With ``ranks`` each host has one CPU, and each trial two ranks, one on each: the cable is cut under a trial.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from killed_sweeps import trials  # noqa: E402

HEAD, NODE = "10.213.7.1", "10.213.7.2"
"""Inside the namespaces only."""
TOKEN = secrets.token_hex(32)
RANKS = "ranks" in sys.argv[1:]
TRIALS, EPOCHS, EPOCH_S = (3, 12, 1.0) if RANKS else (16, 12, 1.0)
TASK = f"""
import json, subprocess, time
import torch.distributed as dist
from orchestrator.tasks.tabular import BreastCancer

class Placed(BreastCancer):
    noted = 0.0

    def note(self, rank):
        self.noted = time.time()
        here = subprocess.run(["hostname", "-I"], capture_output=True, text=True).stdout.strip()
        with open("{{log}}", "a") as file:
            file.write(json.dumps({{{{"host": here, "rank": rank, "at": self.noted}}}}) + chr(10))

    def score(self, predictions, targets):
        import ray
        if ray.is_initialized():
            time.sleep({EPOCH_S})
            self.note(0)
        return super().score(predictions, targets)

    def loss(self, outputs, targets, label_smoothing=0.0):
        # The other rank is at its first step of an epoch where it waited for the first to score.
        if dist.is_initialized() and dist.get_rank() and time.time() > self.noted + {EPOCH_S}:
            self.note(1)
        return super().loss(outputs, targets, label_smoothing)
"""


class Hosts:
    """The two namespaces, with a cable."""

    def __init__(self) -> None:
        self.names = [f"orc-{os.getpid()}-{end}" for end in ("head", "node")]
        cable = [f"orc{os.getpid() % 10**6}{end}" for end in "ab"]
        self._cable = cable
        for name in self.names:
            _do("ip", "netns", "add", name)
        _do("ip", "link", "add", cable[0], "type", "veth", "peer", "name", cable[1])
        for name, device, address in zip(self.names, cable, (HEAD, NODE), strict=True):
            _do("ip", "link", "set", device, "netns", name)
            _do("ip", "-n", name, "addr", "add", f"{address}/24", "dev", device)
            for each in (device, "lo"):
                _do("ip", "-n", name, "link", "set", each, "up")

    def cable(self, state: str) -> None:
        """``down`` or ``up``."""
        _do("ip", "-n", self.names[0], "link", "set", self._cable[0], state)

    def start(self, host: int, words: list[str], **kwargs: object) -> subprocess.Popen[str]:
        """Start a command on a host."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}
        # A token of this cluster's own; each node of a real one must have it too.
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "PYTHONFAULTHANDLER": "1"}
        command = ["ip", "netns", "exec", self.names[host], *words]
        return subprocess.Popen(command, env=environment, text=True, start_new_session=True, **kwargs)  # type: ignore[call-overload, no-any-return]

    def close(self) -> None:
        """End what runs on the hosts, and remove them."""
        for name in self.names:
            for process in _do("ip", "netns", "pids", name).split():
                try:
                    os.kill(int(process), 9)
                except ProcessLookupError:
                    continue
            _do("ip", "netns", "del", name)


def _do(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def ray_node(hosts: Hosts, host: int, folder: Path) -> subprocess.Popen[str]:
    """A node of Ray with two CPUs that ends with its process."""
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", f"--num-cpus={1 if RANKS else 2}"]
    memory = "--object-store-memory=100000000"
    where = (
        ["--head", "--port=6379", "--include-dashboard=false", f"--node-ip-address={HEAD}", f"--temp-dir={folder}/r0"]
        if host == 0
        else [f"--address={HEAD}:6379", f"--node-ip-address={NODE}"]
    )
    log = (folder / f"node{host}.log").open("a")
    return hosts.start(host, [*ray, memory, *where], stdout=log, stderr=log)


def main() -> int:
    """Returns the exit code: 0 if nothing was lost or doubled."""
    folder = Path(tempfile.mkdtemp(prefix="n", dir="/tmp"))
    log = folder / "epochs.jsonl"
    log.touch()
    project = folder / "project"
    project.mkdir()
    (project / "placed.py").write_text(TASK.format(log=log))
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    def epochs(after: float = 0.0, rank: int | None = None) -> Counter[str]:
        noted = [json.loads(line) for line in log.read_text().splitlines()]
        return Counter(entry["host"] for entry in noted if entry["at"] > after and rank in (None, entry["rank"]))

    def wait(text: str, holds: object, seconds: float = 360.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():  # type: ignore[operator]
            if time.monotonic() > deadline or command.poll() is not None:
                command.send_signal(signal.SIGABRT)
                time.sleep(1)
                raise SystemExit(f"not seen: {text}\n{(folder / 'command.log').read_text()}")
            time.sleep(0.2)
        say(text)

    hosts = Hosts()
    try:
        ray_node(hosts, 0, folder)
        time.sleep(8)
        ray_node(hosts, 1, folder)
        time.sleep(6)
        say(f"hosts {HEAD} (head) and {NODE} are up")
        words = [
            *("stage=lr", "task=custom", "task.name=placed", "task._target_=placed.Placed", "tracking=none"),
            *("sampler=random", "pruner=none", f"n_trials={TRIALS}", f"trainer.epochs={EPOCHS}", "recipe.repeats=0"),
            *("trainer.checkpoint_epochs=1", f"runner.address={HEAD}:6379"),
            *(["trainer.workers=2", "runner.cpus_per_trial=2"] if RANKS else []),
        ]
        with (folder / "command.log").open("w") as out:
            command = hosts.start(
                0, [sys.executable, str(ROOT / "run.py"), *words], cwd=project, stdout=out, stderr=out
            )
        wait("both hosts train", lambda: epochs()[HEAD] > 1 and epochs()[NODE] > 1)
        hosts.cable("down")
        say("cable pulled")
        wait("trials of the lost host go on", lambda: "goes on from its last" in (folder / "command.log").read_text())
        hosts.cable("up")
        restored = time.time()
        say("cable put back")
        time.sleep(3)
        ray_node(hosts, 1, folder)
        wait("the host is used again", lambda: epochs(restored + 3)[NODE] > 0)
        code = command.wait(480)
        say(f"the command has ended with exit code {code}")
        stored = trials(project / "sweeps" / "placed-seed0")
        whole = [sorted(trial["curve"]) == list(range(1, EPOCHS + 1)) for trial in stored]
        states = Counter(trial["state"] for trial in stored)
        print((folder / "command.log").read_text())
        extra = sum(epochs(rank=0).values()) - TRIALS * EPOCHS
        print(f"trials {dict(states)}, whole curves {sum(whole)} of {TRIALS}, epochs by host {dict(epochs())}")
        print(f"epochs trained again: {extra}")
        return 0 if code == 0 and states == {"COMPLETE": TRIALS} and all(whole) else 1
    finally:
        hosts.close()


if __name__ == "__main__":
    sys.exit(main())
