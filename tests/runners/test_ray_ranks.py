"""One trial on several ranks on Ray: each on a node (a raylet on this machine) of its own, one of which dies."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import psutil
import pytest
import ray
import torch
from clusters import MEMORY, cluster, folders, wait_until
from killed_sweeps import trials
from ranked_task import rank_processes

from orchestrator.app.main import main
from orchestrator.config.runner import RunnerConfig
from orchestrator.runners.cluster import Need
from orchestrator.runners.ranks import RayPeer
from orchestrator.training import checkpoint
from orchestrator.training.team import backend, interface
from orchestrator.types import Reason

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 4
WORDS = [
    *("stage=lr", "task=custom", "task.name=ranked", "task._target_=ranked_task.Ranked", "tracking=none", "seed=3"),
    *("sampler=random", "pruner=none", "n_trials=1", f"trainer.epochs={EPOCHS}", "recipe.repeats=0"),
    *("trainer.checkpoint_epochs=1", "trainer.device=cpu", "optimizer.name=sgd", "data.batch_size=16"),
]


def on(node: Any, folder: Path) -> set[int]:
    """The ranks that trained on ``node`` and live."""
    raylet = node.all_processes["raylet"][0].process.pid
    alive = [psutil.Process(pid) for pid in rank_processes(folder) if psutil.pid_exists(pid)]
    return {process.pid for process in alive if raylet in {parent.pid for parent in process.parents()}}


def weights(project: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(project / "sweeps" / "ranked-seed3" / "trials" / "000000")
    return {name: tensor for name, tensor in state["model"].items() if tensor.is_floating_point()}


def test_ranks_on_two_nodes_train_what_one_worker_trains_and_outlive_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second rank's node is killed in the third epoch; another takes its place, and the trial goes on."""
    project, log = tmp_path / "project", tmp_path / "log"
    project.mkdir()
    log.mkdir()
    shutil.copy(Path(__file__).parents[1] / "helpers" / "ranked_task.py", project)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE", "disabled")
    ranks = ["trainer.workers=2", "runner.cpus_per_trial=2", f"+task.args.folder={log}", "+task.args.how=waits"]
    ranks.append("runner.workers=1")
    with folders() as folder, cluster() as found:
        node = {"num_cpus": 1, "object_store_memory": MEMORY}
        command = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *WORDS, *ranks, f"runner.address={found.address}"],
            cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            # It waits for room meanwhile.
            nodes = [found.add_node(**node, temp_dir=folder()) for _ in range(2)]
            alone = tmp_path / "alone"
            alone.mkdir()
            monkeypatch.chdir(alone)
            assert main([*WORDS, "runner=inline"]) == 0
            wait_until((log / "waiting").exists, "the ranks have not met", command)
            before = [on(each, log) for each in nodes]
            assert [len(each) for each in before] == [1, 1]
            # The rank that waits sleeps; the other one waits for it in a step.
            second = next(i for i in range(2) if "orchestrator.ranks" in psutil.Process(*before[i]).cmdline())
            found.remove_node(nodes[second], allow_graceful=False)
            third = found.add_node(**node, temp_dir=folder())
            (log / "go").touch()
            wait_until(lambda: on(third, log), "no rank on the node that joined", command)
            output, _ = command.communicate(timeout=90)
        finally:
            command.kill()
    assert command.returncode == 0, output
    assert "(restart 1 of at most 3)" in output, output
    assert "rank 1: its worker process or the node it was on died" in output, output
    [trial] = trials(project / "sweeps" / "ranked-seed3")
    assert (trial["state"], sorted(trial["curve"])) == ("COMPLETE", list(range(1, EPOCHS + 1)))
    assert not any(psutil.pid_exists(pid) for each in before for pid in each)
    here, there = weights(project), weights(alone)
    assert here.keys() == there.keys()
    assert all(torch.allclose(here[name], there[name], atol=1e-6, rtol=0) for name in here)


class _Kills:
    """Stands for what the nodes' kernels count."""

    def __init__(self, counted: bool) -> None:
        self.counted = counted

    def of(self, actor: str) -> bool:
        return self.counted


@pytest.mark.parametrize(
    ("error", "counted", "reason"),
    [
        (ray.exceptions.RayActorError(), False, Reason.WORKER_DIED),
        (ray.exceptions.RayActorError(), True, Reason.HOST_OUT_OF_MEMORY),
        (ray.exceptions.OutOfMemoryError("low"), False, Reason.HOST_OUT_OF_MEMORY),
    ],
)
def test_another_rank_that_was_killed_for_memory_is_named_so(
    error: Exception, counted: bool, reason: Reason, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(asked: Any) -> None:
        raise error

    monkeypatch.setattr(ray, "get", get)
    peer = RayPeer(MagicMock(), _Kills(counted))  # type: ignore[arg-type]
    answer = peer.answer()
    assert answer is not None
    assert answer.reason is reason
    assert not peer.alive


def test_what_each_rank_of_a_trial_gets() -> None:
    need = Need.of(RunnerConfig(name="ray", cpus_per_trial=4, gpus_per_trial=2), 2)
    assert need.bundles == [{"CPU": 2.0, "GPU": 1.0}] * 2


def test_nccl_needs_a_card_for_each_rank() -> None:
    assert backend(["a", "b"]) == "cpu:gloo,cuda:nccl"
    assert backend(["a", "a"]) == backend(["a", ""]) == backend(["", ""]) == "gloo"


def test_the_interface_of_an_address() -> None:
    assert interface("127.0.0.1") == "lo"
    # TEST-NET-1 (RFC 5737) is nobody's.
    assert interface("192.0.2.1") is None
