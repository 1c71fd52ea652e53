"""How good is the search? Methods compared on lcbench at equal budget, with the same first configuration.

    python benchmarks/search.py run                                    # everything that is not there yet
    python benchmarks/search.py run --methods random tpe --starts default --seeds 0
    python benchmarks/search.py run --instances trusted --noise 0.1
    python benchmarks/search.py run --workers 8
    python benchmarks/search.py report                                 # tables and plots of what is there
    python benchmarks/search.py report --instances trusted --methods gp tpe
    python benchmarks/search.py list

lcbench is not part of this repository: its folder is looked for beside the checkout (``../shared/lcbench``), or
given with ``--lcbench``. Runs go to ``benchmarks/results/search.jsonl``, one line each, as they end; a run that is
there is not run again (``--redo`` does). Budgets are full trainings (FT) of 50 epochs; regret 0 is the ceiling, 1 a
typical random configuration. Simulated workers: an epoch takes one unit of time, nothing else takes any.
"""

import argparse
import contextlib
import multiprocessing
import os
import sys
import time
import zlib
from pathlib import Path

for _threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_threads] = "1"  # before NumPy is imported; runs are parallel by processes

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from search_methods import METHODS, PRODUCT, load, results, tables  # noqa: E402
from search_methods.objective import TimedObjective, load_lcbench  # noqa: E402
from search_methods.results import Case, Row  # noqa: E402

STARTS = ("default", "bad", "none")


def run_case(job: tuple[Case, float, Path]) -> Row:
    """One run, in this process."""
    case, max_ft, folder = job
    bench = sys.modules.get("lcbench") or load_lcbench(folder)
    number = zlib.crc32(f"{case.instance}/{case.seed}".encode()) % 2**31  # as lcbench.evaluate numbers its runs
    objective = TimedObjective(bench, case.instance, max_ft, case.noise, number, case.workers)
    start = {"default": bench.DEFAULT, "bad": bench.BAD_START, "none": None}[case.start]
    began = time.process_time()
    with contextlib.suppress(bench.BudgetSpent):  # how every method ends that does not converge first
        load(case.method)(objective, number, None if start is None else dict(start))
    seconds = round(time.process_time() - began, 2)
    return Row(case, max_ft, objective.spent, objective.trials, seconds, tuple(objective.trace))


def chosen_cases(options: argparse.Namespace) -> list[Case]:
    """The cases that the options ask for, one method after the other."""
    bench = load_lcbench(options.lcbench)
    named = {"all": bench.instances(), "trusted": bench.trusted()}
    instances = [name for word in options.instances for name in named.get(word, [word])]
    if unknown := sorted(set(instances) - set(bench.instances())):
        raise SystemExit(f"--instances {unknown[0]}: not one of all, trusted, {', '.join(bench.instances())}")
    return [
        Case(method, instance, seed, start, options.noise, options.workers)
        for method in options.methods
        for start in options.starts
        for seed in options.seeds
        for instance in instances
    ]


def run(options: argparse.Namespace) -> None:
    cases = chosen_cases(options)
    done = {} if options.redo else results.read(options.out)
    jobs = [(case, options.max_ft, options.lcbench) for case in results.missing(cases, done, options.max_ft)]
    print(f"{len(jobs)} of {len(cases)} runs to do", flush=True)
    with multiprocessing.get_context("spawn").Pool(options.jobs) as pool:
        for number, row in enumerate(pool.imap_unordered(run_case, jobs), 1):
            results.append(options.out, row)
            last = row.trace[-1][2]
            print(f"{number}/{len(jobs)} {row.case} regret {last:.3f}, {row.seconds:.1f} s", flush=True)


def report(options: argparse.Namespace) -> None:
    rows = [row for row in results.read(options.out).values() if row.case.method in options.methods]
    if options.instances != ["all"]:
        names = load_lcbench(options.lcbench).trusted() if options.instances == ["trusted"] else options.instances
        rows = [row for row in rows if row.case.instance in names]
    if not rows:
        raise SystemExit(f"--out {options.out}: no such runs there yet; start with: benchmarks/search.py run")
    settings = tables.by_setting(rows)
    text = f"Instances: {', '.join(sorted({row.case.instance for row in rows}))}.\n\n"
    text += "\n".join(page(settings, setting, options.product) for setting in settings)
    print(text)
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    plot(settings, options)


def page(settings: tables.Settings, setting: tables.Setting, product: str) -> str:
    """The tables of one setting."""
    methods = settings[setting]
    parts = [f"## {setting}", tables.regret_table(methods)]
    if product in methods:
        parts.append(tables.paired_table(methods, product))
    alone = tables.Setting(setting.start, setting.noise, 1)
    if setting.workers > 1 and alone in settings:
        parts.append(tables.speed_table(settings[alone], methods, setting.workers))
    return "\n\n".join(parts) + "\n"


def plot(settings: tables.Settings, options: argparse.Namespace) -> None:
    """A PNG for each noise and number of workers, with a panel for each start."""
    from search_methods.plot import draw

    for noise, workers in sorted({(setting.noise, setting.workers) for setting in settings}):
        panels = {s: m for s, m in settings.items() if (s.noise, s.workers) == (noise, workers)}
        path = options.out.with_name(f"{options.out.stem}_noise{noise:g}_workers{workers}.png")
        draw(panels, options.product, path)
        print(f"plot: {path}")


def parse(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("run", "report", "list"))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="METHOD")
    parser.add_argument("--instances", nargs="+", default=["all"], help="names, all, or trusted")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--max-ft", type=float, default=20, help="budget of a run in full trainings")
    parser.add_argument("--noise", type=float, default=0.0, help="seed noise, in units of ceiling minus median")
    parser.add_argument("--workers", type=int, default=1, help="simulated workers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes")
    parser.add_argument("--redo", action="store_true", help="run again what is there")
    parser.add_argument("--product", choices=PRODUCT, default=PRODUCT[0], help="compared with the peers in report")
    parser.add_argument("--lcbench", type=Path, default=ROOT.parents[1] / "shared" / "lcbench")
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "search.jsonl")
    return parser.parse_args(words)


def main() -> None:
    options = parse()
    if options.verb == "list":
        print("\n".join(f"{name:16} {load(name).__doc__}" for name in METHODS))
    else:
        {"run": run, "report": report}[options.verb](options)


if __name__ == "__main__":
    main()
