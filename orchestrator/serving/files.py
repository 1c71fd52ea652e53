"""Inputs and predictions in files, a piece at a time: .npy, .npz, .csv, .parquet."""

import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.lib import format as npy

from orchestrator.config.errors import suggest
from orchestrator.errors import ConfigError
from orchestrator.files import replacing
from orchestrator.importing import one_line
from orchestrator.serving.model import Description

FORMATS = (".npy", ".npz", ".csv", ".parquet")
ARRAY_NAME = "inputs"
"""Which array of an .npz file is read, where it holds several."""


@dataclass(frozen=True)
class Piece:
    """Some examples."""

    inputs: np.ndarray
    """Shape (examples, ...)."""
    kept: Mapping[str, Any] = field(default_factory=dict)
    """Columns that are copied to the output, as Arrow arrays."""


def read_inputs(path: Path, description: Description, keep: Sequence[str], rows: int) -> Iterator[Piece]:
    """The raw inputs in ``path``, at most ``rows`` examples at a time.

    A table's columns are found by their names where the model has names for them; else all columns but ``keep`` are
    taken in their order and shaped as one input.

    Raises:
        ConfigError: there is no such file, it cannot be read, or does not fit the model.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file")
    if path.suffix in (".npy", ".npz"):
        if keep:
            raise ConfigError(f"{path}: an array has no columns to keep")
        read = _read_npy if path.suffix == ".npy" else _read_npz
        yield from (Piece(part) for part in _readable(path, read(path, rows)))
    else:
        table = _read_csv(path, description, keep) if path.suffix == ".csv" else _read_parquet(path, rows)
        start = 1
        for batch in _readable(path, table):
            names = _input_columns(path, batch.schema.names, description, keep)
            for first in range(0, len(batch), rows):
                part = batch.slice(first, rows)
                inputs = _numbers(path, part, names, description, start)
                yield Piece(inputs, {name: part.column(name) for name in keep})
                start += len(part)


def check_format(path: Path, where: str) -> None:
    """Refuse a file name that says no known format.

    Raises:
        ConfigError: with those that are known.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"{where}={path}: must end in one of {', '.join(FORMATS)}")


def _readable(path: Path, parts: Iterator[Any]) -> Iterator[Any]:
    try:
        yield from parts
    except (ValueError, EOFError, KeyError, pa.ArrowException, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: cannot be read: {one_line(error)}") from None


def _read_npy(path: Path, rows: int) -> Iterator[np.ndarray]:
    values = np.load(path, mmap_mode="r", allow_pickle=False)
    for start in range(0, len(values) if values.ndim else 1, rows):
        yield np.asarray(values[start : start + rows] if values.ndim else values)


def _read_npz(path: Path, rows: int) -> Iterator[np.ndarray]:
    with zipfile.ZipFile(path) as parts:
        names = [name.removesuffix(".npy") for name in parts.namelist()]
        name = names[0] if len(names) == 1 else ARRAY_NAME
        if name not in names:
            raise ConfigError(f"{path}: holds the arrays {', '.join(names)}; the one to read must be {ARRAY_NAME}")
        with parts.open(f"{name}.npy") as handle:
            version = npy.read_magic(handle)
            read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = read(handle)
            if dtype.hasobject or (fortran and len(shape) > 1):
                raise ValueError("an array of objects, or in Fortran's order, cannot be read piece by piece")
            each = prod(shape[1:])
            for start in range(0, shape[0] if shape else 1, rows):
                count = min(rows, shape[0] - start) if shape else 1
                content = handle.read(count * each * dtype.itemsize)
                yield np.frombuffer(content, dtype).reshape(count, *shape[1:]) if shape else np.zeros(())


def _read_parquet(path: Path, rows: int) -> Iterator[Any]:
    with pyarrow.parquet.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=rows)


def _read_csv(path: Path, description: Description, keep: Sequence[str]) -> Iterator[Any]:
    with pyarrow.csv.open_csv(path) as reader:
        names = _input_columns(path, reader.schema.names, description, keep)
    # By itself the reader takes a column's type from the first rows.
    types = dict.fromkeys(names, pa.from_numpy_dtype(np.dtype(description.dtype)))
    with pyarrow.csv.open_csv(path, convert_options=pyarrow.csv.ConvertOptions(column_types=types)) as reader:
        yield from reader


