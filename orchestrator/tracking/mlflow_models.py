"""Models in MLflow: its own entity of a run, loadable with ``mlflow.pyfunc``, and a version in the registry."""

import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from orchestrator.tracking.base import ModelEntry
from orchestrator.tracking.mlflow_client import first_line

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
    from mlflow.models import ModelSignature

log = logging.getLogger("orchestrator")

_NAME_TAG = "orchestrator.model"
_LOADER = "orchestrator/serving/mlflow_model.py"
"""In the package's ``code``: what MLflow runs to load it."""
_COLUMN_TYPES = {"float64": "double", "float32": "float", "int64": "long", "int32": "integer", "bool": "boolean"}
"""NumPy's names to those of MLflow's columns."""


def write_model(client: "MlflowClient", experiment_id: str, run_id: str, entry: ModelEntry) -> None:
    """Write the model, or go on where a kill has left it: one that is READY is whole."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    model = _find(client, experiment_id, run_id, entry.name)
    if model is None:
        if entry.package is not None and not _is_of(entry):
            return  # Another took its place before MLflow answered: that one has an entry of its own.
        model = client.create_logged_model(
            experiment_id,
            name=entry.name,
            source_run_id=run_id,
            tags={**entry.tags, _NAME_TAG: entry.name},
            params={name: str(value) for name, value in entry.params.items()},
            model_type="PyTorch",
        )
    if model.status == LoggedModelStatus.PENDING:
        whole = entry.package is None or _write_package(client, model.model_id, run_id, entry)
        for path in entry.files:
            # One that is gone by now must not hold up everything else for ever.
            if path.exists():
                client.log_model_artifact(model.model_id, str(path))
        for name, value in entry.metrics.items():
            client.log_metric(run_id, name, value, step=0, model_id=model.model_id)
        client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        status = LoggedModelStatus.READY if whole else LoggedModelStatus.FAILED
        model = client.finalize_logged_model(model.model_id, status)
    if entry.registered and model.status == LoggedModelStatus.READY:
        _register(client, model, run_id, entry)


def _find(client: "MlflowClient", experiment_id: str, run_id: str, name: str) -> "LoggedModel | None":
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    return next((model for model in found if model.tags.get(_NAME_TAG) == name), None)


def _described(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))
    return found


def _is_of(entry: ModelEntry) -> bool:
    """Whether the package on disk is still the one that was meant."""
    assert entry.package is not None
    try:
        return bool(_described(entry.package)["version"] == entry.tags["version"])
    except (OSError, ValueError):
        return False


def _write_package(client: "MlflowClient", model_id: str, run_id: str, entry: ModelEntry) -> bool:
    """Write the package as a pyfunc model; False: it could not be made one, and the log says why."""
    with tempfile.TemporaryDirectory(prefix="orchestrator-model-") as folder:
        copy, made = Path(folder) / "package", Path(folder) / "made"
        try:
            assert entry.package is not None
            shutil.copytree(entry.package, copy)
            _save_pyfunc(copy, made, model_id, run_id)
        except Exception as error:  # nothing of this depends on the server: to try again would not help
            log.warning("%s is not written to MLflow as a model: %s", entry.name, first_line(error))
            return False
        client.log_model_artifacts(model_id, str(made))
    return True


def _save_pyfunc(package: Path, folder: Path, model_id: str, run_id: str) -> None:
    """Models from code: a script and plain tensors, no pickle."""
    from mlflow.models import Model
    from mlflow.pyfunc import save_model

    described = _described(package)
    code = package / "code"
    artifacts = {"model": package / "model", "exported": package / "model.pt2"}
    save_model(
        str(folder),
        python_model=str(code / _LOADER),
        code_paths=[str(path) for path in sorted(code.iterdir())],
        artifacts={name: str(path) for name, path in artifacts.items() if path.exists()},
        signature=_signature(described),
        input_example=_example(package, described["columns"]),
        pip_requirements=(package / "requirements.txt").read_text(encoding="utf-8").split(),
        mlflow_model=Model(model_id=model_id, run_id=run_id),
        metadata={name: described[name] for name in ("name", "version", "sweep", "task")},
    )


def _signature(described: dict[str, Any]) -> "ModelSignature":
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    kind = described["dtype"]
    if described["columns"] and kind in _COLUMN_TYPES:
        inputs = Schema([ColSpec(_COLUMN_TYPES[kind], name) for name in described["columns"]])
    else:
        inputs = Schema([TensorSpec(np.dtype(kind), (-1, *described["shape"]))])
    if described["columns"] and described["outputs"]:
        outputs = Schema([ColSpec("double", name) for name in described["outputs"]])
    else:
        outputs = Schema([TensorSpec(np.dtype("float64"), (-1, *described["output_shape"]))])
    return ModelSignature(inputs, outputs)


def _example(package: Path, columns: Sequence[str]) -> Any:
    values = np.load(package / "example.npy", allow_pickle=False)
    if not columns:
        return values
    import pandas as pd

    return pd.DataFrame(values, columns=list(columns))


def _register(client: "MlflowClient", model: "LoggedModel", run_id: str, entry: ModelEntry) -> None:
    """Make it a version of its registered model, unless it is one, with its own version as alias."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(entry.registered)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    known = client.search_model_versions(f"name='{entry.registered}'")
    own = next((found for found in known if found.tags.get("version") == entry.tags["version"]), None)
    if own is None:
        # Not models:/ID: an SQLite store would look that up at the process's own tracking URI.
        own = client.create_model_version(
            entry.registered, model.artifact_location, run_id, tags=dict(entry.tags), model_id=model.model_id
        )
    # By it whoever knows the folder finds the version, whose number MLflow gives: models:/NAME@ALIAS.
    client.set_registered_model_alias(entry.registered, entry.tags["version"], own.version)
