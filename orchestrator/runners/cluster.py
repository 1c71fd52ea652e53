"""A Ray cluster as trials see it: how many of them fit on the nodes that are up, and what travels to these."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import ConfigError


@dataclass(frozen=True)
class Need:
    """What trials need: ``ranks`` bundles each, which may lie on several nodes."""

    cpus: int
    gpus: float
    """0, a share of a card, or a whole number of them."""
    ranks: int = 1

    @classmethod
    def of(cls, config: RunnerConfig, ranks: int) -> "Need":
        """What each of the ``ranks`` of a trial needs, by the settings of the whole trial."""
        return cls(config.cpus_per_trial // ranks, config.gpus_per_trial / ranks, ranks)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The same for Ray, one for each rank."""
        return [{"CPU": float(self.cpus), "GPU": self.gpus} for _ in range(self.ranks)]


def places(resources: Mapping[str, float], need: Need) -> int:
    """How many ranks a node with ``resources`` holds. No rank spans nodes, and no share of a GPU spans cards."""
    fit = int(resources.get("CPU", 0) // need.cpus)
    if need.gpus <= 0:
        return fit
    cards = int(resources.get("GPU", 0))
    if need.gpus < 1:
        # 1 / 0.1 is 10 only after rounding.
        return min(fit, cards * int(round(1 / need.gpus, 6)))
    return min(fit, cards // int(need.gpus))


def alive() -> dict[str, Mapping[str, float]]:
    """The nodes that are up: id to resources."""
    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def capacity(need: Need, most: int | None) -> int:
    """How many trials fit now, at most ``most``."""
    fit = sum(places(resources, need) for resources in alive().values()) // need.ranks
    return fit if most is None else min(fit, most)


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
