"""Objects named by the user (``_target_``), imported with an error that says what is wrong."""

import pkgutil
from collections.abc import Callable
from typing import Any

from orchestrator.errors import ConfigError


def import_target(target: str, where: str) -> Callable[..., Any]:
    """The callable at the import path ``target``.

    Raises:
        ConfigError: there is none; the line names the setting ``where`` and Python's own complaint.
    """
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}={target}: cannot be imported: {error}") from None
    if not callable(found):
        raise ConfigError(f"{where}={target}: is a {type(found).__name__}, not a class or function")
    call: Callable[..., Any] = found
    return call


def build_target(target: str, args: dict[str, Any], where: str) -> Any:
    """Call the object at ``target`` with ``args``.

    Raises:
        ConfigError: it cannot be imported, or does not take these arguments.
    """
    call = import_target(target, where)
    try:
        return call(**args)
    except TypeError as error:
        raise ConfigError(f"{where}={target}: {error}") from None
