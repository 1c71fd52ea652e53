"""What the runs add up to: the tables that the benchmark prints."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.mutations.planting import Fault
from benchmarks.mutations.results import Flag, Result

BLOCKED, WARNED, SILENT = "blocked", "warned", "silent"


@dataclass(frozen=True)
class Verdict:
    """What a tool said of a cell, beyond what it says of the healthy task with the same seed."""

    outcome: str
    names: tuple[str, ...]
    """The checks at the outcome's severity."""

    def right(self, fault: Fault) -> bool:
        """Whether one of the checks that blocked (or, where none did, warned) is the right one."""
        return bool(set(self.names) & set(fault.expected))


def verdict(flags: Iterable[Flag], healthy: Iterable[Flag]) -> Verdict:
    """Blocked where a check fails, else warned where one warns; flags of the healthy task do not count."""
    usual = {(flag.check, flag.severity) for flag in healthy}
    new = [flag for flag in flags if (flag.check, flag.severity) not in usual]
    for severity, outcome in (("fail", BLOCKED), ("warn", WARNED)):
        names = tuple(dict.fromkeys(flag.check for flag in new if flag.severity == severity))
        if names:
            return Verdict(outcome, names)
    return Verdict(SILENT, ())


@dataclass(frozen=True)
class Row:
    """One planted fault on one task and seed."""

    fault: Fault
    result: Result
    ours: Verdict
    theirs: Verdict
    harm: Mapping[str, Any] | None

    @property
    def effective(self) -> bool:
        """Measured to hurt, and meant to."""
        return not self.fault.equivalent and self.harm is not None and bool(self.harm["harmful"])


def rows(results: Sequence[Result], faults: Mapping[str, Fault], harms: Mapping[str, Any]) -> list[Row]:
    """Every fault's run beside the healthy run of the same task and seed."""
    healthy = {(r.job.base, r.job.seed): r for r in results if r.job.fault is None}
    found = []
    for result in results:
        if result.job.fault is None:
            continue
        usual = healthy.get((result.job.base, result.job.seed))
        own, other = (usual.flags, usual.rival) if usual else ((), ())
        fault = faults[result.job.fault]
        harm = harms.get(f"{fault.name} | {result.job.base}")
        found.append(Row(fault, result, verdict(result.flags, own), verdict(result.rival, other), harm))
    return found


def fault_table(found: Sequence[Row]) -> str:
    """One line per cell."""
    lines = [f"{'fault':46}{'task':18}{'preflight':10}{'right':6}{'torchtest2':11}{'harm':34}checks"]
    for row in found:
        right = "" if row.ours.outcome == SILENT else ("yes" if row.ours.right(row.fault) else "NO")
        lines.append(
            f"{row.fault.name:46}{row.result.job.base:18}{row.ours.outcome:10}{right:6}{row.theirs.outcome:11}"
            f"{harm_text(row):34}{', '.join(row.ours.names)}"
        )
    return "\n".join(lines)


def harm_text(row: Row) -> str:
    """The measured harm in a few words."""
    if row.harm is None:
        return "not measured"
    clean, faulty = row.harm["clean"], row.harm["faulty"]
    state = "" if row.harm["harmful"] else "none: "
    return f"{state}{row.harm['kind'][:5]} {row.harm['score'][:14]} {clean:.3g} to {faulty:.3g}"


def summary(found: Sequence[Row], title: str) -> str:
    """Shares of blocked, warned, silent and rightly named cells for both tools."""
    count = len(found)
    if count == 0:
        return f"{title}: no cells"
    lines = [f"{title}: {count} cells of {len({row.fault.name for row in found})} faults"]
    lines.append(f"  {'':12}{'blocked':>14}{'warned':>14}{'silent':>14}{'right name':>18}")
    for tool, verdicts in (("preflight", [r.ours for r in found]), ("torchtest2", [r.theirs for r in found])):
        outcomes = Counter(item.outcome for item in verdicts)
        cells = "".join(f"{outcomes[o]:>6} ({outcomes[o] / count:4.0%})" for o in (BLOCKED, WARNED, SILENT))
        flagged = count - outcomes[SILENT]
        right = sum(row.ours.right(row.fault) for row in found)
        named = f"{right:>8} of {flagged} ({right / max(1, flagged):.0%})" if tool == "preflight" else f"{'':>8}-"
        lines.append(f"  {tool:12}{cells}{named}")
    return "\n".join(lines)


def healthy_table(results: Sequence[Result]) -> str:
    """False alarms on healthy tasks, and how long they took."""
    runs = [result for result in results if result.job.fault is None]
    checks = sum(n for run in runs for severity, n in run.verdicts.items() if severity != "skipped")
    warns = sum(run.verdicts.get("warn", 0) for run in runs)
    fails = [run for run in runs if run.verdicts.get("fail", 0)]
    rival_fails = sum(any(flag.severity == "fail" for flag in run.rival) for run in runs)
    rival_warns = sum(flag.severity == "warn" for run in runs for flag in run.rival)
    tasks = len({run.job.base for run in runs})
    lines = [
        f"healthy: {len(runs)} runs of {tasks} tasks; runs with a FAIL {len(fails)}; "
        f"WARN on {warns} of {checks} check-runs ({warns / max(1, checks):.2%})",
        f"  torchtest2 on the same: runs with a FAIL {rival_fails}; WARN {rival_warns} times",
        f"  seconds a run: median {median([r.seconds for r in runs]):.1f}, most {max(r.seconds for r in runs):.1f}"
        f"; torchtest2 median {median([r.rival_seconds for r in runs]):.1f}",
    ]
    alarms = Counter((f.check, f.severity, r.job.base) for r in runs for f in r.flags)
    lines += [f"  {severity:5}{check:28}{base:20}{n} runs" for (check, severity, base), n in sorted(alarms.items())]
    return "\n".join(lines)


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return sorted(values)[len(values) // 2]
