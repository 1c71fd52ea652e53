"""Which workers the kernels of a Ray cluster's nodes have killed for want of memory: Ray itself says only of those
that it killed, before the kernel did."""

from typing import cast

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from orchestrator.process import killed_for_memory
from orchestrator.types import End, Outcome, Reason

KILLED_BY_RAY = Outcome(End.FAILED, Reason.HOST_OUT_OF_MEMORY, "Ray killed its worker: the node is low on memory")
"""How a trial ended whose worker Ray killed before the kernel had to."""
ANSWER_S = 10.0
"""Seconds that a node has to say what it counts: our guess."""


class KernelKills:
    """What each node counts, from when it was first seen."""

    def __init__(self) -> None:
        self._here = ray.get_runtime_context().get_node_id()
        self._known: dict[str, int | ray.ObjectRef[int]] = {}

    def follow(self, nodes: list[str]) -> None:
        """Note what the ``nodes`` (ids) count that are new."""
        for node in nodes:
            if node not in self._known:
                self._known[node] = self._ask(node)

    def of(self, actor: str) -> bool:
        """Whether the kernel killed the ``actor`` (id), for all that its node counts: more has been killed there than
        this has been said of. False where the node does not answer."""
        node = ray._private.state.actors(actor)["Address"]["NodeID"]
        if node not in self._known:
            return False
        try:
            before, now = _get(self._known[node]), _get(self._ask(node))
        except (GetTimeoutError, RayError):
            return False
        if now > before:
            self._known[node] = before + 1
        return now > before

    def _ask(self, node: str) -> "int | ray.ObjectRef[int]":
        """What it counts; of another machine, later."""
        if node == self._here:
            return killed_for_memory()
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        task = ray.remote(killed_for_memory).options(num_cpus=0, scheduling_strategy=there)
        return cast("ray.ObjectRef[int]", task.remote())


def _get(count: "int | ray.ObjectRef[int]") -> int:
    return count if isinstance(count, int) else int(ray.get(count, timeout=ANSWER_S))
