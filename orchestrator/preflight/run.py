"""Run the checks on a task."""

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from pathlib import Path

from orchestrator.config.errors import suggest
from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.config.preflight import CheckSettings
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import ConfigError
from orchestrator.preflight.procedure import Procedure
from orchestrator.preflight.registry import GATE, Check, checks
from orchestrator.preflight.report import Explanation, Finding, Report, Severity, judged, skipped
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task

Progress = Callable[[str, int, int], None]
"""Told the name of the check that starts, how many are done and how many there are."""


def run_preflight(
    task: Task,
    *,
    hyperparameters: Hyperparameters | None = None,
    procedure: type[Procedure] | None = None,
    trainer: TrainerConfig | None = None,
    skip: Collection[str] = (),
    settings: CheckSettings | None = None,
    seed: int = 0,
    folder: Path | None = None,
    progress: Progress | None = None,
) -> Report:
    """Every check of the table on ``task``; nothing outside ``folder`` is changed.

    Args:
        task: what is checked.
        hyperparameters: of the training that is checked; None: the defaults.
        procedure: how training is done where it is not our own loop.
        trainer: device, evaluation batch and so on; None: the defaults.
        skip: names of checks to leave out.
        settings: thresholds and budgets of the checks.
        seed: of the examples drawn and the networks built.
        folder: where pictures and lists are written; None: none are.
        progress: called before each check.

    Raises:
        ConfigError: ``skip`` names a check that does not exist.
    """
    started = time.perf_counter()
    table = checks()
    known = [row.name for row in table]
    for name in skip:
        if name not in known:
            raise ConfigError(f"preflight.skip: there is no check {name}; {suggest(name, known)}")
    subject = Subject(task, hyperparameters, procedure, trainer=trainer, seed=seed, folder=folder)
    findings: list[Finding] = []
    for done, row in enumerate(table):
        if progress is not None:
            progress(row.name, done, len(table))
        findings += _findings(row, subject, settings or CheckSettings(), skip, findings)
    return Report(
        task=type(task).__name__,
        findings=tuple(findings),
        baselines=tuple(subject.baselines),
        pictures=tuple(subject.pictures),
        seconds=time.perf_counter() - started,
    )


def _findings(
    row: Check, subject: Subject, settings: CheckSettings, skip: Collection[str], earlier: list[Finding]
) -> list[Finding]:
    blocked = any(finding.check == GATE and finding.severity is Severity.FAIL for finding in earlier)
    if row.name in skip:
        found: list[Finding] = [skipped("left out by preflight.skip")]
    elif blocked and (row.group != "data" or not subject.has_data):
        found = [skipped(f"the task does not run, see {GATE}")]
    else:
        found = run_check(row, subject, settings)
    return [replace(finding, check=row.name) for finding in found]


def run_check(row: Check, subject: Subject, settings: CheckSettings) -> list[Finding]:
    """The findings of one check; the subject is bit-identical afterwards."""
    with subject.untouched():
        try:
            reason = row.reason_to_skip(subject)
            if reason is not None:
                return [skipped(reason)]
            found = row.run(subject, settings)
            return [found] if isinstance(found, Finding) else list(_listed(found))
        except Exception as error:  # the user's code may raise anything
            return [_crashed(error)]


def _listed(found: Iterable[Finding]) -> Iterable[Finding]:
    yield from found


def _crashed(error: Exception) -> Finding:
    text = str(error).strip().splitlines()
    first = text[0] if text else "no message"
    return judged(
        Severity.WARN,
        f"could not be decided: {type(error).__name__}: {first}",
        "",
        Explanation(
            meaning="The task's code raised while the check ran it in an unusual way.",
            causes=("the model or the loss takes only certain batch sizes, types or devices",),
            advice="read the message; if the task is right, leave the check out with preflight.skip",
        ),
    )
