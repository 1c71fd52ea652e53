"""What a task's ``score`` returns, as plain numbers."""

from collections.abc import Mapping

from orchestrator.config.errors import suggest
from orchestrator.errors import ConfigError
from orchestrator.tasks.base import Task


def as_scores(task: Task, found: object) -> dict[str, float]:
    """``found`` as a dictionary of floats: what a checkpoint can hold without a line of code in it.

    NumPy numbers and tensors of one element, on any device, are taken for their value.

    Raises:
        ConfigError: it is no dictionary, lacks a score that ``directions`` names, or holds what is no number.
    """
    where = f"{type(task).__name__}.score()"
    if not isinstance(found, Mapping):
        raise ConfigError(
            f"{where} gives a {type(found).__name__}; return a dictionary of {', '.join(task.directions)}"
        )
    for name in task.directions:
        if name not in found:
            raise ConfigError(
                f"{where} does not give {name}, which directions names; {suggest(name, map(str, found))}"
            )
    return {str(name): _number(f"{where}[{name!r}]", value) for name, value in found.items()}


def _number(where: str, value: object) -> float:
    shape = getattr(value, "shape", ())
    if value is None or isinstance(value, str | bytes | complex):
        raise ConfigError(f"{where} is {value!r}; give a number")
    if len(shape) and any(length != 1 for length in shape):
        raise ConfigError(f"{where} is a {type(value).__name__} of shape {tuple(shape)}; give one number")
    try:
        # item() brings a tensor here from its device.
        return float(value.item() if hasattr(value, "item") else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError) as error:
        line = next(iter(str(error).splitlines()), "no message")
        raise ConfigError(f"{where} is a {type(value).__name__}, not a number ({line}); give a number") from None
