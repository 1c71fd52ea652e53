"""The one table of checks. A new check is a function with the decorator :func:`check` above it."""

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.report import Finding
from orchestrator.preflight.subject import Subject

Group = Literal["data", "code", "learn", "look"]
GROUPS: tuple[Group, ...] = ("data", "code", "learn", "look")
"""In the order in which they run."""

Applies = Callable[[Subject], str | None]
"""Why a check does not apply to a subject; None where it does."""
Run = Callable[[Subject, CheckSettings], Finding | Iterable[Finding]]


@dataclass(frozen=True)
class Check:
    """One row of the table."""

    name: str
    group: Group
    title: str
    """What holds when the check passes, in a few words."""
    source: str
    """Where the check and its thresholds come from."""
    applies: tuple[Applies, ...]
    run: Run

    def reason_to_skip(self, subject: Subject) -> str | None:
        """Why the check does not apply; None where it does."""
        return next((reason for reason in (applies(subject) for applies in self.applies) if reason), None)


GATE = "task_runs"
"""The first check of all: where it fails, no other check of code or learning can say anything."""

_TABLE: dict[str, Check] = {}


def check(
    *, name: str, group: Group, title: str, source: str, applies: Applies | tuple[Applies, ...] = ()
) -> Callable[[Run], Run]:
    """Enter the decorated function into the table."""

    def enter(run: Run) -> Run:
        if name in _TABLE and _TABLE[name].run.__module__ != run.__module__:
            raise ValueError(f"two checks are called {name}")
        conditions = applies if isinstance(applies, tuple) else (applies,)
        _TABLE[name] = Check(name, group, title, source, conditions, run)
        return run

    return enter


def checks() -> tuple[Check, ...]:
    """All checks: the gate, then by group, within a group in the order of modules and definitions.

    Every module of this package is imported, so that its checks are in the table.
    """
    package = importlib.import_module("orchestrator.preflight")
    for module in sorted(item.name for item in pkgutil.iter_modules(package.__path__)):
        importlib.import_module(f"orchestrator.preflight.{module}")
    return tuple(sorted(_TABLE.values(), key=lambda row: (row.name != GATE, GROUPS.index(row.group))))


def overview() -> str:
    """All checks, one line each."""
    rows = checks()
    width = max(len(row.name) for row in rows)
    return "\n".join(f"{row.group:5} {row.name:{width}}  {row.title} ({row.source})" for row in rows)
