"""The way to MLflow: a client, and whether anything answers at an address."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECK_S = 10
"""Seconds in which MLflow must answer before the first trial: our guess."""
TIMEOUT_VARIABLE = "MLFLOW_HTTP_REQUEST_TIMEOUT"


def make_client(uri: str) -> "MlflowClient":
    """A client that says at once when something is wrong."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # The writer tries again by itself, and unlike MLflow it looks first whether a run was made all the same.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # Here, not above: the import takes a second, and only the writer's thread needs it.
    from mlflow import MlflowClient

    quiet_mlflow()
    return MlflowClient(uri)


def quiet_mlflow() -> None:
    """It says nothing by itself: what goes wrong it raises, too, and the writer says it in one line, where MLflow
    (and the pool of its database's connections) would print a traceback at each try. Once MLflow is imported."""
    for name in ("mlflow", "alembic", "sqlalchemy.pool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def problem_at(uri: str) -> str | None:
    """Why results cannot be written to MLflow at ``uri``, in a line; None: it answers."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.exists():
        above = next(folder for folder in path.resolve().parents if folder.exists())
        return None if os.access(above, os.W_OK | os.X_OK) and above.is_dir() else f"{above} cannot be written"
    before = os.environ.get(TIMEOUT_VARIABLE)
    os.environ[TIMEOUT_VARIABLE] = str(CHECK_S)
    try:
        make_client(uri).search_experiments(max_results=1)
    except Exception as error:  # MLflow, its HTTP library and its database library raise many kinds
        return first_line(error)
    finally:
        os.environ.pop(TIMEOUT_VARIABLE)
        if before is not None:
            os.environ[TIMEOUT_VARIABLE] = before
    return None


def first_line(error: Exception) -> str:
    """What ``error`` says, without the rest."""
    return next(iter(str(error).splitlines()), type(error).__name__)
