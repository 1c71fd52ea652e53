"""Where MLflow is."""

from pathlib import Path

from orchestrator.config.schema import RunConfig
from orchestrator.errors import ConfigError

SCHEMES = ("sqlite", "http", "https", "file", "postgresql", "mysql", "mssql", "databricks")
"""Kinds of tracking URI that MLflow takes."""


def tracking_uri(config: RunConfig) -> str:
    """The MLflow tracking URI of a command: the one given, or an SQLite file beside the sweeps.

    Raises:
        ConfigError: MLflow knows no such kind of URI.
    """
    uri = config.tracking.uri
    if uri is not None and uri.partition(":")[0].partition("+")[0] not in SCHEMES:
        raise ConfigError(f"tracking.uri={uri}: must begin with one of {', '.join(f'{s}:' for s in SCHEMES)}")
    return config.tracking.uri or f"sqlite:///{Path(config.sweep.dir).resolve() / 'mlflow.db'}"
