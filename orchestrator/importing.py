"""Objects named by the user (``_target_``), imported with an error that says what is wrong."""

import pkgutil
import sysconfig
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, UserCodeError

_LIBRARIES = (
    *{sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")},
    str(Path(__file__).parent),
)
"""Folders whose code is not the user's."""


def import_target(target: str, where: str) -> Callable[..., Any]:
    """The callable at the import path ``target``.

    Raises:
        ConfigError: there is none; the line names the setting ``where`` and Python's own complaint.
    """
    try:
        found = pkgutil.resolve_name(target)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{where}={target}: cannot be imported: {error}") from None
    except SyntaxError as error:
        place = f"{Path(error.filename or target).name}:{error.lineno}"
        raise ConfigError(f"{where}={target}: cannot be imported: {error.msg} ({place})") from None
    except Exception as error:  # the user's module may raise anything
        raise ConfigError(f"{where}={target}: cannot be imported: {one_line(error)}{raised_at(error)}") from None
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
        raise ConfigError(f"{where}={target}: {one_line(error, TypeError)}{raised_at(error)}") from None
    except Exception as error:  # the user's code may raise anything
        raise UserCodeError(f"{where}={target}: building it raised {one_line(error)}{raised_at(error)}") from None


def one_line(error: BaseException, obvious: type[BaseException] | None = None) -> str:
    """An error's type, unless it is the ``obvious`` one, and the first line of its text."""
    text = next(iter(str(error).strip().splitlines()), "no message")
    return text if type(error) is obvious else f"{type(error).__name__}: {text}"


def raised_at(error: BaseException) -> str:
    """Where the user's code raised, as `` (FILE:LINE in FUNCTION)``: the innermost place that is neither in a
    library nor ours; empty if there is none."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if not _foreign(frame.filename)]
    return f" ({Path(own[-1].filename).name}:{own[-1].lineno} in {own[-1].name})" if own else ""


def _foreign(path: str) -> bool:
    return path.startswith((*_LIBRARIES, "<frozen"))
