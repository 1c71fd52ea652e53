"""Ray Tune, driven by a controller of ours: Tune places and runs the trials, and decides nothing.

Two adapters hand Tune our decisions: a ``Searcher`` (ask, tell) and a ``TrialScheduler`` (report).
Everything Tune would decide or write by itself is off.
"""

import logging
import os
import pickle
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

# Read by Tune when it is imported or run: no files, tables and error reports for each trial, no handling of
# Ctrl-C of its own.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_PRINT_ALL_TRIAL_ERRORS", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1000000000")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")

from ray import cloudpickle, tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from orchestrator.runners.base import Controller
from orchestrator.trial import failure
from orchestrator.types import Decision, End, EpochResult, Outcome, Reason, TrialProgram, TrialSpec

logging.getLogger("ray.tune").setLevel(logging.CRITICAL)


def run_trials(program: TrialProgram, controller: Controller, workers: int, resources: Mapping[str, float]) -> None:
    """Run trials until ``controller`` has none and all are told.

    Args:
        program: what a worker runs.
        controller: what decides.
        workers: how many trials run at a time.
        resources: ``cpu`` and ``gpu`` of one trial.
    """
    # Let all workers start at once. By default Tune asks for one trial, waits until its worker is up,
    # and gives the next short trial to that one: the second worker never starts.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(workers)
    bridge = _Bridge(controller, workers)
    actor = tune.with_parameters(_TrialActor, program=cloudpickle.dumps(program), path=list(sys.path))
    with tempfile.TemporaryDirectory(prefix="orchestrator-tune-") as scratch:
        tuner = tune.Tuner(
            tune.with_resources(actor, dict(resources)),
            tune_config=tune.TuneConfig(
                search_alg=_AskTell(bridge),
                scheduler=_Reporting(bridge),
                num_samples=-1,
                reuse_actors=True,
                trial_name_creator=lambda trial: str(trial.trial_id),
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                storage_path=scratch,
                name="stage",
                verbose=0,
                # Trials checkpoint themselves.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
            ),
        )
        tuner.fit()
    if bridge.error is not None:
        raise bridge.error


class _TrialActor(tune.Trainable):  # type: ignore[misc]
    """A worker. It stays alive between trials (``reuse_actors``), with PyTorch and the data loaded."""

    _epochs: Iterator[EpochResult] | None = None

    def setup(self, config: dict[str, Any], program: bytes, path: list[str]) -> None:
        """Begin the first trial. The program is unpickled here, where the user's modules can be found."""
        sys.path.extend(entry for entry in path if entry not in sys.path)
        self._program: TrialProgram = pickle.loads(program)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in the same process."""
        self.cleanup()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        self._spec: TrialSpec = config["spec"]
        self._epochs = None

    def step(self) -> dict[str, Any]:
        """One epoch, or the end of the trial. A failure is a result too, so that the actor lives on."""
        try:
            if self._epochs is None:
                self._epochs = self._program(self._spec)
            return {"epoch_result": next(self._epochs), "done": False}
        except StopIteration:
            return {"outcome": Outcome(End.FINISHED), "done": True}
        except Exception as error:
            return {"outcome": failure(error), "done": True}

    def cleanup(self) -> None:
        """End the trial in good order: a stopped one is checkpointed."""
        if self._epochs is not None:
            self._epochs.close()  # type: ignore[attr-defined]
            self._epochs = None


class _Bridge:
    """What the two adapters share: which Tune trial is which of ours, and how it ended."""

    def __init__(self, controller: Controller, workers: int) -> None:
        self._controller = controller
        self._workers = workers
        self._numbers: dict[str, int] = {}
        self._ends: dict[str, Outcome] = {}
        self.error: BaseException | None = None
        """What the controller raised. Tune would bury it in a log."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        """Tune pickles its searcher to restore it later. Ours lives in the study: nothing is kept."""
        return (object, ())

    def ask(self, trial_id: str) -> TrialSpec | None:
        if len(self._numbers) >= self._workers or self.error is not None:
            return None
        try:
            spec = self._controller.ask()
        except BaseException as error:
            self.error = error
            return None
        if spec is not None:
            self._numbers[trial_id] = spec.number
        return spec

    @property
    def idle(self) -> bool:
        return not self._numbers

    def report(self, trial_id: str, result: EpochResult) -> bool:
        """Whether the trial goes on."""
        if self.error is not None:
            return False
        try:
            decision = self._controller.report(self._numbers[trial_id], result)
        except BaseException as error:
            self.error = error
            return False
        if decision is not Decision.CONTINUE:
            self._ends[trial_id] = Outcome(End.STOPPED if decision is Decision.STOP else End.PAUSED)
        return decision is Decision.CONTINUE

    def tell(self, trial_id: str, outcome: Outcome | None) -> None:
        number = self._numbers.pop(trial_id, None)
        if number is None or self.error is not None:
            return
        died = Outcome(End.FAILED, Reason.WORKER_DIED, "the worker process died")
        try:
            self._controller.tell(number, self._ends.pop(trial_id, outcome or died))
        except BaseException as error:
            self.error = error


class _AskTell(Searcher):  # type: ignore[misc]
    """Tune's view of ``ask`` and ``tell``."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        spec = self._bridge.ask(trial_id)
        if spec is not None:
            return {"spec": spec}
        # None: ask again soon. FINISHED: never again, so only when nothing runs that could change it.
        return Searcher.FINISHED if self._bridge.idle else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._bridge.tell(trial_id, None if error or result is None else result.get("outcome"))

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the state, and Tune never restores us."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, likewise."""


class _Reporting(TrialScheduler):  # type: ignore[misc]
    """Tune's view of ``report``."""

    def __init__(self, bridge: _Bridge) -> None:
        super().__init__()
        self._bridge = bridge
        self._pending: dict[str, Trial] = {}

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        self._pending[trial.trial_id] = trial

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        goes_on = self._bridge.report(trial.trial_id, result["epoch_result"])
        return str(TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        self._pending.pop(trial.trial_id, None)

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        self._pending.pop(trial.trial_id, None)

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        self._pending.pop(trial.trial_id, None)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """The oldest pending trial, from the few open ones instead of all that ever ran."""
        open_trials = self._pending.values()
        return next((trial for trial in open_trials if trial.status == Trial.PENDING), None)

    def debug_string(self) -> str:
        return "decided by the study"
