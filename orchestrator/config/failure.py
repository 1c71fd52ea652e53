"""Settings of what happens when trials, workers or the user's code fail."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class FailureConfig:
    """What a failing trial costs, and when the command gives up. The defaults are our guesses."""

    max_restarts: int = Field(default=3, ge=0)
    """How often a trial whose worker died goes on elsewhere from its last checkpoint; after that it is infeasible."""
    trial_timeout_s: float | None = Field(default=None, gt=0)
    """Seconds that a trial may run on one worker before it is ended as infeasible; null: any."""
    heartbeat_s: float | None = Field(default=None, gt=0)
    """Seconds without a finished epoch after which a trial hangs, and is ended as infeasible; null: any."""
    on_user_error: Literal["stop", "tolerate"] = "tolerate"
    """An exception in the user's code ends the command, or only its trial. Before any trial has succeeded it
    always ends the command."""
    max_failure_share: float = Field(default=0.5, ge=0, le=1)
    """The command ends when more than this share of its trials failed by user errors, hangs or dead workers.
    Divergence and lack of memory do not count: the sampler learns to avoid them."""
    min_failure_sample: int = Field(default=10, ge=1)
    """Trials that must have ended in this command before the share is judged."""
