"""Shared by all tests: one private Ray for the whole session, started by the first test that asks for it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from orchestrator.config.runner import RunnerConfig

# Read when PyTorch is imported. The networks here are so small that a second thread only costs time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Read when Ray is imported, which a benchmark's test may do before the product: it keeps sockets on loopback.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")

if TYPE_CHECKING:
    from orchestrator.runners.local import LocalRunner
    from orchestrator.runners.ray import RayRunner


@pytest.fixture(scope="session")
def ray_runner() -> "Iterator[RayRunner]":
    """Two workers on a private Ray."""
    # Here: importing Ray takes seconds that tests without it need not pay.
    from orchestrator.runners.ray import RayRunner

    runner = RayRunner(RunnerConfig(name="ray", workers=2))
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def local_runner() -> "Iterator[LocalRunner]":
    """Two worker processes."""
    from orchestrator.runners.local import LocalRunner

    runner = LocalRunner(RunnerConfig(name="local", workers=2))
    yield runner
    runner.close()


@pytest.fixture(scope="session")
def mlflow_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty SQLite store of MLflow, to be copied."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path
