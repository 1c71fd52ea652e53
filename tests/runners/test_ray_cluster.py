"""The command on a Ray cluster of several nodes (raylets on this machine with logical GPUs), which come and go."""

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from cluster_task import FREE
from clusters import MEMORY, cluster, folders, wait_until
from killed_sweeps import trials
from ray._private.ray_constants import AUTOSCALER_RESOURCE_REQUEST_CHANNEL
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster

from orchestrator.app.main import main
from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import ConfigError
from orchestrator.runners.cluster import Need, runtime_env
from orchestrator.runners.cluster import places as places_on

ROOT = Path(__file__).resolve().parents[2]
TRIALS, EPOCHS = 6, 5
WORDS = [
    *("stage=lr", "task=custom", "task.name=placed", "task._target_=cluster_task.Placed", "tracking=none"),
    *("sampler=random", "pruner=none", f"n_trials={TRIALS}", f"trainer.epochs={EPOCHS}", "recipe.repeats=0"),
    *("trainer.checkpoint_epochs=1", "runner.gpus_per_trial=0.5"),
]


class Epochs:
    """What the trainings have noted, each epoch of each process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def all(self) -> list[dict[str, Any]]:
        found = []
        for path in self.folder.glob("*.jsonl"):
            lines = path.read_text().splitlines(keepends=True)
            found += [{"process": path.stem, **json.loads(line)} for line in lines if line.endswith("\n")]
        return found

    def waiting(self, node: Any) -> int:
        """Processes on ``node`` that have trained as long as they may for now."""
        counts = Counter(entry["process"] for entry in self.all() if entry["node"] == node.node_id)
        return sum(count == FREE for count in counts.values())

    def processes(self, node: Any) -> set[int]:
        """Those on ``node`` that have trained."""
        return {int(entry["process"]) for entry in self.all() if entry["node"] == node.node_id}

    def let_go(self) -> None:
        (self.folder / "go").touch()


def asked(found: Cluster) -> list[dict[str, float]] | None:
    """What the autoscaler of the cluster would read; None: nothing was ever asked."""
    kept = GcsClient(address=found.address).internal_kv_get(AUTOSCALER_RESOURCE_REQUEST_CHANNEL, None)
    return kept and json.loads(kept)


def test_trials_go_where_they_fit_and_follow_nodes_that_join_and_die(tmp_path: Path) -> None:
    """Room for four trials is asked of a cluster without any. Two fit on the card of the node that joins. A second
    one joins, the first is killed, and the sweep ends by itself."""
    project, epochs = tmp_path / "project", Epochs(tmp_path / "log")
    project.mkdir()
    shutil.copy(Path(__file__).parents[1] / "helpers" / "cluster_task.py", project)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    # As the cluster does, whether or not this user has a token: it takes over what this process has set.
    environment["RAY_AUTH_MODE"] = os.environ.get("RAY_AUTH_MODE", "disabled")
    with folders() as folder, cluster() as found:
        node = {"num_cpus": 3, "num_gpus": 1, "object_store_memory": MEMORY}
        words = [*WORDS, f"+task.args.log={epochs.folder}", f"runner.address={found.address}", "runner.workers=4"]
        command = subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *words],
            cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        try:
            wait_until(lambda: asked(found) == [{"CPU": 1.0, "GPU": 0.5}] * 4, "no room was asked for", command)
            first = found.add_node(**node, temp_dir=folder())
            wait_until(lambda: epochs.waiting(first) == 2, "no two trials on the first node", command)
            second = found.add_node(**node, temp_dir=folder())
            wait_until(lambda: epochs.waiting(second) == 2, "no two trials on the node that joined", command)
            lost = epochs.processes(first)
            found.remove_node(first, allow_graceful=False)
            # A worker outlives its raylet for a moment, in which it could train to the end.
            wait_until(lambda: not any(map(psutil.pid_exists, lost)), "workers of the lost node live", command)
            epochs.let_go()
            output, _ = command.communicate(timeout=60)
            assert asked(found) == [], "the cluster would stay large"
        finally:
            command.kill()
    assert command.returncode == 0, output
    assert (
        "4 workers are asked for; a trial needs 1 CPU and 0.5 GPU, Ray's nodes are 1 with 0 CPU and 0 GPU" in output
    )
    noted = epochs.all()
    places = {(entry["node"], entry["process"]) for entry in noted}
    assert Counter(node for node, _ in places) == {first.node_id: 2, second.node_id: 2}
    assert {entry["card"] for entry in noted} == {"0"}
    assert all("working_dir_files" in entry["here"] for entry in noted), "the folder did not travel to the workers"
    stored = trials(project / "sweeps" / "placed-seed0")
    assert [trial["state"] for trial in stored] == ["COMPLETE"] * TRIALS
    assert [sorted(trial["curve"]) for trial in stored] == [list(range(1, EPOCHS + 1))] * TRIALS
    assert output.count("it goes on from its last checkpoint with another (restart 1 of at most 3)") == 2, output
    assert "(raylet)" not in output
    log = (project / "sweeps" / "placed-seed0" / "orchestrator.log").read_text()
    assert "Ray: The node with node id" in log, "what Ray says of it is in the log"
    # What had been trained without a report of it.
    assert TRIALS * EPOCHS <= len(noted) <= TRIALS * EPOCHS + 2


@pytest.mark.parametrize(
    ("node", "asked", "fit"),
    [
        ({"CPU": 7}, {"cpus_per_trial": 2}, 3),
        ({}, {}, 0),
        ({"CPU": 8, "GPU": 2}, {"gpus_per_trial": 1}, 2),
        # Two on each card: no share spans cards.
        ({"CPU": 8, "GPU": 2}, {"gpus_per_trial": 0.4}, 4),
        ({"CPU": 80, "GPU": 1}, {"gpus_per_trial": 0.1}, 10),
        ({"CPU": 8, "GPU": 5}, {"gpus_per_trial": 2}, 2),
        ({"CPU": 3, "GPU": 4}, {"gpus_per_trial": 0.5}, 3),
    ],
)
def test_how_many_trials_fit_a_node(node: dict[str, float], asked: dict[str, Any], fit: int) -> None:
    assert places_on(node, Need.of(RunnerConfig(name="ray", **asked), 1)) == fit


def test_what_travels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = runtime_env(RunnerConfig(name="ray"), [Path("some/sweeps"), Path("/elsewhere")])
    assert found == {"working_dir": str(tmp_path), "excludes": ["/some/sweeps"]}
    assert runtime_env(RunnerConfig(name="ray", working_dir=None), []) is None
    with pytest.raises(ConfigError, match=r"runner\.working_dir=none: there is no such folder"):
        runtime_env(RunnerConfig(name="ray", working_dir="none"), [])
    # ``ray job submit`` has brought the folder already.
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert runtime_env(RunnerConfig(name="ray"), []) is None


def test_a_sweep_in_a_folder_that_ray_will_remove_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    assert main(["stage=lr", "runner=inline", "tracking=none"]) == 2
    assert "sweep.dir=/PATH" in capsys.readouterr().err
    assert list(folder.iterdir()) == []
