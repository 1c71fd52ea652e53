"""What a sweep ships: models that predict in another process, when nothing of the sweep is left."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from orchestrator.app.main import main
from orchestrator.ensemble.record import load_ensemble
from orchestrator.tasks.loading import load_once
from orchestrator.training import checkpoint

TASK = """
from collections.abc import Mapping
from pathlib import Path
import numpy as np
import torch
from torch.utils.data import TensorDataset
from orchestrator import Interface, RegressionTask, Splits
from own.layers import network


class Measured(RegressionTask):
    def __init__(self, file):
        self.file = Path(file)

    def _table(self):
        values = torch.as_tensor(np.load(self.file))
        train = values[:60]
        return values, {"mean": train.mean(dim=0), "deviation": train.std(dim=0)}

    def splits(self):
        values, statistics = self._table()
        inputs = self.prepare(values[:, :3], statistics)
        targets = ((values[:, 3:] - statistics["mean"][3]) / statistics["deviation"][3]).float()
        return Splits(*(TensorDataset(inputs[p], targets[p]) for p in (slice(0, 60), slice(60, 80), slice(80, 99))))

    def model(self, width: int = 8):
        return network(width)

    def interface(self):
        values, statistics = self._table()
        return Interface(values[:5, :3], ("a", "b", "c"), ("y",), statistics)

    def prepare(self, raw, statistics):
        return ((raw - statistics["mean"][:3]) / statistics["deviation"][:3]).float()

    def restore(self, predictions, statistics):
        return predictions * statistics["deviation"][3] + statistics["mean"][3]
"""
LAYERS = """
from torch import nn


def network(width):
    return nn.Sequential(nn.Linear(3, width), nn.Tanh(), nn.Linear(width, 1))
"""
ELSEWHERE = """
import json, sys
import mlflow, pandas as pd

store, rows, aliases = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
mlflow.set_tracking_uri(store)
found = {}
for name in ("winner", "ensemble"):
    model = mlflow.pyfunc.load_model(f"models:/measured-seed0-{name}@{aliases[name]}")
    found[name] = model.predict(pd.read_json(rows))["y"].tolist()
    found[f"{name} again"] = model.predict(model.input_example)["y"].tolist()
import orchestrator
print(json.dumps({**found, "code": orchestrator.__file__, "modules": list(sys.modules)}))
"""
WORDS = ["task=custom", "task.name=measured", "task._target_=own.measured.Measured", "+task.args.file=table.npy",
         "runner=inline", "trainer.epochs=2", "sampler=random", "n_trials=3", "seed=0"]  # fmt: skip


@pytest.fixture
def _swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])
    Path("own").mkdir()
    Path("own/measured.py").write_text(TASK)
    Path("own/layers.py").write_text(LAYERS)
    values = np.random.default_rng(0).normal(size=(99, 4)) * [1, 10, 100, 5] + [0, 3, -50, 200]
    np.save("table.npy", values)
    Path("sweeps").mkdir()
    shutil.copy(request.getfixturevalue("mlflow_template"), "sweeps/mlflow.db")
    assert main(["stage=all", "recipe.order=[lr,ensemble]", *WORDS]) == 0


@pytest.mark.usefixtures("_swept")
def test_winner_and_ensemble_predict_where_nothing_of_the_sweep_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "sweeps" / "measured-seed0"
    table = torch.as_tensor(np.load("table.npy"))[70:, :3]
    wanted = expected(folder, table)
    program = torch.export.load(folder / "models/winner/model.pt2").module()
    assert torch.allclose(program(table).flatten(), wanted["winner"], rtol=1e-6)
    capsys.readouterr()
    assert main(["stage=status", *WORDS]) == 0
    told = capsys.readouterr().out
    aliases = dict(re.findall(r"to ship: \w+ \(loss .*models:/measured-seed0-(\w+)@(\w+)", told))
    assert aliases.keys() == wanted.keys()
    client = MlflowClient(f"sqlite:///{tmp_path}/sweeps/mlflow.db")
    # Of three trials more than one was the best for a while.
    assert {name: len(client.search_model_versions(f"name='measured-seed0-{name}'")) for name in wanted} == {
        "winner": 1, "ensemble": 1,
    }  # fmt: skip
    shutil.rmtree(folder)
    shutil.rmtree("own")
    Path("table.npy").unlink()
    rows = tmp_path / "rows.json"
    # In another order, with a column that the model does not know.
    rows.write_text(json.dumps([{"c": c, "id": 7, "a": a, "b": b} for a, b, c in table.tolist()]))
    script = tmp_path / "elsewhere" / "predict.py"
    script.parent.mkdir()
    script.write_text(ELSEWHERE)
    done = subprocess.run(
        [sys.executable, str(script), f"sqlite:///{tmp_path}/sweeps/mlflow.db", str(rows), json.dumps(aliases)],
        cwd=script.parent,
        env={**os.environ, "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "PYTHONPATH": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name, values in wanted.items():
        assert np.allclose(found[name], values.numpy(), rtol=1e-6)
        assert len(found[f"{name} again"]) == 5
    assert "mlartifacts" in found["code"]
    assert not {name for name in found["modules"] if name.startswith(("orchestrator.study", "optuna", "ray"))}


def expected(folder: Path, table: torch.Tensor) -> dict[str, torch.Tensor]:
    """Predictions by hand, from the sweep's checkpoints."""
    ledger = json.loads((folder / "ledger.json").read_text())
    from orchestrator.config.schema import TaskConfig

    task, _ = load_once(TaskConfig(name="measured", target="own.measured.Measured", args={"file": "table.npy"}))
    interface = task.interface()
    assert interface is not None
    best = ledger["stages"]["lr"]["best_trial"]
    network = task.model(width=8)
    network.load_state_dict(checkpoint.load(folder / "trials" / f"{best:06d}")["best"]["model"])
    ensemble = load_ensemble(folder)
    inputs = task.prepare(table, interface.statistics)
    with torch.inference_mode():
        single = task.predictions(network(inputs))
        each = [task.predictions(member.network(task, folder)(inputs)) for member in ensemble.members]
    return {
        "winner": task.restore(single, interface.statistics).flatten(),
        "ensemble": task.restore(ensemble.combine(each), interface.statistics).flatten(),
    }
