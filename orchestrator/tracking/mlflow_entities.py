"""Data sets and models as MLflow's own entities, so that its pages link them with the runs."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from orchestrator.tracking.base import DatasetEntry, ModelEntry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

_NAME_TAG = "orchestrator.model"
KIND_TAG = "tags.kind"
_KIND = "mlflow.experimentKind", "custom_model_development"
"""With it MLflow's pages open the table of runs; by themselves they open an empty page about language models."""


def mark_experiment(client: "MlflowClient", experiment_id: str, tags: Mapping[str, str]) -> None:
    """Say what kind of experiment it is, unless ``tags`` say something already."""
    if _KIND[0] not in tags:
        client.set_experiment_tag(experiment_id, *_KIND)


def review_pages(uri: str, experiment: str, *, minimize: bool) -> Sequence[tuple[str, str]]:
    """What there is to look at, and its address below that of MLflow's pages; empty where nothing is tracked yet.

    MLflow's table begins with the newest hundred runs, without whose stage and sweep it shows no tree: so with many
    trials it is entered by a filter.
    """
    from mlflow import MlflowClient

    found = MlflowClient(uri).get_experiment_by_name(experiment)
    if found is None:
        return []
    order = f"&orderByKey={quote('metrics.`best`')}&orderByAsc={str(minimize).lower()}"
    views = {
        "sweeps and their stages": (f"{KIND_TAG} != 'trial'", ""),
        "trials, the best first": (f"{KIND_TAG} = 'trial'", order),
        "failed trials": ("tags.state = 'infeasible'", ""),
    }
    runs = f"/#/experiments/{found.experiment_id}/runs?searchFilter="
    return [(words, f"{runs}{quote(wanted)}{sorting}") for words, (wanted, sorting) in views.items()]


def write_dataset(client: "MlflowClient", run_id: str, entry: DatasetEntry) -> None:
    """Note that the run used the data set; MLflow itself ignores a repetition."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=entry.name,
        digest=entry.digest,
        source_type="code",
        source=json.dumps({"task": entry.source}),
        profile=json.dumps(dict(entry.profile)),
    )
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", entry.context)])])


def write_model(client: "MlflowClient", experiment_id: str, run_id: str, entry: ModelEntry) -> None:
    """Write the model, or go on where a kill has left it: one that is READY is whole."""
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    model = _find(client, experiment_id, run_id, entry.name)
    if model is None:
        model = client.create_logged_model(
            experiment_id,
            name=entry.name,
            source_run_id=run_id,
            tags={**entry.tags, _NAME_TAG: entry.name},
            params={name: str(value) for name, value in entry.params.items()},
            model_type="PyTorch weights",
        )
    if model.status == LoggedModelStatus.READY:
        return
    for path in entry.files:
        # One that is gone by now must not hold up everything else for ever.
        if path.exists():
            client.log_model_artifact(model.model_id, str(path))
    for name, value in entry.metrics.items():
        client.log_metric(run_id, name, value, step=0, model_id=model.model_id)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def _find(client: "MlflowClient", experiment_id: str, run_id: str, name: str) -> "LoggedModel | None":
    found = client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
    return next((model for model in found if model.tags.get(_NAME_TAG) == name), None)
