"""The hyperparameters of a training run: typed groups, and the flat form that the study stores."""

import json
from collections.abc import Mapping
from dataclasses import asdict, field
from typing import Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from orchestrator.config.errors import describe
from orchestrator.errors import ConfigError
from orchestrator.types import Configuration, Value

STRICT = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, allow_inf_nan=False)
"""Settings of every schema class: unknown keys and wrong types are errors."""

Share = Field(default=0.0, ge=0.0, lt=1.0)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerConfig:
    """How a gradient becomes a step."""

    name: Literal["sgd", "adam", "adamw"] = "adamw"
    """Update rule."""
    lr: float = Field(default=1e-3, gt=0.0)
    """Peak learning rate."""
    momentum: float = Share
    """Momentum of SGD; without effect on Adam."""
    nesterov: bool = True
    """Nesterov's form of SGD momentum; plain when momentum is 0."""
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    """Adam's decay of the first moment."""
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    """Adam's decay of the second moment."""
    eps: float = Field(default=1e-8, gt=0.0)
    """Adam's denominator offset."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """L2 penalty (SGD, Adam) or decoupled decay (AdamW) of weight matrices; biases and norms are exempt."""
    clip_norm: float = Field(default=0.0, ge=0.0)
    """Largest global gradient norm; 0 switches clipping off."""
    ema_decay: float = Share
    """Decay per step of an exponential moving average of the weights, used for evaluation; 0 is off."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataConfig:
    """How examples reach the network."""

    batch_size: int = Field(default=64, ge=1)
    """Examples per optimizer step."""
    augmentation: float = Field(default=0.0, ge=0.0, le=1.0)
    """Strength given to the task's augmentation of training inputs; 0 is off."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ScheduleConfig:
    """The learning rate over a trial, as a multiple of the peak; shares are of the trial's true steps."""

    kind: Literal["constant", "step", "linear", "cosine", "one_cycle"] = "constant"
    """Shape after the warm-up."""
    warmup: float = Share
    """Share of the steps over which the rate rises linearly from 0 to the peak."""
    final: float = Field(default=0.0, ge=0.0, le=1.0)
    """Multiple of the peak that linear, cosine and one_cycle end at, and that each step multiplies by."""
    drops: int = Field(default=2, ge=1)
    """Number of equally spaced drops of the step schedule."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossConfig:
    """Changes to the training loss; the validation loss is never changed."""

    label_smoothing: float = Share
    """Share of a classification target spread evenly over all classes."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DistillConfig:
    """How a student learns from a teacher's predictions (Hinton et al. 2015, arXiv 1503.02531, section 2)."""

    temperature: float = Field(default=2.0, gt=0.0)
    """Of classes: what the logarithms of teacher's and student's probabilities are divided by, so that the small
    ones count; without effect on values."""
    weight: float = Field(default=0.5, ge=0.0, le=1.0)
    """Share of the teacher's part of the loss; the rest is the loss on the targets."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Hyperparameters:
    """Everything about one training that a search may vary."""

    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    model: Mapping[str, Value] = field(default_factory=dict)
    """Keyword arguments of the task's ``model``, whatever they are."""
    distill: DistillConfig | None = None
    """What a student's training has besides; None: there is no teacher."""

    def flat(self) -> dict[str, Value]:
        """The configuration: dotted name to value, in a fixed order."""
        return {
            f"{group}.{name}": value
            for group, values in asdict(self).items()
            if values is not None
            for name, value in sorted(values.items())
        }


GROUPS = ("optimizer", "data", "schedule", "loss", "model", "distill")
"""Families of hyperparameters."""

_ADAPTER = TypeAdapter(Hyperparameters)


def nested(configuration: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Undo :meth:`Hyperparameters.flat`: ``{"optimizer.lr": .1}`` becomes ``{"optimizer": {"lr": .1}}``."""
    groups: dict[str, dict[str, Any]] = {}
    for name, value in configuration.items():
        group, _, key = name.partition(".")
        groups.setdefault(group, {})[key] = value
    return groups


def from_flat(configuration: Configuration) -> Hyperparameters:
    """The typed groups of a flat configuration.

    Raises:
        ConfigError: a name or a value is impossible.
    """
    # Through JSON, because strict validation takes dictionaries for what they are only there.
    try:
        return _ADAPTER.validate_json(json.dumps(nested(configuration)))
    except ValidationError as error:
        raise ConfigError(describe(error, Hyperparameters)) from None
