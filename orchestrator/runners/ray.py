"""Trials on Ray: starting and stopping it. How Tune is driven is in :mod:`orchestrator.runners.tune`."""

import importlib
import os
import sys
import threading

# Read by Ray when it is imported. The first keeps Ray's own processes on loopback: without it they
# listen on every interface.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import cloudpickle

from orchestrator.config.schema import RunnerConfig
from orchestrator.errors import ConfigError
from orchestrator.runners.base import Controller
from orchestrator.types import TrialProgram

OBJECT_STORE_BYTES = 200 * 1024**2
"""Ray's shared memory on a private cluster: only programs and results pass through it."""


class RayRunner:
    """See :class:`~orchestrator.runners.base.Runner`."""

    def __init__(self, config: RunnerConfig) -> None:
        self._config = config
        self._owned = not ray.is_initialized()
        # Importing Tune takes two seconds, in which Ray's processes can start.
        importing = threading.Thread(target=importlib.import_module, args=("orchestrator.runners.tune",))
        importing.start()
        try:
            if self._owned:
                self._start()
        finally:
            importing.join()
        total = ray.cluster_resources()
        fit = int(total.get("CPU", 0) // config.cpus_per_trial)
        if config.gpus_per_trial > 0:
            fit = min(fit, int(total.get("GPU", 0) / config.gpus_per_trial))
        if fit < 1:
            self.close()
            raise ConfigError(
                f"runner: no worker fits: a trial needs {config.cpus_per_trial} CPU and {config.gpus_per_trial} GPU, "
                f"Ray has {total.get('CPU', 0):g} and {total.get('GPU', 0):g}"
            )
        self.workers = fit if config.workers is None else min(config.workers, fit)

    def _start(self) -> None:
        if self._config.address is not None:
            try:
                ray.init(address=self._config.address, log_to_driver=False, logging_level="error")
            except (ConnectionError, ValueError) as error:
                text = " ".join(str(error).split())
                raise ConfigError(f"runner.address={self._config.address}: no Ray cluster there: {text}") from None
            return
        needed = (self._config.workers or 0) * self._config.cpus_per_trial
        ray.init(
            address="local",
            num_cpus=max(needed, os.cpu_count() or 1),
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level="error",
            _node_ip_address="127.0.0.1",
        )

    def run(self, program: TrialProgram, controller: Controller) -> None:
        """See :class:`~orchestrator.runners.base.Runner`."""
        from orchestrator.runners.tune import run_trials

        resources = {"CPU": float(self._config.cpus_per_trial), "GPU": float(self._config.gpus_per_trial)}
        run_trials(cloudpickle.dumps(program), list(sys.path), controller, self.workers, resources)

    def close(self) -> None:
        """Stop the private cluster, or leave the joined one."""
        if self._owned:
            ray.shutdown()
