"""What is searched: five tasks, seven hyperparameters each, the same defaults and ranges for every method."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from hydra import compose, initialize_config_dir
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from orchestrator.config.compose import to_run_config
from orchestrator.config.entry import register_options
from orchestrator.config.schema import RunConfig
from orchestrator.config.space import RangeConfig
from orchestrator.files import data_folder
from orchestrator.stages.sweep import make_plan
from orchestrator.trial import TrainingProgram
from orchestrator.types import Configuration, Value

EPOCHS = 27
"""A full training: rungs of a factor of 3 end on it. At 27 the better networks have stopped improving."""
CONVOLUTION_EPOCHS = 15
"""A full training of the two costlier tasks: the budget of conf/task/digits_cnn.yaml."""
CAP = 60
"""Full trainings after which a run is given up."""

SGD = ("optimizer.lr", "data.batch_size", "optimizer.momentum", "model.width", "model.depth")
ADAM = ("optimizer.lr", "data.batch_size", "optimizer.beta1", "model.width", "model.depth")
REGULARIZATION = ("optimizer.weight_decay", "model.dropout")

# The default weight decay of this benchmark: a log range has no place for 0. For SGD as He et al. 2016
# (arXiv 1512.03385, section 3.4), for AdamW as PyTorch.
SGD_WORDS = ("optimizer.weight_decay=0.0001",)
ADAM_WORDS = ("optimizer.weight_decay=0.01",)
IMAGE_WORDS = (
    "task._target_=live_methods.images.SyntheticImages",
    "task.name=images",
    f"trainer.epochs={CONVOLUTION_EPOCHS}",
    "optimizer.name=sgd",
    "optimizer.lr=0.01",
    "optimizer.momentum=0.9",
    "data.batch_size=64",
    "space.data.batch_size.low=32",
    "space.model.width.low=8",
    "space.model.width.high=32",
    "space.model.depth.high=3",
    "space.model.depth.limits=[1,3]",
)
"""Small batches and wide layers cost most and are left out, as in conf/task/digits_cnn.yaml."""

TASKS: Mapping[str, tuple[str, ...]] = {
    "digits_mlp": ("task=digits_mlp", *SGD_WORDS),
    "digits_cnn": ("task=digits_cnn", f"trainer.epochs={CONVOLUTION_EPOCHS}", *SGD_WORDS),
    "breast_cancer": ("task=breast_cancer", *ADAM_WORDS),
    "diabetes": ("task=diabetes", *ADAM_WORDS),
    "images": ("task=custom", *IMAGE_WORDS, *SGD_WORDS),
}
"""Name to the words that compose the task."""


@dataclass(frozen=True)
class Problem:
    """One task as every method sees it."""

    name: str
    words: tuple[str, ...]
    config: RunConfig
    base: Configuration
    """The defaults: the first configuration of every method."""
    ranges: Mapping[str, RangeConfig]
    """What is searched, from search_spaces/ and conf/task/."""

    @property
    def program(self) -> TrainingProgram:
        """The training code of all methods, on one thread."""
        return TrainingProgram(self.config.task, self.config.trainer, threads=1)


@cache
def problem(name: str, *extra: str) -> Problem:
    """The problem of that name; ``extra`` words change its configuration."""
    words = (f"trainer.epochs={EPOCHS}", *TASKS[name], *extra)
    register_options()
    with initialize_config_dir(str(data_folder("conf")), version_base="1.3"):
        plan = make_plan(to_run_config(compose("config", ["stage=lr", *words])))
    names = (*(SGD if plan.base["optimizer.name"] == "sgd" else ADAM), *REGULARIZATION)
    ranges = {item: plan.space[item].config for item in names}
    return Problem(name, words, plan.config, plan.base, ranges)


def distributions(ranges: Mapping[str, RangeConfig]) -> dict[str, BaseDistribution]:
    """The ranges for Optuna, which has no log scale of 1 - x: there the complement is searched."""
    return {_key(name, item): _distribution(item) for name, item in ranges.items()}


def _key(name: str, item: RangeConfig) -> str:
    return f"1 - {name}" if item.scale == "log_complement" else name


def _distribution(item: RangeConfig) -> BaseDistribution:
    low, high = _ends(item)
    if item.scale == "log_complement":
        return FloatDistribution(1 - high, 1 - low, log=True)
    if item.type == "int":
        return IntDistribution(int(low), int(high), log=item.scale == "log")
    return FloatDistribution(low, high, log=item.scale == "log")


def _ends(item: RangeConfig) -> tuple[float, float]:
    assert item.low is not None, "a choice has no ends"
    assert item.high is not None, "a choice has no ends"
    return float(item.low), float(item.high)


def to_parameters(problem: Problem, configuration: Configuration) -> dict[str, Value]:
    """A configuration as values of :func:`distributions`."""
    return {
        _key(name, item): 1 - float(configuration[name]) if item.scale == "log_complement" else configuration[name]
        for name, item in problem.ranges.items()
    }


def to_configuration(problem: Problem, parameters: Mapping[str, Value]) -> Configuration:
    """Values of :func:`distributions` as a whole configuration."""
    found = {}
    for name, item in problem.ranges.items():
        value = parameters[_key(name, item)]
        found[name] = 1 - float(value) if item.scale == "log_complement" else value
    return {**problem.base, **found}


def random_configuration(problem: Problem, seed: int) -> Configuration:
    """Uniform on the scale of each range."""
    generator = random.Random(seed)
    parameters: dict[str, Value] = {}
    for key, item in distributions(problem.ranges).items():
        if isinstance(item, IntDistribution):
            parameters[key] = _whole(item, generator)
        elif isinstance(item, FloatDistribution):
            parameters[key] = _real(item.low, item.high, log=item.log, generator=generator)
    return to_configuration(problem, parameters)


def _whole(item: IntDistribution, generator: random.Random) -> int:
    if not item.log:
        return generator.randint(item.low, item.high)
    value = _real(item.low - 0.5, item.high + 0.5, log=True, generator=generator)
    return min(max(round(value), item.low), item.high)


def _real(low: float, high: float, *, log: bool, generator: random.Random) -> float:
    if not log:
        return generator.uniform(low, high)
    value = math.exp(generator.uniform(math.log(low), math.log(high)))
    return min(max(value, low), high)
