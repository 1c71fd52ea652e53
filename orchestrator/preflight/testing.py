"""For users' own tests: the preflight as one assertion, without a sweep.

::

    from orchestrator.preflight.testing import assert_preflight

    def test_my_task_is_sound():
        assert_preflight(MyTask())
"""

from collections.abc import Collection

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.procedure import Procedure
from orchestrator.preflight.report import Report, Severity
from orchestrator.preflight.run import run_preflight
from orchestrator.tasks.base import Task


def assert_preflight(
    task: Task,
    *,
    hyperparameters: Hyperparameters | None = None,
    procedure: type[Procedure] | None = None,
    skip: Collection[str] = (),
    settings: CheckSettings | None = None,
    seed: int = 0,
    strict: bool = False,
) -> Report:
    """Run every check on ``task`` and return the report; arguments as those of :func:`run_preflight`.

    Args:
        strict: also for a WARN.

    Raises:
        AssertionError: a check failed; the text is the whole report.
        ConfigError: ``skip`` names a check that does not exist.
    """
    report = run_preflight(
        task, hyperparameters=hyperparameters, procedure=procedure, skip=skip, settings=settings, seed=seed
    )
    if report.worst.rank >= (Severity.WARN if strict else Severity.FAIL).rank:
        raise AssertionError(report.text())
    return report
