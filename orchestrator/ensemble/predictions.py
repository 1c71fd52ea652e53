"""What every candidate predicts on a split, stored once: a network is never run twice on it.

A row of ``predictions/SPLIT.f32`` holds one candidate's predictions of all examples, and a line of ``SPLIT.jsonl``
says whose they are: the candidate's name and the digest of its weights. The row is written first and the line after
it, so that a kill leaves a row that nobody knows and the next one takes its place. Rows are written batch by batch
and read through a memory map: neither needs memory for more than a batch or a block.

The numbers are float32: 4 bytes lose 6e-8 of a probability, while float16 would lose everything below 6e-8, to which
log-loss is most sensitive.
"""

import hashlib
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.errors import StorageError, UserCodeError
from orchestrator.files import append_line, replacing, storing
from orchestrator.training.data import Batch, size

FOLDER = "predictions"
"""Below the sweep's folder."""
BLOCK_BYTES = 2**26
"""Of predictions read at a time."""
_KIND = np.dtype("<f4")


def data_digest(split: Any) -> str:
    """Of up to 64 examples, evenly over the split, and of how many there are."""
    total = hashlib.sha256(str(size(split)).encode())
    for index in torch.linspace(0, size(split) - 1, min(64, size(split))).long().tolist():
        for part in split[index]:
            total.update(torch.as_tensor(part).contiguous().cpu().numpy().tobytes())
    return total.hexdigest()[:12]


class PredictionStore:
    """The stored predictions of one split."""

    def __init__(self, folder: Path, split: str, dataset: Any) -> None:
        """``folder``: the sweep's. What was stored of other data under the same name is forgotten."""
        self.path = folder / FOLDER / f"{split}.f32"
        self._index = self.path.with_suffix(".jsonl")
        self._targets = self.path.with_suffix(".targets.pt")
        self._data = data_digest(dataset)
        self._rows: dict[tuple[str, str], int] = {}
        self.shape: tuple[int, ...] | None = None
        """Of one candidate's predictions; None: there are none yet."""
        self._read_index()

    def _read_index(self) -> None:
        if not self._index.exists():
            return
        content = self._index.read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        try:
            entries = [json.loads(line) for line in lines]
            if not entries or entries[0]["data"] != self._data:
                self._index.unlink()
                return
            self.shape = tuple(entries[0]["shape"])
            self._rows = {(entry["name"], entry["digest"]): entry["row"] for entry in entries[1:]}
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{self._index}: is damaged ({error}); remove the folder {self._index.parent}: it is made again"
            ) from None
        if not self.path.exists() or self.path.stat().st_size < len(self._rows) * self._row_bytes:
            raise StorageError(
                f"{self.path}: rows are missing; remove the folder {self.path.parent}: it is made again"
            )

    @property
    def _row_bytes(self) -> int:
        assert self.shape is not None
        return int(np.prod(self.shape)) * _KIND.itemsize

    def __len__(self) -> int:
        return len(self._rows)

    def has(self, name: str, digest: str) -> bool:
        """Whether the candidate with these weights is there."""
        return (name, digest) in self._rows

    def add(self, name: str, digest: str, batches: Iterable[Batch]) -> None:
        """Store a candidate's predictions as they come; the targets of the split too, with the first candidate.

        Raises:
            UserCodeError: their shape is not that of the candidates before.
            StorageError: they cannot be written.
        """
        row, parts, targets, examples = len(self._rows), None, [], 0
        with storing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("r+b" if self.path.exists() else "w+b") as handle:
                for predictions, some in batches:
                    if parts is None and self.shape is not None:
                        handle.seek(row * self._row_bytes)
                    parts = tuple(predictions.shape[1:])
                    examples += len(predictions)
                    if self.shape is not None and parts != self.shape[1:]:
                        break
                    if self.shape is None:
                        targets.append(some)
                    handle.write(predictions.numpy().astype(_KIND).tobytes())
                handle.flush()
                os.fsync(handle.fileno())
        if parts is None or (self.shape is not None and (examples, *parts) != self.shape):
            raise UserCodeError(
                f"{name}: predicts {(examples, *(parts or ()))} where other candidates predict {self.shape}; an "
                "ensemble averages predictions, so all must have one shape"
            )
        if self.shape is None:
            self._begin((examples, *parts), torch.cat(targets))
        append_line(self._index, json.dumps({"name": name, "digest": digest, "row": row}))
        self._rows[name, digest] = row

    def _begin(self, shape: tuple[int, ...], targets: Tensor) -> None:
        self.shape = shape
        with replacing(self._targets) as aside:
            torch.save(targets, aside)
        append_line(self._index, json.dumps({"data": self._data, "shape": list(shape)}))

    def targets(self) -> Tensor:
        """The split's targets, in its order."""
        found: Tensor = torch.load(self._targets, weights_only=True)
        return found

    def _map(self) -> "np.memmap[Any, np.dtype[np.float32]]":
        assert self.shape is not None, "nothing is stored"
        return np.memmap(self.path, dtype=_KIND, mode="r", shape=(len(self._rows), *self.shape))

    def get(self, name: str, digest: str) -> Tensor:
        """One candidate's predictions, float64."""
        return torch.from_numpy(self.row(name, digest).astype(np.float64))

    def row(self, name: str, digest: str) -> NDArray[np.float32]:
        """One candidate's predictions as they lie in the file: only what is looked at is read."""
        found: NDArray[np.float32] = self._map()[self._rows[name, digest]]
        return found

    def blocks(self, keys: Sequence[tuple[str, str]]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
        """The predictions of ``keys`` block by block: which of them, and shape (candidates, examples, ...)."""
        stored = self._map()
        rows = [self._rows[key] for key in keys]
        step = max(1, BLOCK_BYTES // self._row_bytes)
        for first in range(0, len(rows), step):
            chosen = rows[first : first + step]
            whole = chosen == list(range(chosen[0], chosen[0] + len(chosen)))
            block = stored[chosen[0] : chosen[-1] + 1] if whole else stored[chosen]
            yield slice(first, first + len(chosen)), block
            # Pages that were read count as this process's memory until the system wants them: give them back.
            stored._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
