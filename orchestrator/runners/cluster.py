"""A Ray cluster as trials see it: how many of them fit on the nodes that are up, and what travels to these."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import ConfigError
from orchestrator.runners.packing import Footprints, grid, share
from orchestrator.types import TrialSpec


@dataclass(frozen=True)
class Need:
    """What trials need: ``ranks`` bundles each, which may lie on several nodes."""

    cpus: int
    gpus: float
    """0, a share of a card, or a whole number of them."""
    ranks: int = 1
    memory: int = 0
    """Bytes of the node's memory; 0: not counted."""
    card: int = 0
    """Bytes of a card that Ray was not asked for: all trials see the first one."""

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


def hold(nodes: Sequence[Mapping[str, float]], needs: Sequence[Need]) -> bool:
    """Whether ``nodes`` (resources) hold trials of one rank with such ``needs`` at a time, each in the first place
    with room. Ray may place them otherwise; one that it finds no room for waits."""
    free = [(dict(node), [1.0] * int(node.get("GPU", 0))) for node in nodes]
    for need in needs:
        place = next((place for place in free if _room(*place, need)), None)
        if place is None:
            return False
        resources, cards = place
        resources["CPU"] -= need.cpus
        resources["memory"] = resources.get("memory", 0.0) - need.memory
        if need.gpus:
            cards[next(index for index, card in enumerate(cards) if card >= need.gpus - _ROUNDING)] -= need.gpus
    return True


_ROUNDING = 1e-6


def _room(resources: Mapping[str, float], cards: Sequence[float], need: Need) -> bool:
    enough = resources.get("CPU", 0) >= need.cpus and resources.get("memory", 0) >= need.memory
    return enough and (not need.gpus or any(card >= need.gpus - _ROUNDING for card in cards))


class Plan:
    """How many trials run at a time, and what each of them gets; with ``runner.pack`` the
    :class:`~orchestrator.runners.packing.Places` of trials.

    Args:
        config: where trials run.
        ranks: of each trial.
    """

    def __init__(self, config: RunnerConfig, ranks: int) -> None:
        self._most = config.workers
        self.need = Need.of(config, ranks)
        """What each trial gets, where that does not depend on what it takes."""
        self.packs = config.pack is not None
        self.footprints = Footprints()

    @property
    def workers(self) -> int:
        """How many trials fit on the nodes that are up now, of the smallest that were seen where they are packed."""
        need = self.given(None) if self.packs else self.need
        fit = sum(places(resources, need) for resources in alive().values()) // need.ranks
        if self.packs and not self.footprints.known and not need.gpus:
            fit = min(fit, 1)
        return fit if self._most is None else min(fit, self._most)

    def given(self, spec: TrialSpec | None, alone: bool = False) -> Need:
        """See :class:`~orchestrator.runners.packing.Places`: a share of a card, and of a node's memory."""
        need, largest = self.need, max((int(node.get("memory", 0)) for node in alive().values()), default=0)
        gpus = need.gpus and 1.0
        if alone:
            return replace(need, gpus=gpus, memory=0 if gpus else largest)
        expected, total = self.footprints.expected(spec), self.footprints.totals.get("gpu")
        if "host" in expected:
            # Never more than there is, or it could never run.
            need = replace(need, memory=min(grid(expected["host"]), largest))
        if "gpu" in expected and gpus and total:
            return replace(need, gpus=share(expected["gpu"] / total))
        return replace(need, card=expected.get("gpu", 0))

    def measured(self, given: Need, spec: TrialSpec) -> Need:
        """See :class:`~orchestrator.runners.packing.Places`. What Ray has given stays; what it knows nothing of is
        counted from now on."""
        now = self.given(spec)
        return replace(given, memory=max(given.memory, now.memory), card=max(given.card, now.card))

    def fit(self, given: Sequence[Need]) -> bool:
        """See :class:`~orchestrator.runners.packing.Places`."""
        if not self.footprints.known and not self.need.gpus:
            return len(given) == 1
        cards = self.footprints.totals.get("gpu", 0)
        return sum(need.card for need in given) <= cards and hold(list(alive().values()), given)

    def shared(self, given: Need) -> bool:
        """See :class:`~orchestrator.runners.packing.Places`."""
        return given.gpus < 1


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
