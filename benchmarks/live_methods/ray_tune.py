"""Ray Tune: OptunaSearch with asynchronous successive halving, workers kept from trial to trial."""

import os
from collections.abc import Iterator
from typing import Any

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
# By default Tune has one trial waiting for a worker, and the second worker's start is cancelled whenever the first
# is free for that trial: trainings of a second would all run on one.
os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = "2"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"

import optuna
import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from live_methods import peers
from live_methods.jobs import Job
from live_methods.problems import distributions, to_parameters

OBJECT_STORE_BYTES = 200 * 1024**2
"""As in the product's runner: only configurations and results pass through it."""


def asha(job: Job) -> list[str]:
    """The command of OptunaSearch with ASHA."""
    return list(peers.command("ray_tune", job))


class Training(tune.Trainable):  # type: ignore[misc]
    """One trial after another in the same process."""

    def setup(self, config: dict[str, Any]) -> None:
        config = dict(config)
        job: Job = config.pop("job")
        self.losses: Iterator[float] = peers.losses(job.problem, config, job.seed)
        self.epochs = job.problem.config.trainer.epochs
        self.loss = float("inf")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def step(self) -> dict[str, Any]:
        loss = next(self.losses, None)
        self.loss = self.loss if loss is None else loss
        return {"loss": self.loss, "done": loss is None or self.iteration + 1 >= self.epochs}


def main() -> None:
    job = peers.job_of(peers.parser(__doc__).parse_args())
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ray.init(
        address="local",
        num_cpus=job.workers,
        include_dashboard=False,
        object_store_memory=OBJECT_STORE_BYTES,
        log_to_driver=False,
        logging_level="error",
        _node_ip_address="127.0.0.1",
    )
    problem = job.problem
    # Tune calls a flat dictionary of distributions a search space; the job goes in as a constant.
    search = OptunaSearch(
        distributions(problem.ranges),
        metric="loss",
        mode="min",
        points_to_evaluate=[to_parameters(problem, problem.base)],
        sampler=optuna.samplers.TPESampler(seed=job.seed),
    )
    scheduler = ASHAScheduler(
        metric="loss", mode="min", max_t=problem.config.trainer.epochs, grace_period=1, reduction_factor=3
    )
    tuner = tune.Tuner(
        tune.with_resources(Training, {"cpu": 1}),
        param_space={"job": job},
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=-1,
            max_concurrent_trials=job.workers,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            storage_path=str(job.folder),
            name="tune",
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
        ),
    )
    tuner.fit()


if __name__ == "__main__":
    main()
