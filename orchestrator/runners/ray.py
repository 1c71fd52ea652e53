"""Trials on Ray: starting and stopping it. How Tune is driven is in :mod:`orchestrator.runners.tune`."""

import importlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Read by Ray when it is imported. The first keeps Ray's own processes on loopback: without it they
# listen on every interface.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import cloudpickle
from ray._private.authentication import authentication_token_setup
from ray.exceptions import RuntimeEnvSetupError

from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import ConfigError
from orchestrator.runners.base import Controller
from orchestrator.runners.cluster import Plan, runtime_env
from orchestrator.runners.room import Room
from orchestrator.types import TrialProgram

OBJECT_STORE_BYTES = 200 * 1024**2
"""Ray's shared memory on a private cluster: only programs and results pass through it."""


def _to_log(data: dict[str, Any], ignore_prefix: bool) -> None:
    """What Ray's own processes have to say, such as the last dump of one that was killed, is for the log: what it
    means for the trials a line of ours says. Ray would print it (``print_to_stdstream``), whatever ``log_to_driver``.
    """
    for text in data["lines"]:
        logging.getLogger("orchestrator.files").info("Ray: %s", text.rstrip())


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """``ray.init`` takes SIGTERM for itself, in Python and in C. Schedulers send it before they take a machine away;
    what it means stays the command's to say."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


class RayRunner:
    """See :class:`~orchestrator.runners.base.Runner`."""

    def __init__(
        self,
        config: RunnerConfig,
        leave_out: Sequence[Path] = (),
        ranks: int = 1,
        waiting: Callable[[str], bool] = lambda text: True,
    ) -> None:
        """
        Args:
            config: where trials run.
            leave_out: folders that do not travel to the nodes of a joined cluster.
            ranks: of each trial.
            waiting: told again and again for what room is waited; says whether to go on.

        Raises:
            ConfigError: there is no such cluster, or no trial fits on it.
            InterruptedSweepError: ``waiting`` said no.
        """
        self._config = config
        self._plan = Plan(config, ranks)
        self._room = Room(config, self._plan, waiting)
        self._leave_out = leave_out
        self._owned = not ray.is_initialized()
        ray._private.worker.print_to_stdstream = _to_log
        # Importing Tune takes two seconds, in which Ray's processes can start.
        importing = threading.Thread(target=importlib.import_module, args=("orchestrator.runners.tune",))
        importing.start()
        try:
            if self._owned:
                with _own_sigterm():
                    self._start()
        finally:
            importing.join()
        try:
            self._room.ask()
            self._room.wait()
        except BaseException:
            self.close()
            raise

    @property
    def workers(self) -> int:
        """How many trials run at a time on the nodes that are up now."""
        return self._plan.workers

    def _start(self) -> None:
        if self._config.address is not None:
            self._join(self._config.address)
            return
        needed = (self._config.workers or 0) * self._config.cpus_per_trial
        memory = None if self._config.memory_gb is None else int(self._config.memory_gb * 1e9)
        ray.init(
            address="local",
            num_cpus=max(needed, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _memory=memory,
            log_to_driver=False,
            logging_level="error",
            _node_ip_address="127.0.0.1",
        )

    def _join(self, address: str) -> None:
        environment = runtime_env(self._config, self._leave_out)
        # ``ray start`` asks for the token of ~/.ray where there is one; a driver shows it only when told to.
        logging.getLogger(authentication_token_setup.__name__).setLevel(logging.ERROR)
        authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
        try:
            ray.init(address=address, runtime_env=environment, log_to_driver=False, logging_level="error")
        except (ConnectionError, ValueError, RuntimeEnvSetupError) as error:
            text = " ".join(str(error).split())
            if environment is None or "exceeds the maximum size" not in text:
                raise ConfigError(f"runner.address={address}: no Ray cluster there: {text}") from None
            raise ConfigError(
                f"runner.working_dir={self._config.working_dir}: is too large to travel to the workers: name what "
                "may stay in .gitignore or .rayignore, or with runner.working_dir=null let all nodes share the folder"
            ) from None

    def run(self, program: TrialProgram, controller: Controller) -> None:
        """See :class:`~orchestrator.runners.base.Runner`."""
        from orchestrator.runners.tune import run_trials

        run_trials(cloudpickle.dumps(program), list(sys.path), controller, self._plan, self._room)

    def close(self) -> None:
        """Stop the private cluster, or leave the joined one as large as it likes to be."""
        self._room.give_back()
        if self._owned:
            ray.shutdown()
