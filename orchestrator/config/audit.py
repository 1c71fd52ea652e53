"""Settings of ``stage=audit``."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AuditConfig:
    """``stage=audit``: a finished sweep's budget once more, as joint and as random search."""

    live: bool = False
    """Train for real, in the sweeps NAME.audit-joint and NAME.audit-random; else simulate."""
    seeds: int = Field(default=5, ge=1)
    """Simulation: how many times each way of searching is run."""
