"""Settings of the preflight. The thresholds of each check are in ``checks_*.py`` next to this file."""

from typing import Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from orchestrator.config.checks_code import CodeChecks
from orchestrator.config.checks_data import DataChecks
from orchestrator.config.checks_learn import LearnChecks
from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CheckSettings(DataChecks, CodeChecks, LearnChecks):
    """Thresholds and budgets, one group per check: ``preflight.settings.NAME.THRESHOLD``."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PreflightConfig:
    """What is checked before a sweep, and what a FAIL does."""

    on_fail: Literal["block", "warn"] = "block"
    """block: a FAIL ends the command with exit code 3; warn: it is printed and the sweep goes on."""
    skip: tuple[str, ...] = Field(default=())
    """Names of checks that are not run."""
    list: bool = False
    """Print all checks, one line each, and run none."""
    settings: CheckSettings = CheckSettings()
    """Thresholds and budgets of the checks."""
