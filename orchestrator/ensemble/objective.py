"""The cost of averaged predictions, in a form that a thousand candidates can be compared by in milliseconds.

Log-loss needs of each prediction only the probability of what was observed, squared error only the error: averaging
predictions is averaging these, so that a candidate becomes a row of ``examples x parts`` float32 numbers. Which form
a task's objective has is found out by trying (:func:`recognise`), not from its name; for what is none of them the
task's own ``score`` is called (:class:`Metric`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
"""Shape (candidates, examples, parts) or (examples, parts)."""
Costs = NDArray[np.float64]
LEAST = float(np.finfo(np.float32).tiny)
"""Probabilities below are taken for this one (87 nats), so that logarithms stay finite in float32."""
BLOCK_BYTES = 2**20
"""Of candidates compared at a time: about what a core's cache holds (our measurement: 4 times faster than 2**26)."""
TOLERANCE = 1e-5
"""Of the range of costs: how exactly a form must give the task's own costs to be taken for it. Predictions are kept
in float32, whose rounding is 6e-8."""


DRAWN = 1e-3
"""Share of the mean over the examples (our choice: far above :data:`LEAST`, far below what changes a form)."""


class Objective(ABC):
    """The cost (less is better) of averaged predictions on fixed examples."""

    name: str
    per_example = True
    """Whether the cost is the mean of a cost for each example."""

    @abstractmethod
    def reduced(self, predictions: NDArray[np.floating]) -> Floats:
        """What averaging predictions averages: shape (candidates, examples, parts), float32.

        Args:
            predictions: shape (candidates, examples, ...).
        """

    @abstractmethod
    def totals(self, averages: Floats, examples: NDArray[np.intp] | None) -> Costs:
        """The mean cost of each of (candidates, examples, parts) averages; they may be overwritten.

        Args:
            averages: of the examples named, in their order.
            examples: which of all examples; None: all.
        """

    def example_costs(self, average: Floats, examples: NDArray[np.intp] | None = None) -> Costs:
        """The cost of each example, shape (examples,); only where ``per_example``."""
        raise NotImplementedError(f"{self.name} has no cost for each example")


class LogLoss(Objective):
    """Minus the logarithm of the probability of what was observed: the class, or each label's value."""

    name = "log-loss"

    def __init__(self, targets: NDArray[np.integer], class_axis: int | None) -> None:
        """``class_axis``: of the predictions (examples, ...); None: ``targets`` are labels, 0 or 1."""
        self._targets = targets
        self._axis = class_axis

    def reduced(self, predictions: NDArray[np.floating]) -> Floats:
        """Probabilities of what was observed."""
        count, examples = predictions.shape[:2]
        if self._axis is None:
            right = np.where(self._targets > 0, predictions, 1 - predictions)
        elif predictions.ndim == 3:
            right = predictions[:, np.arange(examples), self._targets]
        else:
            axis = self._axis + 1
            index = np.expand_dims(self._targets, self._axis)[None]
            right = np.take_along_axis(predictions, np.broadcast_to(index, (count, *index.shape[1:])), axis=axis)
        return np.maximum(right.reshape(count, examples, -1).astype(np.float32), np.float32(LEAST))

    def totals(self, averages: Floats, examples: NDArray[np.intp] | None) -> Costs:
        """Mean over examples and parts."""
        np.log(averages, out=averages)
        costs: Costs = -averages.mean(axis=(1, 2), dtype=np.float64)
        return costs

    def example_costs(self, average: Floats, examples: NDArray[np.intp] | None = None) -> Costs:
        """Mean over the parts of each."""
        costs: Costs = -np.log(average.astype(np.float64)).mean(axis=1)
        return costs


class SquaredError(Objective):
    """The squared difference to the targets."""

    name = "squared error"

    def __init__(self, targets: NDArray[np.floating]) -> None:
        self._targets = targets.astype(np.float64)

    def reduced(self, predictions: NDArray[np.floating]) -> Floats:
        """Errors."""
        errors = predictions - self._targets
        return errors.reshape(*predictions.shape[:2], -1).astype(np.float32)

    def totals(self, averages: Floats, examples: NDArray[np.intp] | None) -> Costs:
        """Mean over examples and parts."""
        np.square(averages, out=averages)
        costs: Costs = averages.mean(axis=(1, 2), dtype=np.float64)
        return costs

    def example_costs(self, average: Floats, examples: NDArray[np.intp] | None = None) -> Costs:
        """Mean over the parts of each."""
        costs: Costs = np.square(average.astype(np.float64)).mean(axis=1)
        return costs


