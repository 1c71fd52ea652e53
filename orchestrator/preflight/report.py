"""What the checks found: findings, and the report that collects them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path


class Severity(StrEnum):
    """How bad a finding is, mildest first."""

    SKIPPED = "skipped"
    """The check does not apply; the finding says why."""
    PASS = "pass"
    INFO = "info"
    """Worth knowing, nothing to act on."""
    WARN = "warn"
    """Probably wrong, or a risk; never blocks."""
    FAIL = "fail"
    """Wrong: blocks the sweep."""

    @property
    def rank(self) -> int:
        """0 for the mildest."""
        return list(Severity).index(self)


@dataclass(frozen=True)
class Finding:
    """The verdict of one check."""

    severity: Severity
    statistic: str
    """What was measured, with its value; for SKIPPED the reason."""
    threshold: str = ""
    """What the statistic was compared with."""
    meaning: str = ""
    """What a value on that side of the threshold says about the code or the data."""
    causes: tuple[str, ...] = ()
    """Likeliest causes, likeliest first."""
    advice: str = ""
    """What to do next."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The numbers behind the statistic, for tracking."""
    check: str = ""
    """Name of the check; filled in by the runner of the checks."""


def passed(statistic: str, threshold: str = "", values: Mapping[str, float] | None = None) -> Finding:
    """Nothing wrong."""
    return Finding(Severity.PASS, statistic, threshold, values=values or {})


def skipped(reason: str) -> Finding:
    """The check does not apply, for ``reason``."""
    return Finding(Severity.SKIPPED, reason)


@dataclass(frozen=True)
class Explanation:
    """What a finding tells its reader beside the numbers."""

    meaning: str
    causes: tuple[str, ...]
    advice: str


def judged(
    severity: Severity,
    statistic: str,
    threshold: str,
    explanation: Explanation,
    values: Mapping[str, float] | None = None,
) -> Finding:
    """A finding of any severity; a PASS keeps only its statistic and threshold."""
    if severity is Severity.PASS:
        return passed(statistic, threshold, values)
    return Finding(
        severity, statistic, threshold, explanation.meaning, explanation.causes, explanation.advice, values or {}
    )


@dataclass(frozen=True)
class Baseline:
    """A classical model's scores on the validation split, to stand next to the network's."""

    name: str
    scores: Mapping[str, float]
    """The task's own scores by name."""
    seconds: float


@dataclass(frozen=True)
class Report:
    """Everything that one preflight found."""

    task: str
    findings: tuple[Finding, ...]
    baselines: tuple[Baseline, ...] = ()
    pictures: tuple[Path, ...] = ()
    """PNG files and lists written to the folder that was asked for."""
    seconds: float = 0.0

    @property
    def worst(self) -> Severity:
        """The gravest severity of all findings."""
        return max((finding.severity for finding in self.findings), key=lambda s: s.rank, default=Severity.PASS)

    @property
    def failed(self) -> tuple[Finding, ...]:
        """The findings that block a sweep."""
        return self.of(Severity.FAIL)

    def of(self, severity: Severity) -> tuple[Finding, ...]:
        """The findings of one severity, in the order of the checks."""
        return tuple(finding for finding in self.findings if finding.severity is severity)

    def text(self) -> str:
        """For a terminal: gravest first, in full from INFO up, then one line of counts."""
        blocks = [
            _block(finding) for level in (Severity.FAIL, Severity.WARN, Severity.INFO) for finding in self.of(level)
        ]
        counts = ", ".join(f"{len(self.of(level))} {level}" for level in reversed(Severity) if self.of(level))
        table = _baseline_lines(self.baselines)
        return "\n".join([*blocks, *table, f"preflight of {self.task}: {counts} ({self.seconds:.1f} s)"])

    def to_json(self) -> str:
        """The whole report; a number that is not finite becomes its name in quotes."""
        return json.dumps(_plain(asdict(self) | {"worst": self.worst}), indent=1, allow_nan=False)


def _block(finding: Finding) -> str:
    lines = [f"{finding.severity.upper()} {finding.check}: {finding.statistic}"]
    if finding.threshold:
        lines[0] += f" (expected {finding.threshold})"
    if finding.meaning:
        lines.append(f"  {finding.meaning}")
    if finding.causes:
        lines.append(f"  likely: {'; '.join(finding.causes)}")
    if finding.advice:
        lines.append(f"  do: {finding.advice}")
    return "\n".join(lines)


def _baseline_lines(baselines: tuple[Baseline, ...]) -> list[str]:
    return [
        f"baseline {baseline.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in baseline.scores.items())
        for baseline in baselines
    ]


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not abs(value) < float("inf"):
        return str(value)
    return value
