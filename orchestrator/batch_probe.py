"""The largest batch size that memory holds, found by trying, in the processes of a trial.

Each size is trained for an epoch of two batches, with everything that a trial keeps: optimizer, averages, copies, and
one batch of the evaluation. The size is doubled while it fits, and then bisected.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from torch.utils.data import Dataset, Subset, TensorDataset

from orchestrator.errors import InfeasibleTrialError
from orchestrator.tasks.base import Splits, Task
from orchestrator.training.loop import pick_device
from orchestrator.trial import TrainingProgram
from orchestrator.types import EpochResult, TrialSpec

HEADROOM = 1.1
"""How much larger than a size is what is tried for it: other trials' batches and fragments differ (our guess)."""
RATIO = 1.1
"""Two sizes nearer than this are told apart no further: our guess."""
BATCH_SIZE = "data.batch_size"


@dataclass(frozen=True)
class BatchProbe(TrainingProgram):
    """See :class:`~orchestrator.types.TrialProgram`. Each result's value is a batch size that fits, larger than the
    one before it; so what has been found is known even if the worker is killed for want of memory."""

    highest: int = 8192
    """The largest size of interest."""
    anywhere: bool = True
    """Also where there is no GPU; else every size fits there, untried."""

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        """Yield whenever a larger size fits."""
        if not self.anywhere and pick_device(self.trainer).type != "cuda":
            yield EpochResult(1, float(self.highest))
            return
        examples = len(super()._load(spec)[1].train)  # type: ignore[arg-type]
        first = int(spec.configuration[BATCH_SIZE])
        found = largest(lambda size: self._fits(spec, size), first, min(self.highest, examples))
        for tries, size in enumerate(found, start=1):
            yield EpochResult(tries, float(size))

    def _fits(self, spec: TrialSpec, size: int) -> bool:
        tried = math.ceil(HEADROOM * size)
        try:
            for _ in super().__call__(replace(spec, configuration={**spec.configuration, BATCH_SIZE: tried})):
                pass
        except InfeasibleTrialError as error:
            # A loss that is not finite was computed within memory.
            return not error.reason.of_memory
        return True

    def _load(self, spec: TrialSpec) -> tuple[Task, Splits]:
        task, splits = super()._load(spec)
        train = _first(splits.train, 2 * int(spec.configuration[BATCH_SIZE]))
        return task, replace(splits, train=train, validation=_first(splits.validation, self.trainer.eval_batch_size))


def _first(dataset: Dataset[Any], count: int) -> Dataset[Any]:
    """The first ``count`` examples; tensors in memory stay tensors."""
    if isinstance(dataset, TensorDataset):
        return TensorDataset(*(values[:count] for values in dataset.tensors))
    return Subset(dataset, range(min(count, len(dataset))))  # type: ignore[arg-type]


def largest(fits: Callable[[int], bool], first: int, highest: int) -> Iterator[int]:
    """Sizes that fit, each larger than the one before; the last is the largest, but for a factor of ``RATIO``.

    Args:
        fits: whether a size does.
        first: what is tried first.
        highest: beyond which nothing is tried.
    """
    good, bad, size = 0, None, min(first, highest)
    while bad is None:
        if not fits(size):
            bad = size
            break
        good = size
        yield good
        if size >= highest:
            return
        size = min(2 * size, highest)
    while bad - good > 1 and bad > RATIO * good:
        size = max(good + 1, math.isqrt(good * bad)) if good else bad // 2
        if fits(size):
            good = size
            yield good
        else:
            bad = size
