"""Examples as arrays: flattened to rows, hashed, and described column by column."""

import hashlib
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject, collate
from orchestrator.training.data import size

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CELLS = 20_000_000
"""Most numbers of one split that are held as float64 at a time: 160 MB (our choice)."""


def rows(values: Tensor, cells: int = CELLS) -> Floats:
    """Examples as rows of float64, (examples, features); evenly spaced examples if there are more than ``cells``."""
    flat = values.detach().cpu().reshape(len(values), -1)
    most = max(1, cells // max(1, flat.shape[1]))
    if len(flat) > most:
        flat = flat[np.linspace(0, len(flat) - 1, most).astype(int)]
    result: Floats = flat.double().numpy()
    return result


def fingerprints(values: Tensor) -> npt.NDArray[np.uint64]:
    """A 64-bit hash (BLAKE2b) of the exact content of every example; minus zero counts as zero."""
    flat = values.detach().cpu().reshape(len(values), -1)
    array = np.ascontiguousarray((flat + 0.0 if flat.is_floating_point() else flat).numpy())
    digests = (hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in array)
    return np.frombuffer(b"".join(digests), dtype=np.uint64)


@dataclass(frozen=True)
class Columns:
    """Each feature's statistics over the examples; arrays of shape (features,)."""

    examples: int
    mean: Floats
    std: Floats
    low: Floats
    high: Floats
    kurtosis: Floats
    """Fourth standardised moment; 3 for a normal distribution, 1 where the feature is constant."""

    @property
    def scale(self) -> float:
        """Root mean square of the deviations of all features."""
        return float(np.sqrt(np.mean(self.std**2)))

    @property
    def constant(self) -> npt.NDArray[np.bool_]:
        """Features that have one value only."""
        result: npt.NDArray[np.bool_] = self.low == self.high
        return result


def columns(table: Floats) -> Columns:
    """Statistics of every column of ``table`` (examples, features)."""
    mean, std = table.mean(axis=0), table.std(axis=0)
    fourth = ((table - mean) ** 4).mean(axis=0)
    steep = np.divide(fourth, std**4, out=np.ones_like(std), where=std > 0)
    return Columns(len(table), mean, std, table.min(axis=0), table.max(axis=0), np.maximum(steep, 1.0))


def distinct(table: Floats) -> Integers:
    """How many different values each column has."""
    ordered = np.sort(table, axis=0)
    result: Integers = 1 + (np.diff(ordered, axis=0) != 0).sum(axis=0)
    return result


READ = 5_000
"""Most examples read from a data set that is not tensors in memory (our choice: seconds, not minutes)."""
SPLITS = ("train", "validation", "test")
"""In the order in which they are compared. Of the test split only integrity is checked: no model and no
score ever sees it here."""


@dataclass(frozen=True)
class Part:
    """The examples of one split, on the CPU and in the split's own order."""

    split: str
    indices: Tensor
    """Which examples these are: all of them for tensors in memory, else an even selection."""
    inputs: Tensor
    targets: Tensor
    total: int
    """Number of examples of the split."""

    @property
    def whole(self) -> bool:
        """Whether every example was read."""
        return len(self.indices) == self.total


_PARTS: WeakKeyDictionary[Subject, dict[str, Part]] = WeakKeyDictionary()


def part(subject: Subject, split: str) -> Part:
    """The examples of ``split``, read once for all checks of ``subject``; do not write into them."""
    known = _PARTS.setdefault(subject, {})
    if split not in known:
        dataset = getattr(subject.splits, split)
        total = size(dataset)
        count = total if isinstance(dataset, TensorDataset) else min(total, READ)
        indices = torch.linspace(0, max(0, total - 1), count).round().long()
        with untouched_globals():
            inputs, targets = collate(dataset, indices)
        known[split] = Part(split, indices, inputs.detach().cpu(), targets.detach().cpu(), total)
    return known[split]


def parts(subject: Subject, *splits: str) -> list[Part]:
    """Several splits; empty ones are left out."""
    return [part(subject, split) for split in splits or SPLITS if size(getattr(subject.splits, split)) > 0]
