"""The logbook: every trial as a row, filtered, on the terminal or in a file."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import csv, parquet

from orchestrator.config.errors import suggest
from orchestrator.config.schema import LogbookConfig
from orchestrator.errors import ConfigError
from orchestrator.files import replacing
from orchestrator.progress import short, table
from orchestrator.report.view import SweepView
from orchestrator.stages.visits import stage_of
from orchestrator.study.records import TrialRecord

Row = Mapping[str, Any]


def logbook(view: SweepView, settings: LogbookConfig) -> str:
    """The trials that ``settings`` ask for: as a table, or where they were written to.

    The table has the hyperparameters that differ between its trials; a file has all.

    Raises:
        ConfigError: a condition names no column, or compares what cannot be compared.
    """
    rows = select(view, settings)
    if settings.export is not None:
        path = Path(settings.export)
        export(rows, path)
        return f"{len(rows)} of {len(view.records)} trials of sweep {view.name} written to {path.resolve()}"
    if not rows:
        return f"none of the {len(view.records)} trials of sweep {view.name} is asked for"
    columns = _columns(view, rows)
    lines = [columns, *([_cell(row[name]) for name in columns] for row in rows)]
    return f"{len(rows)} of {len(view.records)} trials of sweep {view.name}\n{table(lines)}"


def select(view: SweepView, settings: LogbookConfig) -> Sequence[Row]:
    """The rows that ``settings`` ask for.

    Raises:
        ConfigError: see :func:`logbook`.
    """
    conditions = _conditions(settings.where, _known(view))
    records = [
        record
        for record in view.records
        if settings.stage in (None, record.stage, stage_of(record.stage))
        and settings.state in (None, record.state.value)
    ]
    rows = [(record, _row(record)) for record in records]
    rows = [(record, row) for record, row in rows if all(_holds(row[name], want, name) for name, want in conditions)]
    if settings.top is not None:
        valued = [pair for pair in rows if pair[0].value is not None]
        rows = sorted(valued, key=lambda pair: (view.direction.cost(pair[1]["value"]), pair[0].number))[
            : settings.top
        ]
    return [row for _, row in rows]


def export(rows: Sequence[Row], path: Path) -> None:
    """Write ``rows`` as CSV or Parquet, by the end of the file's name, atomically."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    whole = pyarrow.table({name: [row[name] for row in rows] for name in names})
    buffer = io.BytesIO()
    (csv.write_csv if path.suffix == ".csv" else parquet.write_table)(whole, buffer)
    with replacing(path) as aside:
        aside.write_bytes(buffer.getvalue())


def _row(record: TrialRecord) -> Row:
    return {
        "trial": record.number,
        "stage": record.stage,
        "state": record.state.value,
        "reason": str(record.reason) if record.reason else None,
        "value": record.value,
        "epochs_run": record.epochs_run,
        "epochs_paid": record.epochs_paid,
        "seconds": record.seconds,
        "seed": record.seed,
        "parent": record.parent,
        "repeats": record.repeats,
        **record.configuration,
    }


def _known(view: SweepView) -> Sequence[str]:
    own = ("trial", "stage", "state", "reason", "value", "epochs_run", "epochs_paid", "seconds", "seed", "parent")
    return [*own, "repeats", *view.base]


def _conditions(where: Mapping[str, Any], known: Sequence[str]) -> Sequence[tuple[str, Any]]:
    """Column and what it must be, from the nested form that Hydra's overrides make."""
    found: list[tuple[str, Any]] = []

    def walk(values: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            name = f"{prefix}{key}"
            if name in known:
                found.append((name, value))
            elif isinstance(value, Mapping) and any(other.startswith(f"{name}.") for other in known):
                walk(value, f"{name}.")
            else:
                raise ConfigError(f"logbook.where.{name}: no such column; {suggest(name, known)}")

    walk(where, "")
    for name, wanted in found:
        if isinstance(wanted, Mapping) and (not wanted or set(wanted) - {"min", "max"}):
            raise ConfigError(f"logbook.where.{name}: takes a value, a list of values, or min and max")
    return found


def _holds(value: Any, wanted: Any, name: str) -> bool:
    if isinstance(wanted, list | tuple):
        return value in wanted
    if not isinstance(wanted, Mapping):
        return bool(value == wanted)
    if value is None:
        return False
    try:
        return bool(wanted.get("min", value) <= value <= wanted.get("max", value))
    except TypeError:
        raise ConfigError(f"logbook.where.{name}: {value} has no order; give a value or a list of values") from None


def _columns(view: SweepView, rows: Sequence[Row]) -> list[str]:
    always = ["trial", "stage", "state", "value", "epochs_run", "seconds"]
    sometimes = [name for name in ("reason", "parent", "repeats") if any(row[name] is not None for row in rows)]
    varying = [name for name in view.base if len({str(row[name]) for row in rows}) > 1]
    return [*always, *sometimes, *varying]


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else short(value)
