"""One cell checked by preflight and by torchtest2, in a worker process."""

import time
import warnings
from collections.abc import Iterable

import torch

from benchmarks.mutations.catalogue import by_name
from benchmarks.mutations.harm import TRAINER, clean
from benchmarks.mutations.planting import Cell
from benchmarks.mutations.pool import BY_NAME
from benchmarks.mutations.results import Flag, Job, Result
from benchmarks.mutations.rival import rival_flags
from orchestrator.preflight.report import Finding, Severity
from orchestrator.preflight.run import run_preflight


def cell_of(job: Job) -> Cell:
    """The cell of ``job``."""
    cell = clean(BY_NAME[job.base], job.seed)
    return by_name()[job.fault].plant(cell) if job.fault else cell


def start() -> None:
    """Set up a worker process."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")


def run(job: Job) -> Result:
    """Check one cell with both tools."""
    cell = cell_of(job)
    report = run_preflight(
        cell.task, hyperparameters=cell.hyperparameters, procedure=cell.procedure, trainer=TRAINER, seed=job.seed
    )
    verdicts: dict[str, int] = {}
    for finding in report.findings:
        verdicts[str(finding.severity)] = verdicts.get(str(finding.severity), 0) + 1
    started = time.perf_counter()
    rival = rival_flags(cell_of(job), job.seed)
    return Result(job, flagged(report.findings), verdicts, report.seconds, rival, time.perf_counter() - started)


def flagged(findings: Iterable[Finding]) -> tuple[Flag, ...]:
    """The findings of severity WARN and FAIL."""
    grave = (Severity.WARN, Severity.FAIL)
    return tuple(Flag(f.check, str(f.severity), f.statistic) for f in findings if f.severity in grave)
