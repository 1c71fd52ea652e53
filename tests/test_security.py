"""Nothing listens, nothing that is read can run code, nothing leaves the sweep's folder, secrets stay secret."""

import ast
import json
import os
import pickle
import sys
import zipfile
from pathlib import Path

import psutil
import pytest
import torch

from orchestrator.app.main import main
from orchestrator.errors import StorageError
from orchestrator.masking import mask, masked
from orchestrator.tracking.memory import MemoryTracker
from orchestrator.training import checkpoint

PACKAGE = Path(__file__).parents[1] / "orchestrator"

EXECUTES = {
    *(
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "torch.load",
        "yaml.load",
        "yaml.unsafe_load",
        "marshal.loads",
    ),
    *(
        "numpy.load",
        "np.load",
        "joblib.load",
        "shelve.open",
        "eval",
        "exec",
        "dill.loads",
        "cloudpickle.loads",
        "marshal.loads",
    ),
}
"""Calls that may run code of what they read."""
SAFE = {"torch.load": ("weights_only", "True"), "np.load": ("allow_pickle", "False")}
"""Those that run nothing with this argument, which must be there."""
ALLOWED = {
    # What the driver has just pickled, sent through Ray to its own workers.
    ("runners/worker.py", "pickle.loads"),
    # The same, from a trial's first process to those that it has started, through a pipe.
    ("ranks.py", "pickle.loads"),
}


def called(node: ast.Call) -> str:
    return ast.unparse(node.func)


def test_nothing_that_is_read_can_run_code() -> None:
    found, loads = set(), []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and called(node) in EXECUTES:
                found.add((str(path.relative_to(PACKAGE)), called(node)))
                loads += [node] if called(node) in SAFE else []
    assert {where for where in found if where[1] not in SAFE} == ALLOWED
    assert {called(load) for load in loads} == {*SAFE}
    for load in loads:
        option, value = SAFE[called(load)]
        assert [ast.unparse(k.value) for k in load.keywords if k.arg == option] == [value]


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch executed",)


@pytest.mark.parametrize("form", ["of PyTorch", "a bare pickle", "a pickle in a zip file"])
def test_code_in_a_checkpoint_is_not_executed(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / checkpoint.NAME
    if form == "of PyTorch":
        torch.save({"model": Evil()}, path)
    elif form == "a bare pickle":
        path.write_bytes(pickle.dumps(Evil()))
    else:
        torch.save({}, path)
        with zipfile.ZipFile(path) as before:
            names = before.namelist()
            parts = {name: before.read(name) for name in names}
        with zipfile.ZipFile(path, "w") as after:
            for name in names:
                after.writestr(name, pickle.dumps(Evil(), protocol=2) if name.endswith(".pkl") else parts[name])
    with pytest.raises(StorageError, match="is damaged"):
        checkpoint.load(tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == [checkpoint.NAME]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:hunter2@db:5432/x", "postgresql://***@db:5432/x"),
        ("postgresql+psycopg2://me:p@ss@db/x", "postgresql+psycopg2://***@db/x"),
        ("http://token@host:5000 and mysql://a:b@c", "http://***@host:5000 and mysql://***@c"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
        ("s3://bucket/key", "s3://bucket/key"),
        ("http//me:hunter2@host", "http//***@host"),
        ("12:30: git@host:path", "12:30: git@host:path"),
        ("http://host/x?token=abc&n=3", "http://host/x?token=***&n=3"),
        ("mail me@host.org", "mail me@host.org"),
    ],
)
def test_passwords_are_masked(given: str, shown: str) -> None:
    assert mask(given) == shown


def test_nested_values_are_masked_and_otherwise_the_same() -> None:
    given = {"task": {"args": {"url": "http://me:pw@host", "api_key": "abc", "n": 3, "on": [True, None, "x", 0.5]}}}
    assert masked(given) == {
        "task": {"args": {"url": "http://***@host", "api_key": "***", "n": 3, "on": [True, None, "x", 0.5]}}
    }


TASK = """
import json, os
import psutil, torch
from torch import nn
from torch.utils.data import TensorDataset
from orchestrator import ClassificationTask, Splits


class Remote(ClassificationTask):
    calls = 0

    def __init__(self, source, api_key):
        self.source, self.api_key = source, api_key

    def splits(self):
        assert "hunter2" in self.source
        inputs = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
        targets = (inputs[:, 0] > 0).long()
        return Splits(*(TensorDataset(inputs[i::3], targets[i::3]) for i in range(3)))

    def model(self):
        return nn.Linear(5, 2)

    def score(self, predictions, targets):
        type(self).calls += 1
        if self.calls == 6:
            raise ConnectionError(f"cannot reach {self.source}")
        here, before = psutil.Process(), json.loads(os.environ["BEFORE"])
        begun = [child for child in here.children() if child.pid not in before["processes"]]
        for process in (here, *begun, *(below for child in begun for below in child.children(recursive=True))):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN and connection.laddr.port not in before["ports"]:
                    with open("listening.txt", "a") as file:
                        print(process, connection, file=file)
        return super().score(predictions, targets)
"""
WORDS = [
    *("stage=lr", "task=custom", "task.name=remote", "task._target_=remote_task.Remote", "runner=local"),
    *(
        "trainer.epochs=3",
        "n_trials=4",
        "sampler=random",
        "pruner=none",
        "tracking.uri=http://me:hunter2@127.0.0.1:1",
    ),
    *("+task.args.source=postgresql://me:hunter2@db/x", "+task.args.api_key=hunter2"),
]


def test_a_sweep_keeps_secrets_listens_nowhere_and_stays_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = MemoryTracker()
    # An earlier test's Ray may live in this process.
    own = psutil.Process()
    ports = [item.laddr.port for item in own.net_connections("inet") if item.status == psutil.CONN_LISTEN]
    before = {"ports": ports, "processes": [child.pid for child in own.children()]}
    monkeypatch.setenv("BEFORE", json.dumps(before))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr("orchestrator.app.main.make_tracker", lambda sweep: tracker)
    monkeypatch.setattr("orchestrator.app.main.check_tracking", lambda uri: None)
    (tmp_path / "remote_task.py").write_text(TASK)
    assert main(WORDS) == 0
    assert main(["stage=report", *WORDS[1:]]) == 0
    assert main([*WORDS, "dry_run=true"]) == 0
    assert main([*WORDS, "tracking.uri=http//me:hunter2@host"]) == 2
    assert main([*WORDS, "seed=x", "task.args.source=http://me:hunter2@host"]) == 2

    shown = capfd.readouterr()
    assert "is infeasible: user_error: ConnectionError: cannot reach postgresql://***@db/x" in shown.out
    texts = {"printed": shown.out, "complaints": shown.err, "tracked": json.dumps(vars(tracker), default=repr)}
    texts |= {
        str(path.relative_to(tmp_path)): path.read_bytes().decode(errors="replace")
        for path in (tmp_path / "sweeps").rglob("*")
        if path.is_file()
    }
    assert "postgresql://***@db/x" in texts["sweeps/remote-seed0/study.journal"]
    assert "postgresql://***@db/x" in texts["tracked"]
    # What trains the winner again needs the password.
    assert {name for name, text in texts.items() if "hunter2" in text} == {
        "sweeps/remote-seed0/experiment/winner.yaml",
        # The task's own source, as its author wrote it.
        "sweeps/remote-seed0/models/winner/code/remote_task.py",
    }
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"remote_task.py", "sweeps"}
    assert [path.name for path in (tmp_path / "sweeps").iterdir()] == ["remote-seed0"]
