"""Turn what Hydra and the schema complain about into one line for the user."""

import difflib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin

from pydantic import ValidationError


def suggest(name: str, known: Iterable[str]) -> str:
    """``did you mean X? known: ...``, the closest name first."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return f"{hint}known: {', '.join(names)}"


def known_keys(schema: type, path: str) -> list[str]:
    """The keys that may follow ``path`` (dotted) below the dataclass ``schema``; empty if free-form."""
    current: Any = schema
    for part in filter(None, path.split(".")):
        current = _child(current, part)
    return [item.name for item in fields(current)] if _is_schema(current) else []


def _is_schema(thing: Any) -> bool:
    return isinstance(thing, type) and is_dataclass(thing)


def _child(schema: Any, name: str) -> Any:
    if _is_schema(schema):
        return next((item.type for item in fields(schema) if item.name == name), None)
    if get_origin(schema) is not None and get_args(schema):
        return get_args(schema)[-1]
    return None


def describe(error: ValidationError, schema: type) -> str:
    """The first problem of ``error`` as ``where=value: what is wrong; what would be right``."""
    problems = error.errors(include_url=False)
    first = problems[0]
    places = [str(part) for part in first["loc"]]
    message = first["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "must be")
    where = ".".join(places).replace("target", "_target_")
    if first["type"] == "unexpected_keyword_argument":
        parent, _, key = where.rpartition(".")
        text = f"{where}: no such setting; {suggest(key, known_keys(schema, parent))}"
    elif first["type"] == "string_pattern_mismatch":
        text = f"{where}={first['input']}: only letters, digits and . _ - are allowed, no / and no leading dot"
    elif first["type"] == "missing":
        text = f"{where}: is missing"
    elif first["type"] == "value_error" and not isinstance(first["input"], str | int | float):
        text = f"{where}: {message}" if where else message
    else:
        text = f"{where}={first['input']}: {message}"
    more = len(problems) - 1
    return text + (f" (and {more} more)" if more else "")
