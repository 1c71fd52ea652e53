"""What a search may do with one hyperparameter. The values live in ``search_spaces/*.yaml``."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Literal, Self

from pydantic import Field, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from orchestrator.config.errors import describe, suggest
from orchestrator.config.hyperparameters import (
    GROUPS,
    STRICT,
    DataConfig,
    DistillConfig,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from orchestrator.types import Value

_TYPED: Mapping[str, type] = {
    "optimizer": OptimizerConfig,
    "data": DataConfig,
    "schedule": ScheduleConfig,
    "loss": LossConfig,
    "distill": DistillConfig,
}
"""The families whose hyperparameters are known here; those of ``model`` are the task's."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RangeConfig:
    """Bounds, scale and background of one hyperparameter."""

    type: Literal["float", "int", "choice"]
    """Kind of value."""
    low: float | int | None = None
    """Lower end of the range that a stage searches."""
    high: float | int | None = None
    """Upper end of the range that a stage searches."""
    limits: tuple[float | int, float | int] | None = Field(default=None)
    """Hard limits, frozen for the sweep: widening never leaves them. Default: low and high."""
    scale: Literal["linear", "log", "log_complement"] = "linear"
    """Scale on which steps are equal; log_complement is log(1 - x), for momentum and Adam's betas."""
    zero: bool = False
    """0 (off) is allowed too, below a log scale's lower limit."""
    choices: tuple[Value, ...] | None = Field(default=None)
    """The values of a choice."""
    when: Mapping[str, tuple[Value, ...]] = Field(default_factory=dict)
    """Only searched while the named hyperparameters have one of these values."""
    couple: Literal["none", "learning_rate"] = "none"
    """learning_rate: search it relative to what batch size and momentum imply (design, decision 9)."""
    unit: str = ""
    """Unit of the value, for people."""
    impact: Literal["high", "medium", "low"] = "medium"
    """How much it usually matters, by the recipe's sources."""
    why: str = ""
    """Why this range."""
    source: str = ""
    """Where the range comes from."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.type == "choice":
            if not self.choices:
                raise ValueError("a choice needs choices: [a, b, ...]")
            return self
        if self.choices is not None:
            raise ValueError(f"choices belong to type=choice, not to {self.type}")
        if self.low is None or self.high is None:
            raise ValueError("needs low and high")
        if not self.low < self.high:
            raise ValueError(f"low={self.low} must be below high={self.high}")
        hard_low, hard_high = self.hard_limits
        if not hard_low <= self.low < self.high <= hard_high:
            raise ValueError(f"limits=[{hard_low}, {hard_high}] must enclose low={self.low} and high={self.high}")
        if self.scale == "log" and hard_low <= 0:
            raise ValueError(f"a log scale needs bounds above 0, not {hard_low}")
        if self.scale == "log_complement" and hard_high >= 1:
            raise ValueError(f"a log_complement scale needs bounds below 1, not {hard_high}")
        if self.zero and self.scale != "log":
            raise ValueError(f"zero is for a log scale; a {self.scale} one begins at 0 by itself with low=0")
        if self.type == "int" and any(float(x) % 1 for x in (self.low, self.high, hard_low, hard_high)):
            raise ValueError("an int needs whole bounds")
        return self

    @property
    def hard_limits(self) -> tuple[float, float]:
        """The limits, or low and high where none are given. Not for choices."""
        if self.limits is not None:
            return self.limits
        if self.low is None or self.high is None:
            raise TypeError("a choice has no limits")
        return self.low, self.high


SpaceConfig = Mapping[str, Mapping[str, RangeConfig]]
"""Hyperparameter family, then name, to its range."""


def check_space(space: SpaceConfig) -> None:
    """Refuse families and hyperparameters that do not exist, and ends and choices that are no value of theirs.

    Raises:
        ValueError: with the known names, or what is wrong.
    """
    for family, ranges in space.items():
        if family not in GROUPS:
            raise ValueError(f"space.{family}: no such family of hyperparameters; {suggest(family, GROUPS)}")
        for name, entry in ranges.items():
            _check_range(family, name, entry)


def _check_range(family: str, name: str, entry: RangeConfig) -> None:
    """Refuse a range for what is no hyperparameter, or with an end or a choice that is no value of it."""
    schema = _TYPED.get(family)
    if schema is None:
        return
    known = [item.name for item in fields(schema)]
    if name not in known:
        raise ValueError(f"space.{family}.{name}: no such hyperparameter; {suggest(name, known)}")
    kind = int if entry.type == "int" else float
    for value in entry.choices or () if entry.type == "choice" else map(kind, entry.hard_limits):
        try:
            schema(**{name: value})
        except ValidationError as error:
            raise ValueError(f"space.{family}: {describe(error, schema)}") from None