def _input_columns(path: Path, there: Sequence[str], description: Description, keep: Sequence[str]) -> Sequence[str]:
    """Names of the model's inputs among the columns that are there."""
    for name in keep:
        if name not in there:
            raise ConfigError(f"{path}: has no column {name} to keep; {suggest(name, there)}")
    others = [name for name in there if name not in keep]
    if not description.columns:
        wanted = prod(description.shape)
        if len(others) != wanted:
            shape = " x ".join(map(str, description.shape))
            raise ConfigError(f"{path}: has {len(others)} columns of inputs; the {description.name} takes {shape}")
        return others
    missing = [name for name in description.columns if name not in there]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise ConfigError(f"{path}: has no column {missing[0]}{more}; {suggest(missing[0], others)}")
    unknown = [name for name in others if name not in description.columns]
    if unknown:
        raise ConfigError(
            f"{path}: the {description.name} has no input {unknown[0]}; columns that are only to be copied to the "
            f"output: predict.keep=[{','.join(unknown)}]"
        )
    return description.columns


def _numbers(path: Path, batch: Any, names: Sequence[str], description: Description, start: int) -> np.ndarray:
    """The inputs of a record batch whose first row is number ``start`` of the file."""
    columns = []
    for name in names:
        column = batch.column(name)
        if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
            raise ConfigError(f"{path}: column {name} holds {column.type}, not numbers")
        if column.null_count:
            row = start + int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise ConfigError(f"{path}: column {name} has no value in row {row}")
        columns.append(column.to_numpy(zero_copy_only=False).astype(description.dtype))
    return np.stack(columns, axis=1).reshape(len(batch), *description.shape)


Write = Callable[[np.ndarray, Mapping[str, Any]], None]
"""Takes predictions and the columns that are copied beside them."""


@contextmanager
def writing(path: Path, description: Description, keep: Sequence[str]) -> Iterator[Write]:
    """Write predictions to ``path``, piece by piece; it is there when all are written, or not at all.

    Raises:
        ConfigError: the format cannot hold them.
        StorageError: it cannot be written.
    """
    array = path.suffix in (".npy", ".npz")
    if array and keep:
        raise ConfigError(f"predict.output={path}: an array cannot keep columns; write .csv or .parquet")
    if not array and len(description.output_shape) > 1:
        shape = tuple(description.output_shape)
        raise ConfigError(f"predict.output={path}: predictions of shape {shape} fit no table; write .npy or .npz")
    kinds: Mapping[str, Callable[[Path, Description, Sequence[str]], AbstractContextManager[Write]]] = {
        ".npy": _write_npy, ".npz": _write_npz, ".csv": _write_table, ".parquet": _write_table,
    }  # fmt: skip
    with replacing(path) as aside, kinds[path.suffix](aside, description, keep) as write:
        yield write


def output_names(description: Description) -> Sequence[str]:
    """Names of the predictions' columns."""
    if description.outputs:
        return description.outputs
    count = prod(description.output_shape)
    return [f"prediction_{index}" for index in range(count)] if count > 1 else ["prediction"]


@contextmanager
def _write_npy(path: Path, description: Description, keep: Sequence[str]) -> Iterator[Write]:
    with path.open("wb") as handle, _growing(handle, description) as write:
        yield write


@contextmanager
def _write_npz(path: Path, description: Description, keep: Sequence[str]) -> Iterator[Write]:
    with TemporaryFile(dir=path.parent) as handle:
        with _growing(handle, description) as write:
            yield write
        handle.seek(0)
        with zipfile.ZipFile(path, "w") as parts, parts.open("predictions.npy", "w", force_zip64=True) as entry:
            while block := handle.read(1 << 20):
                entry.write(block)


@contextmanager
def _growing(handle: IO[bytes], description: Description) -> Iterator[Write]:
    """An array file whose length is known at its end; NumPy leaves room in the header for that."""

    def header(count: int) -> None:
        handle.seek(0)
        shape = (count, *description.output_shape)
        npy.write_array_header_1_0(handle, {"descr": "<f8", "fortran_order": False, "shape": shape})

    total = 0

    def write(predictions: np.ndarray, kept: Mapping[str, Any]) -> None:
        nonlocal total
        handle.write(np.ascontiguousarray(predictions, "<f8").tobytes())
        total += len(predictions)

    header(0)
    yield write
    header(total)
    handle.seek(0, os.SEEK_END)


@contextmanager
def _write_table(path: Path, description: Description, keep: Sequence[str]) -> Iterator[Write]:
    names = output_names(description)
    twice = sorted({*names} & {*keep})
    if twice:
        raise ConfigError(f"predict.keep={','.join(twice)}: a prediction has that name")
    writer: Any = None

    def write(predictions: np.ndarray, kept: Mapping[str, Any]) -> None:
        nonlocal writer
        columns = predictions.reshape(len(predictions), len(names))
        batch = pa.record_batch([*kept.values(), *columns.T], names=[*kept, *names])
        if writer is None:
            kind = pyarrow.parquet.ParquetWriter if ".parquet" in path.name else pyarrow.csv.CSVWriter
            writer = kind(path, batch.schema)
        writer.write_batch(batch)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()
