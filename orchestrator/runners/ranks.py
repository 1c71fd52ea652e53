"""One trial on several ranks on Ray: each has a bundle of the trial's placement group, on whichever node that lies.

Tune places the trial's worker, the first rank, in the first bundle; that starts the others in the rest. They stay for
the next trial, and die with the first rank, because an actor dies with what owns it. Ray Train's ``TorchTrainer``
is not used: it starts new actors, which import PyTorch, for every training (33 seconds each for two workers that do
nothing, on two CPU cores that had more to do; here the next trial finds its ranks up), and keeps a folder of its own
for each; and the gradients of ``DistributedDataParallel`` are not those of one worker where the shares differ.
"""

import sys
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.util import get_current_placement_group, get_node_ip_address, placement_group_table
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.process import KILLED_FOR_MEMORY
from orchestrator.runners.kills import KILLED_BY_RAY, KernelKills
from orchestrator.runners.worker import TrialWorker
from orchestrator.training.team import LocalPeer, Peers, use_peers
from orchestrator.types import End, Outcome, Reason


class RankHost:
    """An actor that starts a rank on its node, and passes on what that is asked for and how it ends.

    The rank is a process of its own, so that it can end, and be felt to have ended by the others, at once.
    """

    def __init__(self, path: list[str]) -> None:
        """``path``: the ``sys.path`` of the first rank."""
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._peer = LocalPeer()

    def up(self) -> Outcome | None:
        """Whether it has started."""
        return self._peer.answer()

    def ask(self, name: str, *arguments: Any) -> Outcome | None:
        """See :class:`~orchestrator.training.team.Peer`: ``call`` and ``answer``."""
        self._peer.call(name, *arguments)
        return self._peer.answer()


class RayPeer:
    """See :class:`~orchestrator.training.team.Peer`."""

    def __init__(self, actor: Any, kills: KernelKills) -> None:
        self.alive = True
        self._kills = kills
        self._actor = actor
        self._asked = actor.up.remote()

    def call(self, name: str, *arguments: Any) -> None:
        """See :class:`~orchestrator.training.team.Peer`."""
        self._asked = self._actor.ask.remote(name, *arguments)

    def answered(self, timeout_s: float | None) -> bool:
        """See :class:`~orchestrator.training.team.Peer`."""
        return bool(ray.wait([self._asked], timeout=timeout_s)[0])

    def answer(self) -> Outcome | None:
        """See :class:`~orchestrator.training.team.Peer`."""
        try:
            answer: Outcome | None = ray.get(self._asked)
        except (OutOfMemoryError, RayActorError) as error:
            self.alive = False
            if isinstance(error, OutOfMemoryError):
                return KILLED_BY_RAY
            if self._kills.of(self._actor._actor_id.hex()):
                return KILLED_FOR_MEMORY
            return Outcome(End.FAILED, Reason.WORKER_DIED, "its worker process or the node it was on died")
        # A rank that fails by itself ends, too; after what all see alike the team closes or goes on.
        self.alive = answer is None or answer.reason is not Reason.WORKER_DIED
        return answer

    def kill(self) -> None:
        """See :class:`~orchestrator.training.team.Peer`."""
        self.alive = False
        ray.kill(self._actor)


def ray_peers(count: int) -> Peers:
    """Start ``count`` more ranks, in the bundles of this worker's placement group behind its own."""
    group = get_current_placement_group()
    host = ray.remote(RankHost)
    others, kills = [], KernelKills()
    kills.follow(sorted(set(placement_group_table(group)["bundles_to_node_id"].values())))
    for index, bundle in enumerate(group.bundle_specs[1 : count + 1], start=1):
        place = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=index)
        given = {"num_cpus": bundle.get("CPU", 0), "num_gpus": bundle.get("GPU", 0)}
        actor = host.options(scheduling_strategy=place, **given).remote(list(sys.path))
        others.append(RayPeer(actor, kills))
    return Peers(get_node_ip_address(), others)


class RankedWorker(TrialWorker):
    """The worker of trials on several ranks: the first of them."""

    def __init__(self, program: bytes, path: list[str]) -> None:
        super().__init__(program, path)
        use_peers(ray_peers)
