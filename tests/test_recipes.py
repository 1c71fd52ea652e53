"""What a user copies to a cluster: presets compose, scripts parse, and what they call exists."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

from orchestrator import compose
from orchestrator.runners.cluster import Need, places

ROOT = Path(__file__).resolve().parents[1]
CLUSTER = ROOT / "examples" / "cluster"


@pytest.mark.parametrize(("option", "address"), [("gpus", None), ("cluster", "auto")])
def test_presets_compose(option: str, address: str | None) -> None:
    runner = compose(["stage=lr", f"runner={option}"]).runner
    assert (runner.name, runner.address, runner.gpus_per_trial) == ("ray", address, 1.0)
    assert places({"CPU": 64, "GPU": 8}, Need.of(runner, 1)) == 8


def test_the_slurm_script_is_sound() -> None:
    script = CLUSTER / "slurm.sh"
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    text = script.read_text()
    starts = re.findall(r"ray start (.*--block.*)$", text, flags=re.M)
    assert len(starts) == 2
    options = set(re.findall(r"(--[a-z-]+)", " ".join(starts)))
    ray = str(Path(sys.executable).with_name("ray"))
    shown = subprocess.run([ray, "start", "--help"], capture_output=True, text=True, check=True).stdout
    assert {option for option in options if option not in shown} == set()
    assert "run.py" in text
    assert (ROOT / "run.py").exists()
    words = re.findall(r"^# sbatch \S+ (.*)$", text, flags=re.M)
    assert [word for word in words[0].split() if word.startswith("runner=")] == ["runner=cluster"]


def test_the_kubernetes_manifest_runs_a_command_that_composes() -> None:
    manifest = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    program, *words = manifest["spec"]["entrypoint"].split()[1:]
    assert program.endswith("run.py")
    config = compose(words)
    assert config.trainer.checkpoint_dir == "s3://BUCKET/checkpoints"
    head = manifest["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounted = [mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]]
    assert mounted == [config.sweep.dir]


def test_the_autoscaler_of_the_kubernetes_manifest_can_make_room_for_all_trials() -> None:
    """Ray itself reads from the manifest what each pod gives."""
    manifest = yaml.safe_load((CLUSTER / "rayjob.yaml").read_text())
    cluster = manifest["spec"]["rayClusterSpec"]
    assert f"ray=={cluster['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()
    assert cluster["enableInTreeAutoscaling"]
    named = {"metadata": {"name": "orchestrator", "namespace": "default"}, "spec": cluster}
    types = _derive_autoscaling_config_from_ray_cr(named)["available_node_types"]
    runner = compose(manifest["spec"]["entrypoint"].split()[2:]).runner
    room = {name: places(kind["resources"], Need.of(runner, 1)) for name, kind in types.items()}
    assert room == {"headgroup": 0, "gpus": 1}
    assert types["gpus"]["max_workers"] == runner.workers
