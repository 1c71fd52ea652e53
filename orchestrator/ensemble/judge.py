"""What a task's objective is in numbers, and the library of candidates that it compares."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.ensemble.candidates import Candidate
from orchestrator.ensemble.greedy import Library
from orchestrator.ensemble.objective import (
    ErrorRate,
    Floats,
    LogLoss,
    Metric,
    Objective,
    Recognised,
    SquaredError,
    recognise,
)
from orchestrator.ensemble.predictions import PredictionStore
from orchestrator.serving.combine import Form
from orchestrator.tasks.base import Task
from orchestrator.training.watch import class_dimension

SAMPLE = 4
"""Candidates on which the task's objective is compared with the known forms."""
MOST_CALLED = 20
"""Candidates that are compared where the task's own score must be called for each comparison (our choice)."""
RESAMPLES = 200
"""Bootstrap resamples for the standard error of a score that has no cost for each example."""


@dataclass(frozen=True)
class Judge:
    """Scores predictions of one split."""

    task: Task
    targets: Tensor
    sample: Tensor
    """Predictions of a few candidates, shape (candidates, examples, ...): what the form is told from."""

    @cached_property
    def class_axis(self) -> int | None:
        """Dimension of the classes in predictions (examples, ...), where they are probabilities of such."""
        return class_dimension(self.sample[0], self.targets)

    @cached_property
    def form(self) -> Form:
        """What the predictions are."""
        if self.class_axis is not None:
            return "classes"
        return "labels" if self.task.multi_label else "values"

    def cost(self, predictions: Tensor, targets: Tensor | None = None) -> float:
        """The task's objective, turned so that less is better."""
        scores = self.task.score(predictions, self.targets if targets is None else targets)
        return self.task.direction.cost(float(scores[self.task.objective]))

    def score(self, cost: float) -> float:
        """The objective's value of a cost."""
        return self.task.direction.cost(cost)

    @cached_property
    def recognised(self) -> Recognised:
        """The form of the objective, found by trying."""
        found = recognise(self._forms(), self.sample.numpy(), lambda values: self.cost(torch.from_numpy(values)))
        return found if found is not None else Recognised(Metric(self._called))

    def _called(self, predictions: NDArray[np.float64], examples: NDArray[np.intp] | None) -> float:
        targets = self.targets if examples is None else self.targets[torch.from_numpy(examples)]
        return self.cost(torch.from_numpy(predictions), targets)

    def _forms(self) -> list[Objective]:
        targets = self.targets.numpy()
        if self.form == "classes":
            two = self.sample.dim() == 3
            return [LogLoss(targets, self.class_axis), *([ErrorRate(targets)] if two else [])]
        if self.form == "labels":
            return [LogLoss(targets, None)]
        return [SquaredError(targets)] if self.sample.shape[1:] == self.targets.shape else []

    def gain(self, one: Tensor, other: Tensor) -> tuple[float, float]:
        """By how much the objective's cost is lower with predictions ``other``, and its standard error.

        Paired over examples: of the mean of the differences; by the bootstrap where examples have no cost.
        """
        form = self.recognised.form
        pair = form.reduced(np.stack([one.numpy(), other.numpy()]))
        total = len(self.targets)
        difference = self.cost(one) - self.cost(other)
        if form.per_example:
            costs = [form.example_costs(values) for values in pair]
            slope = self.recognised.slope(float(np.mean(costs)))
            error = float(np.std(costs[0] - costs[1], ddof=1)) / np.sqrt(total) * slope if total > 1 else 0.0
            return difference, float(error)
        generator = np.random.default_rng(0)
        found = []
        for _ in range(RESAMPLES):
            drawn = torch.from_numpy(generator.integers(0, total, total))
            found.append(self.cost(one[drawn], self.targets[drawn]) - self.cost(other[drawn], self.targets[drawn]))
        return difference, float(np.std(found))


def make_judge(task: Task, store: PredictionStore, candidates: Sequence[Candidate]) -> Judge:
    """The judge of a split whose predictions are stored."""
    sample = torch.stack([store.get(*candidate.key) for candidate in candidates[:SAMPLE]])
    return Judge(task, store.targets(), sample)


def make_library(
    judge: Judge, store: PredictionStore, candidates: Sequence[Candidate], *, most: int, memory_mb: float
) -> tuple[list[Candidate], Library]:
    """The candidates that selection looks at, the best by themselves first, and what it compares them by.

    The store is read block by block, so that memory holds one block and the library.

    Args:
        most: candidates kept.
        memory_mb: room for them, in 1e6 bytes; at least one is kept.
    """
    objective = judge.recognised.form
    keys = [candidate.key for candidate in candidates]
    costs = np.empty(len(keys))
    each, shape = 1, (0, 0)
    for which, block in store.blocks(keys):
        values = objective.reduced(block)
        each, shape = values[0].nbytes, values[0].shape
        costs[which] = objective.totals(values, None)
    most = min(most, max(1, int(memory_mb * 1e6 / each)), most if objective.per_example else MOST_CALLED)
    kept = [int(index) for index in np.argsort(costs, kind="stable")[:most] if np.isfinite(costs[index])]
    looked_at: Floats = np.empty((len(kept), *shape), dtype=np.float32)
    for which, block in store.blocks([keys[index] for index in kept]):
        looked_at[which] = objective.reduced(block)
    return [candidates[index] for index in kept], Library(looked_at, objective)
