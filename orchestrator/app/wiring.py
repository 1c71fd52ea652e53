"""The one place where parts are put together: runner, tracker, sweep."""

import platform
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from orchestrator.config.schema import RunConfig
from orchestrator.errors import ConfigError, StorageError
from orchestrator.masking import mask
from orchestrator.progress import Progress
from orchestrator.runners.base import Runner
from orchestrator.runners.inline import InlineRunner
from orchestrator.runners.local import LocalRunner
from orchestrator.stages.studies import check_server
from orchestrator.stages.sweep import CHECKPOINT_DIR, Plan, Sweep
from orchestrator.stores import check_writable, parse_location
from orchestrator.tracking.address import tracking_uri
from orchestrator.tracking.backlog import Backlog
from orchestrator.tracking.base import Tracker
from orchestrator.tracking.memory import NullTracker
from orchestrator.tracking.mlflow import MlflowTracker
from orchestrator.tracking.mlflow_client import problem_at
from orchestrator.trial import TrainingProgram

JOB_FOLDER = "/runtime_resources/working_dir_files/"
"""Part of the path of every folder in which Ray unpacks what ``ray job submit`` brings."""


def make_runner(run: RunConfig, progress: Progress, stopping: Callable[[], bool]) -> Runner:
    """The runner named in the command's configuration; ``stopping`` says whether it shall wait no longer for room."""
    config = run.runner
    if config.name == "inline":
        return InlineRunner()
    if config.name == "local":
        return LocalRunner(config)
    # Here: importing Ray takes seconds that the local runner need not pay.
    from orchestrator.runners.ray import RayRunner

    def waiting(text: str) -> bool:
        progress.update(text)
        return not stopping()

    return RayRunner(config, leave_out=[Path(run.sweep.dir)], ranks=run.trainer.workers, waiting=waiting)


def check_tracking(config: RunConfig) -> None:
    """Refuse an address at which no MLflow answers. The default needs no check.

    Raises:
        ConfigError: with what MLflow said.
    """
    uri = config.tracking.uri
    if config.tracking.name == "none" or uri is None:
        return
    if (problem := problem_at(uri)) is not None:
        raise ConfigError(
            f"tracking.uri={mask(uri)}: MLflow does not answer there: {mask(problem)}; start its server, correct the "
            "address, or do without: tracking=none"
        )


def check_storage(config: RunConfig) -> None:
    """Refuse a database server that does not answer.

    Raises:
        ConfigError: with what it said.
    """
    if config.sweep.storage is not None:
        check_server(config.sweep.storage)


def check_sweep_dir(plan: Plan) -> None:
    """Refuse to keep a sweep where Ray unpacks what ``ray job submit`` brings: it is removed with the job.

    Raises:
        ConfigError: with what to do.
    """
    if JOB_FOLDER in str(plan.folder):
        raise ConfigError(
            f"sweep.dir={plan.config.sweep.dir}: lies in the copy of your folder that Ray made for this job and will "
            "remove; give a folder of the node that stays: sweep.dir=/PATH"
        )


def check_checkpoint_dir(config: RunConfig) -> None:
    """Refuse a place for checkpoints that cannot be written to from here.

    Raises:
        ConfigError: with what the place said.
    """
    chosen = config.trainer.checkpoint_dir
    if chosen is None:
        return
    try:
        check_writable(parse_location(chosen, CHECKPOINT_DIR))
    except StorageError as error:
        raise ConfigError(f"{CHECKPOINT_DIR}={chosen}: {error}") from None


def make_tracker(sweep: Sweep) -> Tracker:
    """The tracker named in the sweep's configuration."""
    tracking = sweep.config.tracking
    if tracking.name == "none":
        return NullTracker()
    return MlflowTracker(
        tracking_uri(sweep.config),
        sweep.config.task.name,
        sweep.ledger.sweep_id,
        flush_s=tracking.flush_s,
        close_timeout_s=tracking.close_timeout_s,
        backlog=Backlog(sweep.folder),
    )


def make_program(config: RunConfig) -> TrainingProgram:
    """What workers run."""
    return TrainingProgram(config.task, config.trainer, threads=config.runner.cpus_per_trial)


def code_version() -> dict[str, str]:
    """Tags that say what code ran: this package, Python, PyTorch, and the commit of the working folder."""
    tags = {"python": platform.python_version(), "host": platform.node()}
    for package in ("neural-orchestrator", "torch", "optuna"):
        try:
            tags[f"version.{package}"] = version(package)
        except PackageNotFoundError:
            tags[f"version.{package}"] = "not installed"
    found = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    if found.returncode == 0:
        tags["mlflow.source.git.commit"] = found.stdout.strip()
    return tags
