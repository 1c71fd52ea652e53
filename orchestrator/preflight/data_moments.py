"""Statistics of the scale of features and of gaps between splits; no check of its own."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.stats import norm
from torch import Tensor

from orchestrator.preflight.data_table import Columns, Floats, columns, distinct, rows

MEAN_TOLERANCE, STD_TOLERANCE = 2e-5, 2e-4
"""How near to 0 and 1 counts as exact: float32 rounding of standardised values stays below both
(measured on 10 to 10,000 examples), while a fair validation mean is off by 1/sqrt(examples)."""


@dataclass(frozen=True)
class Gap:
    """How far the features of validation are from those of training."""

    shifted: float
    """Share of features with a standardised mean difference above ``smd``, beyond chance."""
    rescaled: float
    """Share of features with a variance ratio above ``ratio`` or below its inverse, beyond chance."""
    scale_ratio: float
    """Median over features of std(validation) / std(train), turned to be at least 1."""
    largest_smd: float
    median_smd: float


def gap(train: Columns, validation: Columns, *, smd: float = 0.5, ratio: float = 4.0) -> Gap:
    """Compare the moments feature by feature; features constant in training are left out.

    Beyond chance: Bonferroni over the features at 0.001. The deviation of a log variance is
    sqrt((kurtosis - 1) / examples), with the larger of the two kurtoses; above 0.5 the formula fails (pixels
    that are active in a few examples) and the variance is not judged.
    """
    live = train.std > 1e-6 * max(train.scale, 1e-300)
    if not live.any():
        return Gap(0.0, 0.0, 1.0, 0.0, 0.0)
    z = float(norm.isf(0.001 / (2 * int(live.sum()))))
    difference = np.abs(validation.mean - train.mean)[live]
    spread = np.sqrt((train.std[live] ** 2 + validation.std[live] ** 2) / 2)
    effect = difference / spread
    chance = z * np.sqrt(1 / train.examples + 1 / validation.examples)
    log_ratio = 2 * np.log(np.maximum(validation.std[live], 1e-12 * train.std[live]) / train.std[live])
    steep = np.maximum(train.kurtosis, validation.kurtosis)[live]
    error = np.sqrt((steep - 1) * (1 / train.examples + 1 / validation.examples))
    return Gap(
        shifted=float(((effect > smd) & (effect > chance)).mean()),
        rescaled=float(((np.abs(log_ratio) > np.maximum(np.log(ratio), z * error)) & (error < 0.5)).mean()),
        scale_ratio=float(np.exp(abs(np.median(log_ratio)) / 2)),
        largest_smd=float(effect.max()),
        median_smd=float(np.median(effect)),
    )


@dataclass(frozen=True)
class Outside:
    """The validation feature that is farthest outside the range it has in training."""

    feature: int
    ranges: float
    """Distance beyond the training range, in lengths of that range (infinite where it is a point)."""
    deviations: float
    """The same distance in typical deviations of the training features."""


def outside(train: Columns, validation: Columns) -> Outside:
    """Search all features; the one with most typical deviations outside."""
    beyond = np.maximum(np.maximum(validation.high - train.high, train.low - validation.low), 0.0)
    feature = int(beyond.argmax())
    length = float(train.high[feature] - train.low[feature])
    distance = float(beyond[feature])
    ranges = 0.0 if distance == 0 else (distance / length if length > 0 else np.inf)
    return Outside(feature, float(ranges), distance / train.scale if train.scale > 0 else np.inf * (distance > 0))


def is_exactly_standard(values: Tensor) -> bool:
    """Whether every feature, every channel or all numbers together have mean 0 and deviation 1 exactly.

    False where that proves nothing: fewer than 8 examples, only features with fewer than 8 different
    values, or examples that were each standardised alone.
    """
    if len(values) < 8:
        return False
    table = rows(values)
    if table.shape[1] > 1 and (np.abs(table.mean(axis=1)) < MEAN_TOLERANCE).mean() > 0.5:
        return False
    live = (table.min(axis=0) < table.max(axis=0)) & (distinct(table) >= 8)
    if not live.any():
        return False
    channels = [rows(values.movedim(axis, -1).reshape(-1, values.shape[axis])) for axis in _channel_axes(values)]
    views = [table[:, live], table.reshape(-1, 1), *(view[:, view.std(axis=0) > 0] for view in channels)]
    return any(_exact(view.mean(axis=0), view.std(axis=0), len(view)) for view in views if view.shape[1])


def _channel_axes(values: Tensor) -> list[int]:
    return [axis for axis in (1, values.ndim - 1) if values.ndim > 2 and values.shape[axis] > 1]


def _exact(mean: Floats, std: Floats, count: int) -> bool:
    sample = std * np.sqrt(count / (count - 1))
    unit = np.minimum(np.abs(std - 1), np.abs(sample - 1)) < STD_TOLERANCE
    return bool(np.all(np.abs(mean) < MEAN_TOLERANCE) and np.all(unit))


def shares_extremes(train: Floats, validation: Floats) -> bool:
    """Whether validation attains exactly training's least and greatest value in every continuous feature.

    With continuous features (at least 3 of them) that happens only when each part was min-max scaled by
    itself. Extremes that several training examples share are no evidence: pixels saturate.
    """
    first, second = columns(train), columns(validation)
    continuous = (distinct(train) > 0.5 * len(train)) & ~_shared(train, first.high) & ~_shared(train, first.low)
    if int(continuous.sum()) < 3 or len(validation) < 8:
        return False
    unit = np.maximum(first.high - first.low, 1e-300)
    ends = np.maximum(np.abs(first.high - second.high), np.abs(first.low - second.low)) / unit
    return bool(np.all(ends[continuous] < 1e-6))


def _shared(table: Floats, value: Floats) -> npt.NDArray[np.bool_]:
    result: npt.NDArray[np.bool_] = (table == value).sum(axis=0) > 1
    return result
