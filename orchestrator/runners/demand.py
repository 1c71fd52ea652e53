"""How large all sweeps on a Ray cluster together ask it to be.

Ray's autoscaler keeps one request for the whole cluster, until it is overwritten: of two sweeps the last one's would
count, and that of a command that was killed would stay. So one small actor asks for the sum, of the sweeps that it
hears of, and ends when it hears of none. It lives on when the sweep does that started it.
"""

import json
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import ray
from ray._private.ray_constants import DEBUG_AUTOSCALING_STATUS
from ray.autoscaler.sdk import request_resources
from ray.experimental.internal_kv import _internal_kv_get
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Bundles = Sequence[dict[str, float]]

NAME, NAMESPACE = "demand", "orchestrator"
AGAIN_S = 5.0
"""Seconds between two calls of a sweep: our guess."""
FORGET_S = 60.0
"""Seconds after which a sweep that does not call any more asks for nothing: our guess."""
ANSWER_S = 10.0
"""Seconds that the actor has to say that it has done what it was asked: our guess."""


class Sum:
    """What was asked for, by whom.

    Args:
        request: asks the cluster for bundles, instead of what it was asked for before.
        clock: seconds.
    """

    def __init__(self, request: Callable[[Bundles], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._request = request
        self._clock = clock
        self._heard: dict[str, tuple[float, Bundles]] = {}
        self._asked: Bundles = []

    def ask(self, who: str, bundles: Bundles) -> None:
        """From now on ``who`` needs ``bundles``, for ``FORGET_S``."""
        self._heard[who] = (self._clock(), bundles)
        self.review()

    def review(self) -> bool:
        """Forget who was not heard of for long, and ask for the others; whether anybody asks for anything."""
        since = self._clock() - FORGET_S
        self._heard = {who: (at, asked) for who, (at, asked) in self._heard.items() if at >= since and asked}
        together = [bundle for _, asked in self._heard.values() for bundle in asked]
        if together != self._asked:
            self._request(together)
            self._asked = together
        return bool(together)


class _Actor:
    """A :class:`Sum` on the cluster, that is looked after."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sum = Sum(lambda bundles: request_resources(bundles=list(bundles)))
        threading.Thread(target=self._watch, daemon=True).start()

    def ask(self, who: str, bundles: Bundles) -> None:
        """See :class:`Sum`."""
        with self._lock:
            self._sum.ask(who, bundles)

    def _watch(self) -> None:
        asked = True
        while asked:
            time.sleep(AGAIN_S)
            with self._lock:
                asked = self._sum.review()
        os._exit(0)


class Demand:
    """What one sweep asks of the cluster that this process is connected to."""

    def __init__(self) -> None:
        self._who = ray.get_runtime_context().get_job_id()
        self._said = -AGAIN_S

    def ask(self, bundles: Bundles) -> None:
        """Ask for ``bundles``; to be called again and again, and often: it counts for ``FORGET_S``."""
        if time.monotonic() - self._said >= AGAIN_S:
            self._said = time.monotonic()
            self._call(bundles)

    def give_back(self) -> None:
        """Ask for nothing any more. Raises what Ray does where the cluster does not answer."""
        ray.get(self._call([]), timeout=ANSWER_S)

    def _call(self, bundles: Bundles) -> "ray.ObjectRef[None]":
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        actor = ray.remote(_Actor).options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            num_cpus=0,
            scheduling_strategy=here,
        )
        return cast("ray.ObjectRef[None]", actor.remote().ask.remote(self._who, bundles))


def grows() -> bool | None:
    """Whether the cluster has an autoscaler that can add nodes; None: that is not known (yet)."""
    text = _internal_kv_get(DEBUG_AUTOSCALING_STATUS)
    report: dict[str, Any] | None = json.loads(text).get("autoscaler_report") if text else None
    if report is None:
        return None
    # Where nobody configured one it shows each node as of a type of its own.
    kinds = {**report["active_nodes"], **(report.get("idle_nodes") or {})}
    return not kinds or not all(kind.startswith("node_") for kind in kinds)
