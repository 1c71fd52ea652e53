"""Run Ray Tune itself, one trial at a time, on the stand-in for lcbench; print its trials as JSON.

Arguments: the number of trials, an empty folder.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # keeps Ray's sockets on the loopback interface
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.schedulers import ASHAScheduler  # noqa: E402
from ray.tune.search.optuna import OptunaSearch  # noqa: E402
from search_methods.objective import TimedObjective, load_lcbench  # noqa: E402
from search_methods.ray_peers import METRIC, tune_space  # noqa: E402


class Lookup(tune.Trainable):  # type: ignore[misc]
    """Reports the stand-in's curve of its configuration."""

    def setup(self, config: dict[str, Any]) -> None:
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        objective = TimedObjective(load_lcbench(HERE / "fake_lcbench"), "one", 1)
        self.curve, self.epoch = objective.run(new_config, objective.epochs), 0
        return True

    def step(self) -> dict[str, float]:
        self.epoch += 1
        return {METRIC: float(self.curve[self.epoch - 1])}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        return None

    def load_checkpoint(self, checkpoint: Any) -> None:
        return None


def main() -> None:
    trials, folder = int(sys.argv[1]), sys.argv[2]
    bench = load_lcbench(HERE / "fake_lcbench")
    start = [dict(bench.DEFAULT)]
    path = {"env_vars": {"PYTHONPATH": str(HERE.parents[1] / "benchmarks")}}
    ray.init(
        address="local", num_cpus=1, include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False,
        runtime_env=path,
    )  # fmt: skip
    tuner = tune.Tuner(
        Lookup,
        param_space=tune_space(bench.SPACE),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="max",
            search_alg=OptunaSearch(seed=5, points_to_evaluate=start),
            scheduler=ASHAScheduler(max_t=bench.EPOCHS),
            num_samples=trials,
            max_concurrent_trials=1,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(storage_path=folder, verbose=0),
    )
    found = [[result.config, result.metrics["training_iteration"]] for result in tuner.fit()]
    print("\n" + json.dumps(found))


if __name__ == "__main__":
    main()
