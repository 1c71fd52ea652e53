"""Settings of ``stage=finalists``."""

from typing import Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FinalistsConfig:
    """``stage=finalists``: the best configurations of the sweep once more, for longer and with several seeds."""

    top: int = Field(default=4, ge=1)
    """How many configurations, the best of the search that differ in what has an effect (our guess); where fewer came
    to their end, the best of those that were stopped follow."""
    seeds: int = Field(default=3, ge=1)
    """Fresh seeds of each, the same for all: who is best is decided by the mean over them (our guess)."""
    budget_factor: float = Field(default=2.0, ge=1.0)
    """Epochs that each is trained at least, as a multiple of trainer.epochs; a schedule that is not constant is
    stretched over them (our guess)."""
    bound_factor: float = Field(default=4.0, ge=1.0)
    """Epochs that each is trained at most, as a multiple of trainer.epochs (our guess)."""
    patience: float = Field(default=1.5, ge=1.0)
    """Beyond budget_factor a training goes on until it is so many times as long as it took to its best epoch
    (Bengio 2012, arXiv 1206.5533, on early stopping: patience grows with the training; the factor is our guess)."""
    race: float = Field(default=0.05, ge=0.0, lt=0.5)
    """Level of the one-sided test by which an obvious loser is given no more seeds, once two are through; 0: every
    finalist is given all."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.bound_factor < self.budget_factor:
            raise ValueError(
                f"bound_factor={self.bound_factor:g} must be at least budget_factor={self.budget_factor:g}"
            )
        return self
