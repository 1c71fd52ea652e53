"""MLflow stores for tests, and what is written in them."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from orchestrator.tracking.mlflow import KEY_TAG, SWEEP_TAG

SWEEP_ID = "a-sweep"


def copy_of_store(request: pytest.FixtureRequest, folder: Path) -> str:
    """URI of a fresh SQLite store in ``folder``: a copy, because MLflow takes seconds to make one."""
    template: Path = request.getfixturevalue("mlflow_template")
    shutil.copy(template, folder / "mlflow.db")
    return f"sqlite:///{folder / 'mlflow.db'}"


def read_runs(uri: str, experiment: str) -> dict[str, dict[str, Any]]:
    """Everything that is written of each run, by key."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = list(client.search_runs([found.experiment_id]))
    keys = {run.info.run_id: run.data.tags[KEY_TAG] for run in runs}
    assert len(set(keys.values())) == len(runs), "a run was written twice"
    return {keys[run.info.run_id]: _read(client, run, keys) for run in runs}


def _read(client: MlflowClient, run: Any, keys: dict[str, str]) -> dict[str, Any]:
    run_id = run.info.run_id
    steps: dict[str, list[float]] = {}
    summary: dict[str, float] = {}
    for name in run.data.metrics:
        history = client.get_metric_history(run_id, name)
        stepped = sorted((entry.step, entry.value) for entry in history if entry.step > 0)
        assert [step for step, _ in stepped] == list(range(1, len(stepped) + 1)), f"{name}: steps missing or twice"
        if stepped:
            assert len(stepped) == len(history)
            steps[name] = [value for _, value in stepped]
        else:
            values = [entry.value for entry in history]
            assert len(values) == len(set(values)), f"{name}: written twice"
            summary[name] = run.data.metrics[name]
    epochs = steps.pop("epoch", [])
    assert epochs == list(range(1, len(epochs) + 1))
    parent = run.data.tags.get("mlflow.parentRunId")
    tags = {
        name: value
        for name, value in run.data.tags.items()
        if not name.startswith("mlflow.") and name not in (KEY_TAG, SWEEP_TAG)
    }
    return {
        "name": run.info.run_name,
        "parent": None if parent is None else keys[parent],
        "params": dict(run.data.params),
        "tags": tags,
        "steps": steps,
        "summary": summary,
        "artifacts": _artifacts(client, run_id, ""),
        "status": run.info.status,
    }


def _artifacts(client: MlflowClient, run_id: str, folder: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    for entry in client.list_artifacts(run_id, folder):
        if entry.is_dir:
            texts |= _artifacts(client, run_id, entry.path)
        else:
            local = Path(client.download_artifacts(run_id, entry.path))
            texts[entry.path] = local.read_text(encoding="utf-8", errors="replace")
    return texts
