"""What a sweep has to ship: which models, where, how good, at what cost, and how each is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.config.schema import RunConfig
from orchestrator.ensemble.distill import STUDENT_FILE, load_student
from orchestrator.ensemble.ship import MODELS, NAMES, registered_name
from orchestrator.masking import mask
from orchestrator.serving.model import Description, read_description
from orchestrator.serving.package import EXPORTED, MODEL, version_in
from orchestrator.study.records import TrialRecord
from orchestrator.tracking.address import tracking_uri


@dataclass(frozen=True)
class Shipped:
    """A model of the sweep."""

    folder: Path
    description: Description
    exported: bool
    """Whether it is there as a torch.export program too."""
    validation: float | None
    """The objective on validation; None: it is not that of the model in the folder."""
    test: float | None
    """The objective on test; None: the test split was not read for it."""
    uri: str
    """In MLflow's registry; empty: nothing is tracked."""
    store: str
    """MLflow's tracking URI."""

    @property
    def name(self) -> str:
        """winner, ensemble or student."""
        return self.description.name

    @property
    def origin(self) -> str:
        """What it is made of."""
        return ", ".join(member.origin for member in self.description.members)

    @property
    def cost(self) -> str:
        """What predicting with it costs."""
        about = self.description
        return f"{about.parameters:,} parameters, {about.megabytes:.3g} MB, {about.ms_per_example:.2g} ms an example"

    @property
    def from_folder(self) -> str:
        """Two lines of Python that predict with the folder."""
        return (
            "from orchestrator.serving.model import Model\n"
            f'predictions = Model.load("{self.folder / MODEL}").predict(inputs)'
        )

    @property
    def from_mlflow(self) -> str:
        """The same with MLflow's copy, in any folder and without this package; empty: there is none."""
        if not self.uri:
            return ""
        return (
            f'import mlflow; mlflow.set_tracking_uri("{mask(self.store)}")\n'
            f'predictions = mlflow.pyfunc.load_model("{self.uri}").predict(inputs)'
        )


def shipped(
    folder: Path,
    config: RunConfig,
    finished: Mapping[str, Mapping[str, Any]],
    best: TrialRecord | None,
    objective: str,
) -> list[Shipped]:
    """The models in the sweep's ``folder``.

    Args:
        finished: ledger entries by stage.
        best: the sweep's best trial.
        objective: of the task.
    """
    # The command that asks need not be the one that ran: with tracking=none it left no store.
    store = tracking_uri(config)
    tracked = config.tracking.name == "mlflow" and (config.tracking.uri is not None or _file(store).exists())
    found = []
    for name in NAMES:
        place = folder / MODELS / name
        if version_in(place) is None:
            continue
        description = read_description(place / MODEL)
        validation, test = _scores(folder, description, finished, best, objective)
        found.append(
            Shipped(
                folder=place,
                description=description,
                exported=(place / EXPORTED).exists(),
                validation=validation,
                test=test,
                uri=f"models:/{registered_name(folder.name, name)}@{description.version}" if tracked else "",
                store=store if tracked else "",
            )
        )
    return found


def _file(store: str) -> Path:
    return Path(store.removeprefix("sqlite:///"))


def _scores(
    folder: Path,
    description: Description,
    finished: Mapping[str, Mapping[str, Any]],
    best: TrialRecord | None,
    objective: str,
) -> tuple[float | None, float | None]:
    """Objective on validation and on test."""
    committees = [entry for entry in finished.values() if "weights" in entry]
    judged = committees[-1] if committees else None
    if description.name == "ensemble":
        if judged is None:
            return None, None
        return judged["validation"]["ensemble"][objective], judged["test"]["ensemble"][objective]
    if description.name == "student":
        distilled = [entry for entry in finished.values() if "mean_gain" in entry]
        tested = distilled[-1]["test"].get("shipped", {}) if distilled else {}
        value = load_student(folder)["value"] if (folder / STUDENT_FILE).exists() else None
        return value, tested.get(objective)
    if best is None or description.members[0].origin != f"trial {best.number}":
        return None, None
    same = judged is not None and judged["single"] == best.number
    return best.value, judged["test"]["single"][objective] if judged is not None and same else None


def describe(models: list[Shipped], objective: str) -> str:
    """A line for each model."""
    lines = []
    for model in models:
        scores = {"validation": model.validation, "test": model.test}
        told = ", ".join(f"{value:.4g} on {split}" for split, value in scores.items() if value is not None)
        said = f"{objective} {told}; " if told else ""
        where = f"{model.folder}, {model.uri}" if model.uri else str(model.folder)
        lines.append(f"to ship: {model.name} ({said}{model.cost}): {where}")
    return "\n".join(lines)
