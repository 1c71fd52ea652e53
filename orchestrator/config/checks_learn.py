"""Thresholds of the checks whether there is something to learn."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OverfitTwo:
    """Two examples learned by heart with an optimizer of our own."""

    steps: int = Field(default=500, ge=10)
    """Steps at each of three rates (preflight.md: 153 were enough at 3e-3 on 170 runs)."""
    loss: float = Field(default=0.01, gt=0.0, lt=1.0)
    """Share of the initial loss, above its floor, that counts as learned."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OverfitSettings:
    """Two examples learned by heart with the user's settings."""

    steps: int = Field(default=500, ge=25)
    """Steps at the user's rate."""
    loss: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Share of the initial loss, above its floor, that counts as learned."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SkillLimits:
    """Gain over the best constant: 1 - loss / its loss."""

    examples: int = Field(default=1024, ge=8)
    """Training and validation examples used at most."""
    checkpoints: tuple[int, ...] = Field(default=(25, 50, 100, 200), min_length=3)
    """Steps after which the gain is measured; the best counts."""
    fail: float = Field(default=0.05, gt=0.0)
    """FAIL below this gain, or below twice that of shuffled targets (preflight.md: healthy 0.15 to 0.93)."""
    clear: float = Field(default=0.2, gt=0.0)
    """Above this gain, and five times that of shuffled targets, no more steps are needed."""
    few: int = Field(default=200, ge=1)
    """With fewer training examples only WARN: shuffled targets reach 0.145 at 124 (preflight.md)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ShuffledSource:
    """Gain over the best constant on data whose targets were shuffled before preprocessing."""

    repeats: int = Field(default=2, ge=1)
    """Shuffles; the smallest gain counts."""
    fail: float = Field(default=0.2, gt=0.0)
    """FAIL above this gain (preflight.md: shuffled targets reach at most 0.145)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ZeroInput:
    """Validation loss with inputs over that without."""

    warn: float = Field(default=0.95, gt=0.0)
    """WARN above this ratio (preflight.md: healthy at most 0.76)."""
    fail: float = Field(default=0.98, gt=0.0)
    """FAIL above this ratio."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Capacity:
    """Training loss at the given and at twice the width."""

    steps: int = Field(default=30, ge=1)
    """Steps of each training."""
    seeds: int = Field(default=1, ge=1)
    """Trainings averaged (noisy, so INFO at most)."""
    info: float = Field(default=1.2, gt=1.0)
    """INFO where the wider network's loss is this much larger."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Divergence:
    """A short training with the user's step, at the peak learning rate."""

    examples: int = Field(default=1024, ge=8)
    """Training examples used at most."""
    batch: int = Field(default=256, ge=1)
    """Largest batch."""
    steps: int = Field(default=100, ge=20)
    """Steps."""
    warn: float = Field(default=1.5, gt=1.0)
    """WARN above this multiple of the constant's loss, or of the first."""
    fail: float = Field(default=2.0, gt=1.0)
    """FAIL above this multiple (preflight.md, in-trial watch)."""
    gain: float = Field(default=0.01)
    """WARN (progress) below this gain over the best constant on training examples."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainedModes:
    """Loss in evaluation mode over that in training mode."""

    warn: float = Field(default=3.0, gt=1.0)
    """WARN above this ratio (preflight.md)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LearnChecks:
    """One field per check of learnability."""

    overfit_two: OverfitTwo = OverfitTwo()
    """Budget and threshold of overfit_two."""
    overfit_settings: OverfitSettings = OverfitSettings()
    """Budget and threshold of overfit_settings."""
    skill: SkillLimits = SkillLimits()
    """Budget and thresholds of skill and zero_input."""
    shuffled_source: ShuffledSource = ShuffledSource()
    """Budget and threshold of shuffled_source."""
    zero_input: ZeroInput = ZeroInput()
    """Thresholds of zero_input."""
    capacity: Capacity = Capacity()
    """Budget and threshold of capacity."""
    divergence: Divergence = Divergence()
    """Budget and thresholds of divergence and progress."""
    trained_modes: TrainedModes = TrainedModes()
    """Threshold of trained_modes."""
