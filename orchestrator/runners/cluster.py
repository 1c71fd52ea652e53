"""A Ray cluster as trials see it: how many of them fit on the nodes that are up, and what travels to these."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import ConfigError


def places(resources: Mapping[str, float], config: RunnerConfig) -> int:
    """How many trials a node with ``resources`` holds. No trial spans nodes, and no share of a GPU spans cards."""
    fit = int(resources.get("CPU", 0) // config.cpus_per_trial)
    if config.gpus_per_trial <= 0:
        return fit
    cards = int(resources.get("GPU", 0))
    if config.gpus_per_trial < 1:
        # 1 / 0.1 is 10 only after rounding.
        return min(fit, cards * int(round(1 / config.gpus_per_trial, 6)))
    return min(fit, cards // int(config.gpus_per_trial))


def alive() -> dict[str, Mapping[str, float]]:
    """The nodes that are up: id to resources."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def capacity(config: RunnerConfig) -> int:
    """How many trials fit now, at most ``config.workers``."""
    fit = sum(places(resources, config) for resources in alive().values())
    return fit if config.workers is None else min(fit, config.workers)


def runtime_env(config: RunnerConfig, leave_out: Sequence[Path]) -> dict[str, Any] | None:
    """What Ray brings to the workers of a joined cluster: the folder ``config.working_dir`` without what Git ignores,
    without ``leave_out``, and without what Ray leaves out by itself (.git, .venv, caches).

    None: nothing, or what ``ray job submit`` has brought already.

    Raises:
        ConfigError: there is no such folder.
    """
    if config.working_dir is None or "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ:
        return None
    folder = Path(config.working_dir).resolve()
    if not folder.is_dir():
        raise ConfigError(f"runner.working_dir={config.working_dir}: there is no such folder")
    inside = [path.resolve().relative_to(folder) for path in leave_out if path.resolve().is_relative_to(folder)]
    return {"working_dir": str(folder), "excludes": [f"/{path.as_posix()}" for path in inside if path.parts]}
