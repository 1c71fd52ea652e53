"""Trials that sleep."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.types import EpochResult, TrialSpec
from scale_methods.curve import metrics, value_of


@dataclass(frozen=True)
class Sleep:
    """A :class:`~orchestrator.types.TrialProgram` whose epochs take ``seconds`` and no CPU."""

    seconds: float

    def __call__(self, spec: TrialSpec) -> Iterator[EpochResult]:
        """Yield after each epoch."""
        for epoch in range(1, spec.epochs + 1):
            time.sleep(self.seconds)
            yield EpochResult(epoch, value_of(spec.configuration, spec.seed, epoch), metrics(self.seconds))
