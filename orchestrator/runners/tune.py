"""Ray Tune, driven by a controller of ours: Tune places and runs trials, and decides nothing.

Two adapters hand Tune our decisions: a ``SearchAlgorithm`` (ask, tell) and a ``TrialScheduler`` (report). ``_Loop``
is Tune's own event loop without what it would write, print or keep: files and a snapshot of the experiment, tables,
every trial that ever ran. ``benchmarks/overhead.py`` compares the two.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")

import ray
from ray.air.execution import FixedResourceManager, PlacementGroupResourceManager
from ray.exceptions import OutOfMemoryError, RayActorError, RuntimeEnvSetupError
from ray.tune import PlacementGroupFactory
from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search.search_algorithm import SearchAlgorithm

from orchestrator.errors import ConfigError
from orchestrator.importing import one_line
from orchestrator.process import KILLED_FOR_MEMORY
from orchestrator.runners.base import Controller
from orchestrator.runners.bridge import Bridge
from orchestrator.runners.cluster import Need, Plan, alive
from orchestrator.runners.kills import KILLED_BY_RAY, KernelKills
from orchestrator.runners.limits import Clock
from orchestrator.runners.packing import Packing
from orchestrator.runners.ranks import RankedWorker
from orchestrator.runners.room import LOOK_S, Room
from orchestrator.runners.worker import TrialWorker
from orchestrator.types import End, Outcome, Reason, TrialSpec, Work

MOST_WORKERS = 1_000_000
"""Free workers that are kept: all."""
PATIENCE_S = 10.0
"""Seconds that a trial may wait for Ray to find room for it before no other begins: our guess."""
BATCH_S = 0.02
"""Seconds for which answers are collected before they are made durable and acted on: a few times what that costs."""


def run_trials(program: bytes, path: list[str], controller: Controller, plan: Plan, room: Room) -> None:
    """Run trials until ``controller`` has none and all are told.

    Args:
        program: a pickled :class:`~orchestrator.types.TrialProgram`.
        path: the driver's ``sys.path``.
        controller: what decides.
        plan: how many trials fit, and what each gets; asked again and again.
        room: for how long none may fit.

    Raises what :meth:`~orchestrator.runners.room.Room.wait` does."""
    packing = Packing(controller, plan) if plan.packs else None
    bridge = Bridge(packing or controller)
    loop = _Loop(bridge, plan, packing, {"program": program, "path": path})
    try:
        while not loop.is_finished():
            loop.follow_nodes(room)
            loop.step()
            loop.take_in_more()
            loop.end_overdue()
            loop.forget_ended()
    finally:
        loop.stop_workers()
    if bridge.error is not None:
        raise bridge.error


def _place(need: Need) -> PlacementGroupFactory:
    return PlacementGroupFactory(need.bundles, strategy="PACK")


class _Trial(Trial):  # type: ignore[misc]
    """Tune's record of one of our trials, while it runs."""

    def __init__(self, spec: TrialSpec, trial_id: str, resources: PlacementGroupFactory) -> None:
        # A stub: the loop knows the worker's class, and Tune need not look it up.
        super().__init__(
            "trial", stub=True, trial_id=trial_id, config={"spec": spec}, placement_group_factory=resources
        )
        self.asked = time.monotonic()

    def set_ray_actor(self, ray_actor: Any) -> None:
        """Tune would also ask the worker for its address and time here: a call for each trial."""
        self.temporary_state.ray_actor = ray_actor


class _AskTell(SearchAlgorithm):  # type: ignore[misc]
    """Tune's view of ``ask`` and ``tell``."""

    def __init__(self, bridge: Bridge, plan: Plan, packing: Packing[Need] | None) -> None:
        self._bridge = bridge
        self._plan = plan
        self._packing = packing

    def next_trial(self) -> Trial | None:
        trial_id = Trial.generate_id()
        spec = self._bridge.ask(trial_id)
        if spec is None:
            self._finished = self._bridge.done
            return None
        need = self._plan.need if self._packing is None else self._packing.running[spec.number]
        return _Trial(spec, trial_id, _place(need))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        died = Outcome(End.FAILED, Reason.WORKER_DIED, "its worker process or the node it was on died")
        self._bridge.tell(trial_id, (result or {}).get("outcome", died))


