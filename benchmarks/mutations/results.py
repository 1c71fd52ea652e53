"""What a run of the benchmark is made of."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """Which cell: ``fault`` None is the healthy task."""

    base: str
    fault: str | None
    seed: int

    @property
    def label(self) -> str:
        return f"{self.fault or 'healthy'} | {self.base} | {self.seed}"


@dataclass(frozen=True)
class Flag:
    """One check's verdict other than a pass."""

    check: str
    severity: str
    statistic: str


@dataclass(frozen=True)
class Result:
    """What both tools said of a cell."""

    job: Job
    flags: tuple[Flag, ...]
    """Of severity warn or fail."""
    verdicts: dict[str, int]
    """How many findings of each severity."""
    seconds: float
    rival: tuple[Flag, ...]
    rival_seconds: float


def result_of(stored: dict[str, Any]) -> Result:
    """Undo ``asdict``."""
    flags = {name: tuple(Flag(**flag) for flag in stored[name]) for name in ("flags", "rival")}
    return Result(**{**stored, **flags, "job": Job(**stored["job"])})
