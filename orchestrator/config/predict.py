"""Settings of ``stage=predict``."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PredictConfig:
    """``stage=predict``: a sweep's model on a file."""

    input: str | None = None
    """File of raw inputs: .npy, .npz, .csv or .parquet."""
    output: str | None = None
    """File to write: .npy, .npz, .csv or .parquet."""
    model: Literal["winner", "ensemble", "student"] | None = None
    """Which of the sweep's models; null: the ensemble if there is one, else the winner."""
    keep: tuple[str, ...] = ()
    """Columns of the input that are no inputs of the model, and are copied to the output."""
    rows: int = Field(default=8192, ge=1)
    """Examples read at a time: bounds the memory."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where it predicts."""
