"""The SLURM script on SLURM: python benchmarks/slurm.py (root, ``apt install slurmctld slurmd slurm-client munge``).

Two network namespaces on one machine stand for two hosts with two CPUs each (``netns.py``), and SLURM's own daemons
run in them. ``examples/cluster/slurm.sh`` is submitted twice, one job after the other (``--dependency=singleton``).
The first is cancelled in the middle of its trainings; the second goes on, loses its second host in the middle of what
was left, and ends on the first. Prints what happened when, and how often each epoch was trained. Not part of CI: it
needs root.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks"), str(ROOT / "tests" / "helpers")]

from killed_sweeps import trials  # noqa: E402
from netns import HEAD, NODE, Hosts  # noqa: E402

TRIALS, EPOCHS, EPOCH_S = 16, 20, 0.5
NAMES = ("node1", "node2")
TASK = f"""
import json, socket, time
from orchestrator.tasks.tabular import BreastCancer

class Placed(BreastCancer):
    def score(self, predictions, targets):
        import ray
        if ray.is_initialized():
            time.sleep({EPOCH_S})
            with open("{{log}}", "a") as file:
                file.write(json.dumps({{{{"host": socket.gethostname(), "at": time.time()}}}}) + chr(10))
        return super().score(predictions, targets)
"""
CONF = """
ClusterName=test
SlurmctldHost=node1
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
ReturnToService=2
SlurmdTimeout=30
KillWait=30
SlurmdParameters=config_overrides
NodeName=node1 NodeAddr={head} CPUs=2 Gres=gpu:2 RealMemory=4000
NodeName=node2 NodeAddr={node} CPUs=2 Gres=gpu:2 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """SLURM's daemons on two hosts."""

    def __init__(self, hosts: Hosts, folder: Path) -> None:
        self._hosts = hosts
        self._folder = folder
        for name in ("state", "spool.node1", "spool.node2"):
            (folder / name).mkdir()
        (folder / "hosts").write_text(f"127.0.0.1 localhost\n{HEAD} node1\n{NODE} node2\n")
        (folder / "slurm.conf").write_text(CONF.format(folder=folder, head=HEAD, node=NODE))
        for number in range(2):
            (folder / f"gpu{number}").touch()
        (folder / "gres.conf").write_text(f"NodeName=node[1-2] Name=gpu File={folder}/gpu[0-1]\n")
        (folder / "cgroup.conf").touch()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        names = {"socket": "munge", "key-file": "munge.key", "pid-file": "munged.pid", "seed-file": "munge.seed"}
        paths = [f"--{name}={folder / file}" for name, file in names.items()]
        self._start(0, "munged", "--force", "--foreground", *paths, f"--log-file={folder / 'munged.log'}")
        time.sleep(2)
        self._start(0, "slurmctld", "-D", "-c")
        for host in range(2):
            self._start(host, "slurmd", "-D", "-N", NAMES[host])

    def _start(self, host: int, *words: str) -> None:
        """A daemon on a host."""
        log = (self._folder / f"{words[0]}.{host}.log").open("a")
        self._popen(host, words, stdout=log, stderr=log)

    def _popen(self, host: int, words: tuple[str, ...], **kwargs: Any) -> "subprocess.Popen[str]":
        """A process on a host that has a name and knows both. SLURM looks for control groups, which ``ip netns
        exec`` would hide."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
        environment = {**os.environ, "SLURM_CONF": str(self._folder / "slurm.conf"), "PATH": path}
        environment |= {"PYTHONPATH": f"{self._folder / 'project'}:{ROOT}", "OMP_NUM_THREADS": "1"}
        begin = 'mount --bind "$1" /etc/hosts; hostname "$2"; shift 2; exec "$@"'
        enter = ["nsenter", f"--net=/run/netns/{self._hosts.names[host]}", "unshare", "--mount", "--uts"]
        shell = ["bash", "-c", begin, "host", str(self._folder / "hosts"), NAMES[host]]
        return subprocess.Popen(
            [*enter, *shell, *words], env=environment, text=True, start_new_session=True, **kwargs
        )

    def run(self, *words: str) -> str:
        """What a command of SLURM's says on the first host."""
        process = self._popen(0, words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        output, _ = process.communicate(timeout=60)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)}: {output}")
        return str(output).strip()

    def lose(self, host: int) -> None:
        """All that runs on a host ends at once, as when its power fails."""
        name = self._hosts.names[host]
        found = subprocess.run(["ip", "netns", "pids", name], check=True, capture_output=True, text=True).stdout
        for process in found.split():
            try:
                os.kill(int(process), signal.SIGKILL)
            except ProcessLookupError:
                continue


