"""What several sweeps ask of one cluster together; that an autoscaler would read it is in ``test_ray_cluster.py``."""

import json
from typing import Any

import pytest

from orchestrator.runners import demand
from orchestrator.runners.demand import FORGET_S, Sum, grows

SMALL, LARGE = {"CPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_sum_of_all_who_are_heard_of_is_asked_for() -> None:
    asked: list[Any] = []
    clock = Clock()
    together = Sum(lambda bundles: asked.append(list(bundles)), clock)
    together.ask("a", [SMALL, SMALL])
    together.ask("b", [LARGE])
    together.ask("a", [SMALL, SMALL])
    assert asked == [[SMALL, SMALL], [SMALL, SMALL, LARGE]], "the same is not asked for again"
    together.ask("a", [])
    assert asked[-1] == [LARGE]
    assert together.review()
    # The driver of b was killed; c is heard of all the while.
    for _ in range(8):
        clock.now += FORGET_S / 6
        together.ask("c", [SMALL])
    assert asked[-1] == [SMALL]
    together.ask("c", [])
    assert asked[-1] == []
    assert not together.review()


@pytest.mark.parametrize(
    ("report", "adds"),
    [
        (None, None),
        ({}, None),
        # As the monitor of a cluster that was started by hand says it, and one with KubeRay's groups.
        ({"autoscaler_report": {"active_nodes": {"node_18f2": 1}, "idle_nodes": {"node_aa01": 1}}}, False),
        ({"autoscaler_report": {"active_nodes": {"headgroup": 1}, "idle_nodes": None}}, True),
        ({"autoscaler_report": {"active_nodes": {}, "idle_nodes": {}}}, True),
    ],
)
def test_whether_a_cluster_adds_nodes(
    report: dict[str, Any] | None, adds: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = None if report is None else json.dumps(report).encode()
    monkeypatch.setattr(demand, "_internal_kv_get", lambda key: text)
    assert grows() is adds
