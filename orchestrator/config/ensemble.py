"""Settings of the ensemble stage."""

from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EnsembleConfig:
    """``stage=ensemble``: which trained networks are combined, and how the choice is judged."""

    read_test_again: bool = False
    """Run the stage once more although it has read the test split; the report says so, with every time of reading."""
