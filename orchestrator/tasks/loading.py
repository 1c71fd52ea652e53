"""Build the user's task, and know which hyperparameters its model takes."""

import functools
import inspect
import json
from collections.abc import Mapping

from orchestrator.config.errors import suggest
from orchestrator.config.schema import TaskConfig
from orchestrator.errors import ConfigError
from orchestrator.importing import build_target
from orchestrator.tasks.base import Splits, Task
from orchestrator.types import Configuration, Direction, Value


def load_task(config: TaskConfig) -> Task:
    """The task of ``config``.

    Raises:
        ConfigError: it cannot be imported or built, or is not a :class:`~orchestrator.tasks.base.Task`.
    """
    task = build_target(config.target, dict(config.args), "task._target_")
    if not isinstance(task, Task):
        raise ConfigError(f"task._target_={config.target}: gives a {type(task).__name__}, not an orchestrator.Task")
    _check_statements(task, f"task._target_={config.target}")
    return task


def _check_statements(task: Task, where: str) -> None:
    """What a task states as attributes."""
    directions: object = task.directions
    if not isinstance(directions, Mapping) or not all(isinstance(one, Direction) for one in directions.values()):
        raise ConfigError(
            f"{where}: directions={directions!r}: must map each score to Direction.MINIMIZE or MAXIMIZE"
        )
    if task.objective not in directions:
        raise ConfigError(
            f"{where}: objective={task.objective} is not among its directions; "
            + suggest(str(task.objective), directions)
        )
    for name in ("without_effect", "frozen"):
        value = getattr(task, name)
        if not isinstance(value, tuple | list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{where}: {name}={value!r}: must be a tuple of names, ({str(value)!r},) say")


def load_once(config: TaskConfig) -> tuple[Task, Splits]:
    """The task and its data, kept for the life of the process: workers run many trials of one task."""
    return _load_cached(json.dumps([config.name, config.target, dict(config.args)]))


@functools.lru_cache(maxsize=2)
def _load_cached(key: str) -> tuple[Task, Splits]:
    name, target, args = json.loads(key)
    task = load_task(TaskConfig(name=name, target=target, args=args))
    return task, task.splits()


def model_defaults(task: Task, given: Configuration) -> dict[str, Value]:
    """The hyperparameters ``model.*`` of ``task``: the defaults of its ``model`` method, changed by ``given``.

    Raises:
        ConfigError: ``given`` has a name that ``model`` does not take, or one it needs is missing.
    """
    parameters = inspect.signature(task.model).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in given:
        if name not in parameters and not open_ended:
            raise ConfigError(
                f"model.{name}: {type(task).__name__}.model takes no such argument; " + suggest(name, parameters)
            )
    # A default that is no value of a hyperparameter (None, a list) stays what it is, unless another is given.
    values: dict[str, Value] = {
        name: parameter.default
        for name, parameter in parameters.items()
        if isinstance(parameter.default, bool | int | float | str)
    }
    values.update(given)
    for name, parameter in parameters.items():
        needed = parameter.kind is not parameter.VAR_KEYWORD and parameter.default is parameter.empty
        if needed and name not in values:
            raise ConfigError(f"model.{name}: {type(task).__name__}.model needs it; give +model.{name}=VALUE")
    return values
