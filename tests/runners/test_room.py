"""Room on a cluster that can grow; that it is asked for and found is in ``test_ray_cluster.py``."""

import time
from collections.abc import Mapping
from typing import Any

import pytest

from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import ConfigError, InterruptedSweepError
from orchestrator.runners import room
from orchestrator.runners.cluster import Plan
from orchestrator.runners.room import Room

JOINED = {"name": "ray", "address": "auto", "workers": 2, "cpus_per_trial": 4, "gpus_per_trial": 2.0}


class Cluster:
    """Stands for Ray: what it is asked, and the nodes that are up."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[Any] = []
        self.nodes: dict[str, Mapping[str, float]] = {"head": {"CPU": 8.0}}
        self.grows: bool | None = True
        monkeypatch.setattr(room, "Demand", lambda: self)
        monkeypatch.setattr(room, "grows", lambda: self.grows)
        monkeypatch.setattr("orchestrator.runners.cluster.alive", lambda: self.nodes)
        monkeypatch.setattr(room, "alive", lambda: self.nodes)
        monkeypatch.setattr(room, "LOOK_S", 0.001)

    def ask(self, bundles: Any) -> None:
        self.asked.append(bundles)

    def give_back(self) -> None:
        self.asked.append([])

    def room(self, waiting: Any = lambda text: True, ranks: int = 1, **settings: Any) -> Room:
        config = RunnerConfig(**{**JOINED, **settings})
        return Room(config, Plan(config, ranks), waiting)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


def test_all_ranks_of_all_trials_are_asked_for_and_given_back_once(cluster: Cluster) -> None:
    found = cluster.room(ranks=2)
    found.ask()
    found.give_back()
    found.give_back()
    cluster.room(gpus_per_trial=0.0).ask()
    assert cluster.asked == [[{"CPU": 2.0, "GPU": 1.0}] * 4, [], [{"CPU": 4.0}] * 2]


@pytest.mark.parametrize("settings", [{"address": None}, {"workers": None}])
def test_nothing_is_asked_of_ones_own_cluster_or_without_a_number(cluster: Cluster, settings: dict[str, Any]) -> None:
    found = cluster.room(**settings)
    found.ask()
    found.give_back()
    assert cluster.asked == []
    with pytest.raises(ConfigError, match="a trial needs 4 CPU and 2 GPU, Ray's nodes are 1 with 8 CPU"):
        found.wait()


def test_it_waits_until_a_node_joins(cluster: Cluster) -> None:
    said: list[str] = []

    def waiting(text: str) -> bool:
        said.append(text)
        if len(said) == 3:
            cluster.nodes["new"] = {"CPU": 8.0, "GPU": 2.0}
        return True

    found = cluster.room(waiting)
    found.ask()
    found.wait()
    assert len(said) == 3
    assert said[0].startswith("waiting for room: 2 workers are asked for; a trial needs 4 CPU and 2 GPU, Ray's nodes")


def test_it_does_not_wait_for_ever_nor_when_told_to_stop(cluster: Cluster) -> None:
    with pytest.raises(ConfigError, match=r"waited for 0\.01 seconds \(runner\.wait_s=0\.01\)"):
        cluster.room(wait_s=0.01).wait()
    with pytest.raises(InterruptedSweepError, match="the same command goes on"):
        cluster.room(lambda text: False).wait()


def test_nodes_that_nobody_adds_are_not_waited_for_long(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster without an autoscaler: that is said at once, and scripts that start nodes have a minute."""
    monkeypatch.setattr(room, "JOIN_S", 0.02)
    said: list[str] = []
    cluster.grows = False
    with pytest.raises(ConfigError, match=r"no worker fits: .*waited for 0\.02 seconds \(runner\.wait_s=600\)"):
        cluster.room(lambda text: not said.append(text)).wait()
    assert "Ray's nodes are 1 with 8 CPU and 0 GPU, and it has no autoscaler that adds any" in said[0]
    cluster.grows = None
    with pytest.raises(InterruptedSweepError):
        cluster.room(lambda text: not said.append(text) and len(said) < 60).wait()


def test_time_without_room_counts_from_when_it_was_lost(cluster: Cluster) -> None:
    found = cluster.room(wait_s=0.05, workers=None)
    assert not found.fits(0)
    time.sleep(0.06)
    assert found.fits(1)
    assert not found.fits(0)
    time.sleep(0.06)
    with pytest.raises(ConfigError, match="no worker fits"):
        found.fits(0)
