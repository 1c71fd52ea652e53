"""Room for trials on a joined cluster that can grow: asked for, waited for, and given back.

No more trials are begun than fit, so an autoscaler would never see that there are more. With ``runner.workers`` it is
told how many there will be (:mod:`~orchestrator.runners.demand`).
"""

import logging
import time
from collections import Counter
from collections.abc import Callable

from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import ConfigError, InterruptedSweepError
from orchestrator.runners.cluster import Plan, alive
from orchestrator.runners.demand import Demand, grows

LOOK_S = 1.0
"""Seconds between two looks at which nodes are up."""
JOIN_S = 60.0
"""Seconds that nodes have to join a cluster that nobody adds any to (a script may be starting them): our guess."""


class Room:
    """What a runner asks of its cluster, and how long it does without.

    Args:
        config: where trials run.
        plan: how many of them fit now.
        waiting: told again and again what is waited for; says whether to go on.
    """

    def __init__(self, config: RunnerConfig, plan: Plan, waiting: Callable[[str], bool]) -> None:
        self._config = config
        self._plan = plan
        self._waiting = waiting
        # A private cluster cannot grow.
        self._grows = config.address is not None and config.workers is not None
        self._demand: Demand | None = None
        self._since: float | None = None

    def ask(self) -> None:
        """Ask for room for all trials at a time, if there is somebody to ask; again and again."""
        if self._grows:
            self._demand = self._demand or Demand()
            bundles = [{name: part for name, part in bundle.items() if part} for bundle in self._plan.need.bundles]
            self._demand.ask(bundles * (self._config.workers or 0))

    def give_back(self) -> None:
        """Take back what was asked."""
        demand, self._demand = self._demand, None
        if demand is not None:
            try:
                demand.give_back()
            except Exception:
                # The cluster is gone. Nothing may hide how the command ended.
                logging.getLogger("orchestrator.files").exception("what was asked of the cluster could not be undone")

    def wait(self) -> None:
        """Wait until a trial fits.

        Raises:
            ConfigError: none does, and the cluster is not asked to grow or did not for ``runner.wait_s``.
            InterruptedSweepError: it is not to be waited for.
        """
        while not self.fits(self._plan.workers, self._first_wait()):
            time.sleep(LOOK_S)

    def _first_wait(self) -> float:
        if not self._grows:
            return 0.0
        return min(JOIN_S, self._config.wait_s) if grows() is False else self._config.wait_s

    def fits(self, workers: int, most_s: float | None = None) -> bool:
        """Whether any of the trials fits, of which now ``workers`` do. Raises what :meth:`wait` does.

        Args:
            workers: how many fit.
            most_s: seconds that none may; None: ``runner.wait_s``.
        """
        self.ask()
        if workers > 0:
            self._since = None
            return True
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        waited, most = now - self._since, self._config.wait_s if most_s is None else most_s
        if waited >= most:
            raise ConfigError(f"runner: no worker fits: {self._describe()}{self._advice(most)}")
        text = f"waiting for room: {self._describe()} ({waited:.0f} s of at most {most:g})"
        if not self._waiting(text):
            raise InterruptedSweepError(
                "interrupted while no worker fitted; the same command goes on from the last checkpoints"
            )
        return False

    def _describe(self) -> str:
        config = self._config
        asked = f"{config.workers} workers are asked for; " if self._demand is not None else ""
        fixed = ", and it has no autoscaler that adds any" if asked and grows() is False else ""
        kinds = Counter(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in alive().values())
        found = ", ".join(f"{count} with {kind}" for kind, count in sorted(kinds.items()))
        return (
            f"{asked}a trial needs {config.cpus_per_trial} CPU and {config.gpus_per_trial:g} GPU, "
            f"Ray's nodes are {found or 'gone'}{fixed}"
        )

    def _advice(self, waited_s: float) -> str:
        if waited_s:
            return f"; waited for {waited_s:g} seconds (runner.wait_s={self._config.wait_s:g})"
        return "; runner.workers=N asks a cluster that can grow for room" if self._config.address is not None else ""