class _Reporting(TrialScheduler):  # type: ignore[misc]
    """Tune's view of ``report``."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing: the loop starts trials in the order in which they were asked for."""

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if self._bridge.report(trial.trial_id, result["epoch_result"]):
            return str(TrialScheduler.CONTINUE)
        tune_controller.end_early(trial)
        return str(TrialScheduler.NOOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing: see ``_AskTell.on_trial_complete``."""

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        """Nothing, likewise."""

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        """Nothing, likewise."""

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        return None

    def debug_string(self) -> str:
        return "decided by the study"


def _lost(actor: Any) -> bool:
    """Whether it is gone: Ray says so of a worker only when it is asked for something."""
    return bool(ray._private.state.actors(actor._actor_id.hex())["State"] != "ALIVE")


@dataclass(frozen=True)
class _Call:
    """Something that a worker is to do; with ``arguments``, what the trial is, that begins."""

    trial: Trial
    method: str
    on_result: Callable[..., None]
    arguments: tuple[Any, ...] = ()


class _Loop(TuneController):  # type: ignore[misc]
    """Tune's event loop, without its files, and with workers that stay."""

    def __init__(self, bridge: Bridge, plan: Plan, packing: Packing[Need] | None, arguments: dict[str, Any]) -> None:
        need = plan.need
        self._plan = plan
        # What Tune believes that there is. Where trials get different shares, only Ray knows how many fit.
        self._total = dict.fromkeys((*need.bundles[0], "memory"), math.inf)
        super().__init__(
            search_alg=_AskTell(bridge, plan, packing),
            scheduler=_Reporting(bridge),
            reuse_actors=True,
            # Without placement groups where a trial is one actor: Ray finds a place for that by itself.
            resource_manager_factory=lambda: (
                FixedResourceManager(self._total) if need.ranks == 1 else PlacementGroupResourceManager()
            ),
        )
        self._looked = -LOOK_S
        self._kills = KernelKills()
        self._bridge = bridge
        self._clocks: dict[Trial, Clock] = {}
        self._calls: list[_Call] = []
        self._arguments = arguments
        # No environment of its own, so that Ray takes a process that it has started in advance.
        self._worker_class = ray.remote(TrialWorker if need.ranks == 1 else RankedWorker)
        # Free workers that hold such shares are kept for the next trial, also while a stage waits for its last one.
        self._kept: set[PlacementGroupFactory] = set()

    def follow_nodes(self, room: Room) -> None:
        """Use as many workers as fit on the nodes that are up, and none that is gone."""
        if time.monotonic() - self._looked < LOOK_S:
            return
        workers = self._plan.workers
        room.fits(workers)
        self._looked = time.monotonic()
        self._kills.follow(list(alive()))
        if workers < self._bridge.workers:
            self._end_free(lambda request, actor: _lost(actor))
        self._bridge.workers = workers
        self._max_pending_trials = max(1, workers)
        if self._plan.packs:
            self._make_room()
        else:
            self._total.update({name: amount * workers for name, amount in self._plan.need.bundles[0].items()})

    def _make_room(self) -> None:
        """For trials that wait for Ray to place them end free workers of other shares, and hold back later ones."""
        pending = [trial for trial in self._trials if trial.status == Trial.PENDING]
        if pending:
            wanted = {trial.placement_group_factory for trial in pending}
            self._end_free(lambda request, actor: request not in wanted)
        late = time.monotonic() - PATIENCE_S
        self._bridge.draining |= {trial.trial_id for trial in pending if trial.asked < late}

    def _end_free(self, which: Callable[[PlacementGroupFactory, Any], bool]) -> None:
        """End the free workers of which ``which`` says so, of what they hold and who they are."""
        for request, actors in self._actor_cache._cached_objects.items():
            for tracked in list(actors):
                actor, _ = self._actor_manager._live_actors_to_ray_actors_resources[tracked]
                if which(request, actor):
                    actors.remove(tracked)
                    self._actor_cache._num_cached_objects -= 1
                    self._actor_manager.remove_actor(tracked, kill=True)

    def _update_trial_queue(self, blocking: bool = False, timeout: int = 600) -> bool:
        """Tune would wait here for a trial, and see no node that joins meanwhile."""
        return bool(super()._update_trial_queue(blocking=False))

    def checkpoint(self, force: bool = False, wait: bool = False) -> None:
        """Write nothing: the study is the state, and Tune never restores us."""

    def _wrapped(self) -> "_Loop":
        """What the adapters get to see. Tune's guard against misuse is for others' schedulers."""
        return self

    def _schedule_trial_actor(self, trial: Trial) -> None:
        """A free worker for ``trial``, or a new one."""
        request = trial.placement_group_factory
        if request not in self._kept:
            self._kept.add(request)
            self._actor_cache.increase_max(request, MOST_WORKERS)
        if self._maybe_reuse_cached_actor(trial):
            return
        actor = self._actor_manager.add_actor(
            cls=self._worker_class,
            resource_request=request,
            kwargs=self._arguments,
            on_start=self._actor_started,
            on_stop=self._actor_stopped,
            on_error=self._actor_failed,
        )
        self._trial_to_actor[trial] = actor
        self._actor_to_trial[actor] = trial

    def _maybe_reuse_cached_actor(self, trial: Trial) -> bool:
        """Tune would stop a starting worker as soon as another is free for its trial, again and again. We do where a
        node went, and the free one has the place for which the other waits."""
        crowded = len(self._actor_manager.live_actors) > self._bridge.workers
        if (trial in self._trial_to_actor and not crowded) or trial not in self._staged_trials:
            return False
        return bool(super()._maybe_reuse_cached_actor(trial))

    def _schedule_trial_reset(self, trial: Trial, new_config: dict[str, Any], new_experiment_tag: str) -> None:
        """Nothing to reset: the first step brings the new trial."""
        self._actor_started(self._trial_to_actor[trial])

    def _schedule_trial_train(self, trial: Trial) -> None:
        """The next epoch. The first one brings what the trial is."""
        arguments = (trial.config.pop("spec"),) if trial.config else ()
        if arguments:
            self._bridge.draining.discard(trial.trial_id)
            self._clocks[trial] = Clock(*arguments)
        self._call(trial, "step", self._on_training_result, arguments)

    def _on_training_result(self, trial: Trial, result: dict[str, Any]) -> None:
        """An epoch, or the end of a trial. A worker that has lost another rank of its trial goes, too: a node that is
        gone takes its part of their places with it."""
        outcome = result.get("outcome")
        if outcome is not None and outcome.reason is Reason.WORKER_DIED:
            self._bridge.ended(trial.trial_id, outcome)
            self._process_trial_failure(trial, RuntimeError(outcome.detail))
            return
        super()._on_training_result(trial, result)

    def end_early(self, trial: Trial) -> None:
        """Let the worker end ``trial`` in good order; then it is told."""
        self._call(trial, "end", self._ended_early)

    def _call(
        self, trial: Trial, method: str, on_result: Callable[..., None], arguments: tuple[Any, ...] = ()
    ) -> None:
        """Let the worker of ``trial`` do something, once what led to it is durable."""
        self._calls.append(_Call(trial, method, on_result, arguments))

    def _act(self) -> None:
        """Make durable what the controller knows, and then call the workers that wait for it.

        Where that fails, trials only end.
        """
        sound = self._bridge.commit()
        calls, self._calls = self._calls, []
        for call in calls:
            if call.trial not in self._trial_to_actor:
                continue
            if sound:
                self._make(call)
            elif call.arguments:
                self.stop_trial(call.trial)  # not begun
            else:
                self._make(_Call(call.trial, "end", self._ended_early))

    def _make(self, call: "_Call") -> None:
        self._clocks[call.trial].restart()
        self._schedule_trial_task(
            call.trial,
            call.method,
            args=call.arguments,
            on_result=call.on_result,
            on_error=self._trial_task_failure,
        )

    def _maybe_add_actors(self) -> None:
        """Tune waits for an event after this."""
        super()._maybe_add_actors()
        self._act()

    def take_in_more(self) -> None:
        """What has come in beside the event that a step deals with: one commit serves all."""
        events, until = self._actor_manager._actor_task_events, time.monotonic() + BATCH_S
        futures = list(events.get_futures())
        ready = ray.wait(futures, num_returns=len(futures), timeout=0)[0] if futures else []
        for future in ready:
            if time.monotonic() > until:
                break
            # Dealing with one may make others void.
            if future in events._tracked_futures:
                events.resolve_future(future)
        self._act()

    def _ended_early(self, trial: Trial, work: Work) -> None:
        self._bridge.worked(trial.trial_id, work)
        self.stop_trial(trial)

    def _process_trial_failure(self, trial: Trial, exception: Exception) -> None:
        """The worker is lost. Whether the trial is retried is the controller's to say, and Tune need not write the
        error to a file."""
        self._end_free(lambda request, actor: _lost(actor))
        if isinstance(exception, RuntimeEnvSetupError) or getattr(exception, "actor_init_failed", False):
            self._bridge.controller.error = ConfigError(
                f"runner: no worker can start: {one_line(exception)}; docs/cluster.md says what every "
                "node must have installed"
            )
        if isinstance(exception, OutOfMemoryError):
            self._bridge.ended(trial.trial_id, KILLED_BY_RAY)
        if isinstance(exception, RayActorError) and exception.actor_id and self._kills.of(exception.actor_id):
            self._bridge.ended(trial.trial_id, KILLED_FOR_MEMORY)
        self._search_alg.on_trial_complete(trial.trial_id, error=True)
        self._schedule_trial_stop(trial, exception=exception)
        self._live_trials.discard(trial)

    def end_overdue(self) -> None:
        """End the trials that have reached a limit, with their workers. One whose answer lies ready has not."""
        for trial, clock in list(self._clocks.items()):
            if trial.status != Trial.RUNNING:
                del self._clocks[trial]
            elif (outcome := clock.over()) is not None and not self._answered(trial):
                self._bridge.ended(trial.trial_id, outcome)
                self._process_trial_failure(trial, TimeoutError(outcome.detail))

    def _answered(self, trial: Trial) -> bool:
        asked = self._actor_manager._tracked_actors_to_task_futures[self._trial_to_actor[trial]]
        # Those that have been dealt with stay in there.
        open_ = asked & set(self._actor_manager._actor_task_events.get_futures())
        return not open_ or bool(ray.wait(list(open_), timeout=0)[0])

    def _remove_actor(self, tracked_actor: Any) -> None:
        self._actor_manager.remove_actor(tracked_actor, kill=True)

    def forget_ended(self) -> None:
        """Tune keeps every trial for its result table: memory, and scans that grow with each trial."""
        ended = self._stopped_trials | self._failed_trials
        if ended:
            self._trials[:] = [trial for trial in self._trials if trial not in ended]
            self._trials_to_cache -= ended
            self._stopped_trials.clear()
            self._failed_trials.clear()

    def stop_workers(self) -> None:
        """Kill all workers. No trial is under way then, unless the command itself was interrupted."""
        for actor, _ in self._actor_manager._live_actors_to_ray_actors_resources.values():
            ray.kill(actor)