class ErrorRate(Objective):
    """The share of examples whose likeliest class is wrong; the first of equally likely ones counts."""

    name = "error rate"

    def __init__(self, targets: NDArray[np.integer]) -> None:
        self._targets = targets

    def reduced(self, predictions: NDArray[np.floating]) -> Floats:
        """All probabilities."""
        return predictions.astype(np.float32)

    def totals(self, averages: Floats, examples: NDArray[np.intp] | None) -> Costs:
        """Mean over examples."""
        targets = self._targets if examples is None else self._targets[examples]
        costs: Costs = (averages.argmax(axis=2) != targets).mean(axis=1, dtype=np.float64)
        return costs

    def example_costs(self, average: Floats, examples: NDArray[np.intp] | None = None) -> Costs:
        """0 or 1."""
        targets = self._targets if examples is None else self._targets[examples]
        costs: Costs = (average.argmax(axis=1) != targets).astype(np.float64)
        return costs


class Metric(Objective):
    """Any cost of all predictions at once, by calling it: slow, and without a cost for each example."""

    name = "the task's own score"
    per_example = False

    def __init__(self, cost: Callable[[NDArray[np.float64], NDArray[np.intp] | None], float]) -> None:
        """``cost``: of predictions (examples, ...) of the examples named; None: of all."""
        self._cost = cost
        self._shape: tuple[int, ...] = ()

    def reduced(self, predictions: NDArray[np.floating]) -> Floats:
        """All numbers."""
        self._shape = predictions.shape[2:]
        return predictions.reshape(*predictions.shape[:2], -1).astype(np.float32)

    def totals(self, averages: Floats, examples: NDArray[np.intp] | None) -> Costs:
        """One call for each candidate."""
        shaped = averages.astype(np.float64).reshape(*averages.shape[:2], *self._shape)
        return np.array([self._cost(one, examples) for one in shaped])


@dataclass(frozen=True)
class Recognised:
    """A form, and how it gives the task's own cost: ``offset + factor * form``, or the square root of that."""

    form: Objective
    offset: float = 0.0
    factor: float = 1.0
    root: bool = False

    def cost(self, value: float) -> float:
        """The task's cost where the form's is ``value``."""
        inner = self.offset + self.factor * value
        return float(np.sqrt(max(inner, 0.0))) if self.root else inner

    def slope(self, value: float) -> float:
        """Change of the task's cost with the form's, at ``value``: turns standard errors."""
        return self.factor / (2 * max(self.cost(value), LEAST)) if self.root else self.factor


def recognise(
    forms: list[Objective], sample: NDArray[np.floating], cost: Callable[[NDArray[np.float64]], float]
) -> Recognised | None:
    """The form that gives ``cost``, up to a factor above 0 and an offset, or the root of such; None: none does.

    Tried on the sample, on its average, and on mixtures of it with predictions that belong to other examples. All are
    drawn a little towards the mean over the examples: a probability that has underflowed costs the task what its own
    smallest number costs, and ours what :data:`LEAST` does.

    Args:
        forms: those that the shapes allow.
        sample: predictions of one or a few candidates, shape (candidates, examples, ...).
        cost: the task's, of predictions (examples, ...).
    """
    sample = (1 - DRAWN) * sample + DRAWN * sample.mean(axis=1, keepdims=True)
    shifted = np.roll(sample[:1], 1, axis=1)
    mixed = [(1 - share) * sample[:1] + share * shifted for share in (0.25, 0.5, 0.75, 1.0)]
    tried = np.concatenate([sample, sample.mean(axis=0, keepdims=True), *mixed]).astype(np.float64)
    wanted = np.array([cost(one) for one in tried])
    spread = float(np.ptp(wanted))
    if not np.isfinite(wanted).all() or spread == 0:
        return None
    for form in forms:
        values = form.totals(form.reduced(tried), None)
        for root in (False, True):
            if root and wanted.min() < 0:
                continue
            goal = np.square(wanted) if root else wanted
            low, high = int(values.argmin()), int(values.argmax())
            if values[low] == values[high]:
                continue
            factor = float((goal[high] - goal[low]) / (values[high] - values[low]))
            offset = float(goal[low] - factor * values[low])
            error = np.abs(offset + factor * values - goal).max()
            if factor > 0 and error <= TOLERANCE * float(np.ptp(goal)):
                return Recognised(form, offset, factor, root)
    return None
