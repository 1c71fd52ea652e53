"""How much memory a configuration would take, from what trials were seen to take: it needs no failure to learn from.

The logarithm of the peak is linear in the logarithms of batch size, width and depth (activations grow with all three,
weights with the last two), with a prior around slope 1, so that two or three trials are enough to begin with; peaks
far below the largest count for little, as what is constant bends them. What there is of memory is known; where a
trial failed that should have fitted, others use it too, and the limit is lower: between the largest peak that was
seen and the smallest demand that failed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from orchestrator.study.records import TrialRecord
from orchestrator.study.surrogate import Array
from orchestrator.types import MemoryUse, Reason, TrialState

FAR = 1 / 20
"""Share of the limit below which peaks say nothing, as long as nothing failed: our guess."""
_SLOPE, _OTHER = 0.5, 1.0
"""Standard deviation of the slopes of sizes, and of the effect of anything else over its range: our guess."""
_ANYWHERE = 10.0
"""Standard deviation of the intercept: any."""
_NOISE, _WORTH = 0.05, 4
"""Standard deviation of a log peak around the line, and how many trials that is worth: our guess."""
_HALF = math.log(4)
"""A peak so much below the largest, in logarithms, has twice the noise: our guess."""
_SURELY = 0.99
"""What is likelier to fit than this counts as fitting: the search is then what it would be without a limit."""
_BELOW = 0.3
"""How far below a known limit, in logarithms, trials begin to fail for others' memory and fragments, on average, once
any has failed there: our guess."""
_GRID = 200
REASONS = {"gpu": Reason.OUT_OF_MEMORY, "host": Reason.HOST_OUT_OF_MEMORY}
"""Where memory was measured to how a trial ends that has not enough of it."""


def matters(use: MemoryUse) -> bool:
    """Whether a peak is near enough to the limit to say something before anything failed."""
    return use.peak_bytes >= FAR * use.limit_bytes


@dataclass(frozen=True)
class Peaks:
    """What was measured in one place, and what failed there. Rows are trials, in the order of ``inputs``."""

    inputs: Array
    """Shape (rows, columns)."""
    log_peaks: Array
    """Of each row, NaN where nothing was measured; shape (rows,)."""
    failed: NDArray[np.bool_]
    """Which rows ran out of it, shape (rows,)."""
    log_limit: float

    @classmethod
    def of(cls, where: str, inputs: Array, records: Sequence[TrialRecord]) -> "Peaks | None":
        """What ``records`` tell of ``where``; None if that cannot matter: nothing failed, and all peaks are small."""
        uses = [next((use for use in record.memory if use.where == where), None) for record in records]
        failed = np.array(
            [r.state is TrialState.INFEASIBLE and r.reason is REASONS[where] for r in records], dtype=bool
        )
        # A trial that failed was seen to hold less than it wanted.
        ended = zip(uses, failed, strict=True)
        peaks = [math.nan if use is None or lost else max(use.peak_bytes, 1) for use, lost in ended]
        known = np.log(np.array(peaks))
        if np.isnan(known).all():
            return None
        limit = math.log(min(use.limit_bytes for use in uses if use is not None))
        if not failed.any() and not any(use is not None and matters(use) for use in uses):
            return None
        return cls(inputs, known, failed, limit)


class LogLinear:
    """Bayesian linear regression of the logarithms of what was measured, its noise found from the residuals.

    Args:
        inputs: shape (rows, columns).
        logs: of bytes, shape (rows,).
        reaches: of each column that is a size, the expected slope: the logarithm of its range's ends' ratio; 0 for
            any other.
    """

    def __init__(self, inputs: Array, logs: Array, reaches: Array) -> None:
        rows = _with_one(inputs)
        expected = np.array([0.0, *reaches])
        spread = np.array([_ANYWHERE, *np.where(reaches > 0, _SLOPE * reaches, _OTHER)])
        expected[0] = float((logs - inputs @ reaches).mean())
        relative = 1 + (float(logs.max()) - logs) / _HALF
        self.noise = _NOISE
        for _ in range(5):
            weights = 1 / (self.noise * relative) ** 2
            self._covariance = np.linalg.inv((rows.T * weights) @ rows + np.diag(1 / spread**2))
            self._mean = self._covariance @ ((rows.T * weights) @ logs + expected / spread**2)
            squares = (((logs - rows @ self._mean) / relative) ** 2).sum()
            self.noise = math.sqrt((_WORTH * _NOISE**2 + squares) / (_WORTH + len(logs)))

    def at(self, inputs: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of a measurement, each of shape (rows,)."""
        mean, variance = self._of(_with_one(inputs))
        return mean, np.sqrt(variance + self.noise**2)

    def difference(self, steps: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of what ``steps`` between inputs (rows, columns) change; shapes (rows,)."""
        mean, variance = self._of(np.column_stack([np.zeros(len(steps)), steps]))
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def _of(self, rows: Array) -> tuple[Array, Array]:
        return rows @ self._mean, np.einsum("ij,jk,ik->i", rows, self._covariance, rows)


class MemoryModel:
    """What fits into memory.

    Args:
        peaks: what was seen.
        reaches: of each column that is a size, the logarithm of its range's ends' ratio; 0 for any other.
    """

    def __init__(self, peaks: Peaks, reaches: Array) -> None:
        seen = ~np.isnan(peaks.log_peaks)
        self._line = LogLinear(peaks.inputs[seen], peaks.log_peaks[seen], reaches)
        self._largest = float(peaks.log_peaks[seen].max())
        self._limits, self._weights = self._limit(peaks)

    def _limit(self, peaks: Peaks) -> tuple[Array, Array]:
        """Where the limit may be, and how likely each is."""
        if not peaks.failed.any():
            return np.array([peaks.log_limit]), np.ones(1)
        mean, deviation = self.demand(peaks.inputs[peaks.failed])
        limits = np.linspace(self._largest, max(peaks.log_limit, self._largest + 1e-3), _GRID)
        above = norm.logcdf((mean[:, None] - limits[None, :]) / deviation[:, None]).sum(axis=0)
        weights = np.exp((limits - limits[-1]) / _BELOW + above - above.max())
        return limits, weights / weights.sum()

    def demand(self, inputs: Array) -> tuple[Array, Array]:
        """Mean and standard deviation of the log peak, each of shape (rows,)."""
        return self._line.at(inputs)

    def probability(self, inputs: Array) -> Array:
        """That each row of ``inputs`` fits, shape (rows,)."""
        mean, deviation = self.demand(inputs)
        found = norm.cdf((self._limits[None, :] - mean[:, None]) / deviation[:, None]) @ self._weights
        return np.where(found > _SURELY, 1.0, found)


def _with_one(inputs: Array) -> Array:
    return np.column_stack([np.ones(len(inputs)), inputs])
