"""The exceptions of the product and the exit code each one ends the command with.

::

    OrchestratorError            1   something of ours went wrong
    ├── ConfigError              2   the user's input is wrong; one line says where and what would be right
    │   └── SweepLockedError     2   another driver works on this sweep
    ├── PreflightError           3   the data or the training code is broken
    ├── NoFeasibleTrialError     4   a stage ended without a single usable trial
    ├── UserCodeError            1   the user's own code raised
    ├── StorageError             1   a file of the sweep cannot be written, or is damaged
    │   └── DamagedError         1   a file is not what was written
    ├── TooManyFailuresError     1   more trials fail than the failure policy takes
    └── InterruptedSweepError  130   Ctrl-C: the sweep stopped in good order and can go on
    InfeasibleTrialError                  not an error of a command: a trial that cannot give a value
"""

from orchestrator.types import Reason


class OrchestratorError(Exception):
    """Base of every error this package raises on purpose; its text is one line for the user."""

    exit_code = 1


class ConfigError(OrchestratorError):
    """The configuration or the command line is wrong."""

    exit_code = 2


class SweepLockedError(ConfigError):
    """Another live process is driving this sweep."""


class PreflightError(OrchestratorError):
    """A preflight check failed, so nothing may be tuned."""

    exit_code = 3


class NoFeasibleTrialError(OrchestratorError):
    """No trial of the stage gave a value to choose by."""

    exit_code = 4


class UserCodeError(OrchestratorError):
    """The user's task raised where the sweep cannot go on without it."""


class StorageError(OrchestratorError):
    """A file of the sweep cannot be written, or is damaged; says which, and what to do."""


class DamagedError(StorageError):
    """A file of the sweep is not what was written. An older one may be whole."""


class TooManyFailuresError(OrchestratorError):
    """More trials fail, for reasons that no sampler can learn, than the failure policy takes."""


class InterruptedSweepError(OrchestratorError):
    """The user interrupted the sweep; running trials were checkpointed."""

    exit_code = 130


class InfeasibleTrialError(Exception):
    """Raised inside a trial that cannot give a value; the sweep goes on and learns from it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail

    def __reduce__(self) -> tuple[type, tuple[Reason, str]]:
        return (type(self), (self.reason, self.detail))
