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
    return f"{hint}known: {', '.join(names) or 'none'}"


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


_WORDS = (
    ("Value error, ", ""),
    ("Input should be", "must be"),
    ("a valid array", "a list: [a, b]"),
    ("an object", "a group of settings: {key: value}"),
    ("Tuple should have", "must have"),
    (" after validation, not 0", ""),
)
"""The validator's words, and ours."""
_VALUE_TYPES = {"bool", "int", "float", "str"}


def describe(error: ValidationError, schema: type) -> str:
    """The first problem of ``error`` as ``where=value: what is wrong; what would be right``."""
    problems = error.errors(include_url=False)
    first = problems[0]
    places = [str(part) for part in first["loc"]]
    alternatives = [str(p["loc"][-1]) for p in problems if p["loc"] and p["loc"][:-1] == first["loc"][:-1]]
    value = "null" if first["input"] is None else first["input"]
    if len(alternatives) > 1 and set(alternatives) <= _VALUE_TYPES:
        # One value that fits none of several types: a problem each, all saying the same.
        text = f"{'.'.join(places[:-1])}={value}: must be {_one_of(alternatives)}"
        return text + _more(len(problems) - len(alternatives))
    where = ".".join("_target_" if part == "target" else part for part in places)
    message = first["msg"]
    for theirs, ours in _WORDS:
        message = message.replace(theirs, ours)
    if first["type"] == "unexpected_keyword_argument":
        parent, _, key = where.rpartition(".")
        text = f"{where}: no such setting; {suggest(key, known_keys(schema, parent))}"
    elif first["type"] == "string_pattern_mismatch":
        signs = ". _ - = , +" if "=" in first["ctx"]["pattern"] else ". _ -"
        text = f"{where}={value}: only letters, digits and {signs} are allowed, beginning with a letter or digit"
    elif first["type"] == "missing":
        text = f"{where}: is missing"
    elif first["type"] == "value_error" and not isinstance(value, str | int | float):
        text = f"{where}: {message}" if where else message
    else:
        text = f"{where}={value}: {message}"
    return text + _more(len(problems) - 1)


def _one_of(types: list[str]) -> str:
    names = {"bool": "true or false", "int": "a finite number", "float": "a finite number", "str": "text"}
    return " or ".join(dict.fromkeys(names[name] for name in types))


def _more(count: int) -> str:
    return f" (and {count} more)" if count else ""
