"""Data sets as MLflow's own entities, so that its pages link them with the runs, and addresses in its pages."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from orchestrator.tracking.base import DatasetEntry

if TYPE_CHECKING:
    from mlflow import MlflowClient

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
