"""How long a trial may run, and how long it may say nothing."""

import math
import time

from orchestrator.types import End, Outcome, Reason, TrialSpec


class Clock:
    """Measures a trial against the limits in its spec, from now on."""

    def __init__(self, spec: TrialSpec) -> None:
        self._spec = spec
        self._began = self._asked = time.monotonic()

    def restart(self) -> None:
        """An epoch has ended, and the next one begins."""
        self._asked = time.monotonic()

    @property
    def left(self) -> float:
        """Seconds until a limit is reached; infinite without limits."""
        now, spec = time.monotonic(), self._spec
        whole = math.inf if spec.timeout_s is None else self._began + spec.timeout_s - now
        epoch = math.inf if spec.heartbeat_s is None else self._asked + spec.heartbeat_s - now
        return min(whole, epoch)

    def over(self) -> Outcome | None:
        """The end of a trial that has reached a limit; None: it may go on."""
        if self.left > 0:
            return None
        spec, now = self._spec, time.monotonic()
        if spec.timeout_s is not None and now - self._began >= spec.timeout_s:
            detail = f"it ran for longer than failure.trial_timeout_s={spec.timeout_s:g}"
            return Outcome(End.FAILED, Reason.TRIAL_TIMEOUT, detail)
        detail = f"it finished no epoch for failure.heartbeat_s={spec.heartbeat_s:g} seconds"
        return Outcome(End.FAILED, Reason.HANG, detail)
