"""The preflight stage: check data and training code before anything is tuned, and keep what was found."""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.config.errors import suggest
from orchestrator.config.hyperparameters import from_flat
from orchestrator.config.preflight import PreflightConfig
from orchestrator.errors import ConfigError, InterruptedSweepError, PreflightError
from orchestrator.files import write_text
from orchestrator.preflight.registry import checks
from orchestrator.preflight.report import Report, Severity
from orchestrator.preflight.run import run_preflight
from orchestrator.progress import table
from orchestrator.stages.sweep import Sweep
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.trial import use_threads

FOLDER = "preflight"
"""Below the sweep's folder: the report, pictures and lists."""
REPORT_FILE = "report.json"


@dataclass(frozen=True)
class PreflightResult:
    """What the ledger keeps of a preflight."""

    worst: str
    failed: tuple[str, ...]
    """Names of the checks that failed."""
    findings: tuple[Mapping[str, Any], ...]
    """Those of INFO, WARN and FAIL in full; the others are in the report's file."""
    baselines: Mapping[str, Mapping[str, float]]
    """Classical model to its scores on validation."""
    files: tuple[str, ...]
    """Report, pictures and lists, relative to the sweep's folder."""
    metrics: Mapping[str, float]
    """For tracking: the number of findings of each severity, the numbers behind them, the baselines' scores."""
    tags: Mapping[str, str]
    """For tracking: the worst severity, and the names of the checks of each that asks for attention."""
    seconds: float


def check_names(settings: PreflightConfig) -> None:
    """Refuse a name to skip that no check has.

    Raises:
        ConfigError: with the known names.
    """
    if not settings.skip:
        return
    known = [row.name for row in checks()]
    for name in settings.skip:
        if name not in known:
            raise ConfigError(f"preflight.skip: there is no check {name}; {suggest(name, known)}")


def run_preflight_stage(sweep: Sweep, name: str, stopping: Callable[[], bool], *, again: bool) -> None:
    """Check the sweep's task with its base configuration; the stage's verdict goes where all verdicts go.

    Args:
        sweep: the open sweep.
        name: name of the stage.
        stopping: whether the user has interrupted.
        again: check even if it was done before (the code may have changed since).

    Raises:
        PreflightError: a check failed, and ``preflight.on_fail`` is ``block``.
        InterruptedSweepError: ``stopping`` said so.
    """
    settings = sweep.config.preflight
    before = sweep.ledger.finished.get(name)
    if before is not None and not again and not (before["failed"] and settings.on_fail == "block"):
        failed = f", with FAIL in {', '.join(before['failed'])}" if before["failed"] else ""
        sweep.progress.say(f"[{name}] finished before{failed}; skipped (stage={name} checks again)")
        return
    asks = sweep.config.stages[name].asks
    sweep.tracker.begin(stage_key(name), SWEEP, name, {}, {"kind": "stage", "stage": name, "asks": asks})
    sweep.progress.say(f"[{name}] {asks}")
    report = _check(sweep, name, stopping)
    result = _result(sweep, report)
    text = report.text()
    sweep.ledger.finish(name, result, text)
    sweep.track_stage_end(name)
    sweep.tracker.begin(SWEEP, None, sweep.name, {}, {"preflight": result.worst})
    sweep.progress.say(text)
    if result.files:
        sweep.progress.say(f"report and pictures: {sweep.folder / FOLDER}")
    _block_or_warn(sweep, name, result)


def _check(sweep: Sweep, name: str, stopping: Callable[[], bool]) -> Report:
    config = sweep.config
    folder = sweep.folder / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    use_threads(config.runner.cpus_per_trial)

    def show(check: str, done: int, total: int) -> None:
        if stopping():
            raise InterruptedSweepError("interrupted during the checks; nothing was tuned")
        sweep.progress.update(f"[{name}] {done}/{total} checks done, now {check}")

    report = run_preflight(
        sweep.task,
        hyperparameters=from_flat(sweep.base),
        trainer=config.trainer,
        skip=config.preflight.skip,
        settings=config.preflight.settings,
        seed=config.seed,
        folder=folder,
        progress=show,
    )
    write_text(folder / REPORT_FILE, report.to_json() + "\n")
    return report


def _result(sweep: Sweep, report: Report) -> PreflightResult:
    # Through the report's own JSON: what is not finite is text there.
    findings = json.loads(report.to_json())["findings"]
    loud = (Severity.INFO, Severity.WARN, Severity.FAIL)
    metrics = {f"checks/{level}": float(len(report.of(level))) for level in Severity}
    for finding in report.findings:
        metrics |= {f"{finding.check}/{name}": float(value) for name, value in finding.values.items()}
    for baseline in report.baselines:
        metrics |= {f"baseline/{baseline.name}/{name}": float(value) for name, value in baseline.scores.items()}
    files = sorted(path for path in (sweep.folder / FOLDER).rglob("*") if path.is_file())
    return PreflightResult(
        worst=report.worst,
        failed=tuple(dict.fromkeys(finding.check for finding in report.failed)),
        findings=tuple(finding for finding in findings if finding["severity"] in loud),
        baselines={baseline.name: dict(baseline.scores) for baseline in report.baselines},
        files=tuple(str(path.relative_to(sweep.folder)) for path in files),
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},
        tags={"preflight": report.worst}
        | {f"preflight.{level}": ", ".join(dict.fromkeys(f.check for f in report.of(level))) for level in loud},
        seconds=report.seconds,
    )


def _block_or_warn(sweep: Sweep, name: str, result: PreflightResult) -> None:
    if not result.failed:
        return
    listed = ", ".join(result.failed)
    if sweep.config.preflight.on_fail == "warn":
        sweep.progress.say(f"[{name}] FAIL in {listed}; going on because preflight.on_fail=warn")
        return
    raise PreflightError(
        f"{name}: FAIL in {listed}: see above; mend it and run the same command again, or go on all the same: "
        f"preflight.on_fail=warn, preflight.skip=[{','.join(result.failed)}]"
    )


def baselines(sweep: Sweep) -> Mapping[str, Mapping[str, float]]:
    """The classical models of the sweep's preflight and their scores on validation; empty without one."""
    found = [result.get("baselines") or {} for result in sweep.ledger.finished.values()]
    return {name: scores for models in found for name, scores in models.items()}


def compare_with_baselines(sweep: Sweep) -> str:
    """The tuned network beside the classical models, and a human where the task knows; empty without a preflight."""
    models, best = baselines(sweep), sweep.best
    if not models or best is None or best.value is None:
        return ""
    objective = sweep.task.objective
    epochs = [values for _, values in sweep.measured.epochs(best.number)]
    own = min(epochs, key=lambda values: sweep.direction.cost(values[f"val/{objective}"]), default={})
    shown = {**models, f"tuned network (trial {best.number})": {k.removeprefix("val/"): v for k, v in own.items()}}
    if ceiling := sweep.task.ceiling():
        shown["ceiling stated by the task"] = ceiling
    names = list(sweep.task.directions)
    rows = [
        [who, *(f"{scores[name]:.4g}" if name in scores else "" for name in names)] for who, scores in shown.items()
    ]
    lines = [table([["on validation", *names], *rows])]
    # One validation split, and no interval: said, never judged.
    better = [who for who, scores in models.items() if sweep.direction.better(scores[objective], best.value)]
    if better:
        lines.append(f"  the network is no better here than {' and '.join(better)}")
    return "\n".join(lines)
