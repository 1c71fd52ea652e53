"""Settings of the ensemble stage."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EnsembleConfig:
    """``stage=ensemble``: which trained networks are combined, and how the choice is judged."""

    members: int = Field(default=5, ge=1)
    """Largest number of different members (the recipe: gains end near 5)."""
    candidates: int = Field(default=1000, ge=1)
    """How many of the best checkpoints are considered."""
    library: int = Field(default=200, ge=1)
    """Selection looks at so many of them, the best by themselves (Caruana et al. 2006 prune the library too)."""
    memory_mb: float = Field(default=256.0, gt=0)
    """Room for what selection looks at, in 1e6 bytes; what does not fit, the worst by themselves, is left out."""
    folds: int = Field(default=5, ge=2)
    """Parts of validation: each is predicted by ensembles that the others chose."""
    repeats: int = Field(default=5, ge=1)
    """Most divisions into folds; with 1,000 examples and more fewer are made."""
    averaged: int = Field(default=10, ge=0)
    """Of so many of the best trials, weights averaged along the run, and soups, are candidates too; 0: none."""
    temperature: bool = True
    """Whether averaged probabilities are made surer, or softer, as far as validation does not speak against it."""
    read_test_again: bool = False
    """Run the stage once more although it has read the test split; the report says so, with every time of reading."""