def main() -> int:
    """Returns the exit code: 0 if nothing was lost or doubled but for the last epochs of what a lost host trained."""
    folder = Path(tempfile.mkdtemp(prefix="s", dir="/tmp"))
    log = folder / "epochs.jsonl"
    log.touch()
    project = folder / "project"
    project.mkdir()
    shutil.copy(ROOT / "run.py", project)
    (project / "placed.py").write_text(TASK.format(log=log))
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    def epochs(after: float = 0.0) -> Counter[str]:
        noted = [json.loads(line) for line in log.read_text().splitlines()]
        return Counter(entry["host"] for entry in noted if entry["at"] > after)

    def wait(text: str, holds: object, seconds: float = 240.0) -> None:
        deadline = time.monotonic() + seconds
        while not holds():  # type: ignore[operator]
            if time.monotonic() > deadline:
                raise SystemExit(f"not seen: {text}; see {folder}")
            time.sleep(0.5)
        say(text)

    hosts = Hosts()
    try:
        slurm = Slurm(hosts, folder)
        wait("SLURM has both hosts", lambda: slurm.run("sinfo", "--noheader", "--states=idle", "--format=%D") == "2")
        words = [
            *("stage=lr", "task=custom", "task.name=placed", "task._target_=placed.Placed", "tracking=none"),
            *("sampler=random", "pruner=none", f"n_trials={TRIALS}", f"trainer.epochs={EPOCHS}", "recipe.repeats=0"),
            *("trainer.checkpoint_epochs=1", "trainer.device=cpu"),
        ]
        asked = ["--nodes=2", "--cpus-per-task=2", "--gpus-per-node=2", "--mem=0", "--job-name=one"]
        asked += ["--dependency=singleton", "--parsable", f"--chdir={project}"]
        script = str(ROOT / "examples" / "cluster" / "slurm.sh")
        jobs = [slurm.run("sbatch", *asked, script, *words) for _ in range(2)]
        say(f"jobs {' and '.join(jobs)} are submitted")
        wait("both hosts train", lambda: min(epochs()[name] for name in NAMES) > 3)
        slurm.run("scancel", jobs[0])
        say("the first job is cancelled")
        wait("it has ended", lambda: jobs[0] not in slurm.run("squeue", "--noheader", "--format=%i").split())
        between, at = sum(epochs().values()), time.time()
        wait("both hosts train in the second", lambda: min(epochs(at)[name] for name in NAMES) > 3)
        slurm.lose(1)
        say("the second host is lost")
        wait("the second job has ended", lambda: not slurm.run("squeue", "--noheader", "--format=%i"))
        outputs = [(project / f"slurm-{job}.out").read_text() for job in jobs]
        print("\n".join(outputs))
        stored = trials(project / "sweeps" / "placed-seed0")
        whole = [sorted(trial["curve"]) == list(range(1, EPOCHS + 1)) for trial in stored]
        states = Counter(trial["state"] for trial in stored)
        extra = sum(epochs().values()) - TRIALS * EPOCHS
        print(f"trials {dict(states)}, whole curves {sum(whole)} of {TRIALS}, epochs by host {dict(epochs())}")
        print(f"epochs before the second job: {between}; trained again: {extra}")
        # Two trials were on the lost host, each in an epoch.
        return 0 if states == {"COMPLETE": TRIALS} and all(whole) and 0 <= extra <= 4 else 1
    finally:
        hosts.close()


if __name__ == "__main__":
    sys.exit(main())
