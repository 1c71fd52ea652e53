"""A Ray cluster as trials see it: how many of them fit on the nodes that are up, and what travels to these."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import ConfigError
from orchestrator.runners.packing import Footprints, grid


@dataclass(frozen=True)
class Need:
    """What trials need: ``ranks`` bundles each, which may lie on several nodes."""

    cpus: int
    gpus: float
    """0, a share of a card, or a whole number of them."""
    ranks: int = 1
    memory: int = 0
    """Bytes of the node's memory; 0: not counted."""

    @classmethod
    def of(cls, config: RunnerConfig, ranks: int) -> "Need":
        """What each of the ``ranks`` of a trial needs, by the settings of the whole trial."""
        return cls(config.cpus_per_trial // ranks, config.gpus_per_trial / ranks, ranks)

    @property
    def bundles(self) -> list[dict[str, float]]:
        """The same for Ray, one for each rank."""
        bundle = {"CPU": float(self.cpus), "GPU": self.gpus}
        if self.memory:
            bundle["memory"] = float(self.memory)
        return [bundle] * self.ranks


def places(resources: Mapping[str, float], need: Need) -> int:
    """How many ranks a node with ``resources`` holds. No rank spans nodes, and no share of a GPU spans cards."""
    fit = int(resources.get("CPU", 0) // need.cpus)
    if need.memory:
        fit = min(fit, int(resources.get("memory", 0) // need.memory))
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


class Plan:
    """How many trials run at a time, and what each of them gets.

    Args:
        config: where trials run.
        ranks: of each trial.
    """

    def __init__(self, config: RunnerConfig, ranks: int) -> None:
        self._most = config.workers
        self._asked = Need.of(config, ranks)
        self.packs = config.pack is not None
        self.footprints = Footprints(round(1 / config.gpus_per_trial) if config.gpus_per_trial else 1)

    @property
    def workers(self) -> int:
        """How many trials fit on the nodes that are up now."""
        need, nodes = self.need(), alive().values()
        fit = sum(places(resources, need) for resources in nodes) // need.ranks
        if self.packs and not need.gpus and not need.memory and self.footprints.at_once() is not None:
            # Nothing is known of their memory yet.
            fit = min(fit, 1)
        if self.packs and not need.gpus and self.footprints.need("gpu") is not None:
            # Cards that Ray was not asked for: all see the first one.
            fit = min(fit, self.footprints.at_once() or fit)
        return fit if self._most is None else min(fit, self._most)

    def need(self, alone: bool = False) -> Need:
        """What the next trial gets.

        Args:
            alone: a whole card, or without cards the memory of a whole node.
        """
        need, packed = self._asked, self.footprints
        if not self.packs:
            return need
        largest = max((int(node.get("memory", 0)) for node in alive().values()), default=0)
        gpus = need.gpus and 1.0
        if alone:
            return replace(need, gpus=gpus, memory=0 if gpus else largest)
        memory = packed.need("host")
        if memory is not None:
            need = replace(need, memory=min(grid(memory), largest))
        if gpus and packed.need("gpu") is not None:
            need = replace(need, gpus=1 / (packed.at_once() or 1))
        return need


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
