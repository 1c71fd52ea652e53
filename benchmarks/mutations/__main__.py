"""Plant faults in healthy tasks and see what preflight and torchtest2 say of them.

python -m benchmarks.mutations                 # budget: every fault once, every healthy task once
python -m benchmarks.mutations --full          # 5 seeds of every healthy task, 3 of every fault
"""

import argparse
import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.mutations.catalogue import FAULTS, by_name
from benchmarks.mutations.measure_harm import HARM
from benchmarks.mutations.pool import POOL
from benchmarks.mutations.results import Job, Result, result_of
from benchmarks.mutations.running import run, start
from benchmarks.mutations.table import fault_table, healthy_table, rows, summary

FULL_HEALTHY, FULL_FAULTS = 5, 3
"""Seeds of the full size: 43 tasks x 5 seeds are more than the 200 healthy runs of the target."""


def jobs(
    healthy_seeds: int, fault_seeds: int, faults: Sequence[str] | None, bases: Sequence[str] | None
) -> list[Job]:
    """The cells of a run, healthy ones first."""
    wanted = [fault for fault in FAULTS if faults is None or fault.name in faults]
    planted = [
        Job(base, fault.name, seed)
        for fault in wanted
        for base in fault.bases
        for seed in range(fault_seeds)
        if bases is None or base in bases
    ]
    tasks = [h.name for h in POOL if bases is None or h.name in bases]
    if faults is not None:
        tasks = [name for name in tasks if name in {job.base for job in planted} or not faults]
    return [Job(name, None, seed) for name in tasks for seed in range(healthy_seeds)] + planted


def work(todo: Sequence[Job], processes: int) -> list[Result]:
    """Run ``todo`` in worker processes of one thread each, telling how it goes."""
    results: list[Result] = []
    began = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(processes, initializer=start) as workers:
        for result in workers.imap(run, todo):
            results.append(result)
            worst = "; ".join(f"{flag.severity} {flag.check}" for flag in result.flags) or "nothing"
            spent = time.perf_counter() - began
            print(f"{len(results)}/{len(todo)} {spent:5.0f} s  {result.job.label}: {worst}", flush=True)
    return results


def report(results: Sequence[Result]) -> str:
    """All tables."""
    harms = json.loads(HARM.read_text())
    found = rows(results, by_name(), harms)
    effective = [row for row in found if row.effective]
    known, held_out = ([row for row in effective if row.fault.held_out is kind] for kind in (False, True))
    excluded = [row for row in found if not row.effective and not row.fault.equivalent]
    equivalent = [row for row in found if row.fault.equivalent]
    parts = [
        "EFFECTIVE FAULTS", fault_table(effective),
        "EXCLUDED: no harm measured", fault_table(excluded),
        "EQUIVALENT: must stay silent", fault_table(equivalent),
        healthy_table(results) if any(r.job.fault is None for r in results) else "",
        summary(effective, "all effective faults"),
        summary(known, "of these from the catalogue"),
        summary(held_out, "of these held out"),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part)


def loaded(path: Path) -> list[Result]:
    """The results that an earlier run wrote."""
    return [result_of(stored) for stored in json.loads(path.read_text())]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--budget", action="store_true", help="the default size")
    arguments.add_argument("--full", action="store_true")
    arguments.add_argument("--faults", nargs="*", help="only these; with none named, healthy tasks only")
    arguments.add_argument("--tasks", nargs="*", help="only these")
    arguments.add_argument("--processes", type=int, default=2)
    arguments.add_argument("--json", type=Path, default=Path("benchmarks/results/mutations.json"))
    arguments.add_argument("--tables", type=Path, help="run nothing, print the tables of this file")
    given = arguments.parse_args()
    if given.tables:
        print(report(loaded(given.tables)))
        return
    seeds = (FULL_HEALTHY, FULL_FAULTS) if given.full else (1, 1)
    began = time.perf_counter()
    results = work(jobs(*seeds, given.faults, given.tasks), given.processes)
    given.json.parent.mkdir(parents=True, exist_ok=True)
    given.json.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n")
    print("\n" + report(results))
    print(f"\n{time.perf_counter() - began:.0f} s with {given.processes} processes")


if __name__ == "__main__":
    main()
