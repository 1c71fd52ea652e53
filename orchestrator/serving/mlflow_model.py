"""The model as MLflow loads it: this file is stored with it and run there ("models from code").

``model_config={"device": "cuda"}`` in ``mlflow.pyfunc.load_model`` predicts on a GPU.
"""

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from orchestrator.serving.model import Model


class ShippedModel(PythonModel):
    """Tables in, tables out; arrays in, arrays out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read description and weights."""
        device = (context.model_config or {}).get("device", "cpu")
        self.model = Model.load(Path(context.artifacts["model"]), device)

    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> np.ndarray:
        """A DataFrame of named predictions for a DataFrame, an array for an array.

        (Of types that say that it may be either MLflow warns.)
        """
        given: Any = model_input
        description = self.model.description
        if not hasattr(given, "columns"):
            return self.model.predict(np.asarray(given))
        rows = given[list(description.columns)] if description.columns else given
        found = self.model.predict(rows.to_numpy().reshape(-1, *description.shape))
        names = list(description.outputs) if found.ndim == 2 and description.outputs else None
        table: np.ndarray = type(given)(found.reshape(len(found), -1), index=given.index, columns=names)
        return table


set_model(ShippedModel())
