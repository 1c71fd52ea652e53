"""What a decision of the staged sampler costs the driver, as trials pile up, beside Optuna's TPE and GP samplers.

    python benchmarks/suggest.py                  # a few minutes: to 20,000 trials
    python benchmarks/suggest.py --trials 100 500

Each sampler in turn is told a number of made-up trials of 12 hyperparameters (log, linear, whole, choices, one
conditional) and then asked 50 times (the GP sampler, which takes a second or more, 5 times), each answer told back.
A decision of ours is two: ``propose``, and ``goes_on`` for the trial it started, here at its last rung, where the
decision takes longest. The times are CPU seconds of one thread of the driver, which other work on the machine
lengthens little; memory is the growth of the process, each sampler at each size in a process of its own. A sampler
that does not answer within ``--limit`` seconds is given up at that size and not asked at larger ones.
"""

import argparse
import json
import math
import multiprocessing
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[_variable] = "1"

import numpy as np  # noqa: E402
import optuna  # noqa: E402

from orchestrator.config.schema import SamplerConfig  # noqa: E402
from orchestrator.config.space import RangeConfig  # noqa: E402
from orchestrator.progress import table  # noqa: E402
from orchestrator.study.advisor import Advisor  # noqa: E402
from orchestrator.study.candidates import Focus  # noqa: E402
from orchestrator.study.records import TrialRecord  # noqa: E402
from orchestrator.study.space import Hyperparameter, SearchSpace  # noqa: E402
from orchestrator.study.surrogate import Surrogate  # noqa: E402
from orchestrator.types import Direction, Reason, TrialState, Value  # noqa: E402

HERE = Path(__file__).parent
SIZES = (100, 500, 2000, 10_000, 20_000)
SIDES = ("ours", "tpe", "gp")
GOAL_MS = 50.0
"""A suggestion at 2,000 trials and 12 hyperparameters may cost so many milliseconds of driver time."""
EPOCHS, RUNGS = 50, (1, 3, 9, 27)
WORKERS = 8
"""Trials under way all the while."""
Result = dict[str, Any]


def _log(low: float, high: float, kind: str = "float") -> RangeConfig:
    limits = (low, high)
    whole = kind == "int"
    return RangeConfig(type="int" if whole else "float", scale="log", low=low, high=high, limits=limits)


def space() -> SearchSpace:
    """Twelve hyperparameters of mixed kinds."""
    ranges = {
        "optimizer.lr": _log(1e-4, 1.0),
        "optimizer.weight_decay": _log(1e-6, 1e-1),
        "optimizer.eps": _log(1e-10, 1e-4),
        "optimizer.momentum": RangeConfig(type="float", low=0.0, high=0.99, limits=(0.0, 0.99)),
        "data.batch_size": _log(8, 1024, "int"),
        "model.width": _log(16, 1024, "int"),
        "model.depth": RangeConfig(type="int", low=1, high=8, limits=(1, 8)),
        "model.dropout": RangeConfig(type="float", low=0.0, high=0.7, limits=(0.0, 0.7)),
        "model.activation": RangeConfig(type="choice", choices=("relu", "gelu", "tanh")),
        "schedule.kind": RangeConfig(type="choice", choices=("constant", "cosine", "linear", "step")),
        "schedule.final": RangeConfig(
            type="float", low=0.0, high=0.5, limits=(0.0, 0.5), when={"schedule.kind": ("cosine", "linear")}
        ),
        "loss.label_smoothing": RangeConfig(type="float", low=0.0, high=0.3, limits=(0.0, 0.3)),
    }
    return SearchSpace({name: Hyperparameter(name, entry) for name, entry in ranges.items()})


class Trials:
    """Made-up trials: uniform configurations, smooth curves with noise, most of them stopped early."""

    def __init__(self, seed: int = 0) -> None:
        self.space = space()
        self._rng = np.random.default_rng(seed)
        items = self.space.hyperparameters.values()
        self.base = {item.name: item.choices[0] if item.is_choice else item.from_unit(0.5) for item in items}

    def configuration(self) -> dict[str, Value]:
        """Uniform in the space."""
        drawn: dict[str, Value] = {}
        for name, item in self.space.hyperparameters.items():
            unit = float(self._rng.random())
            drawn[name] = item.choices[int(unit * len(item.choices))] if item.is_choice else item.from_unit(unit)
        return self.space.canonical(drawn, self.base)

    def curve(self, configuration: dict[str, Value], epochs: int) -> dict[int, float]:
        """A loss that falls to a floor, which is the lower the nearer the middle."""
        far = 0.0
        for name, item in self.space.hyperparameters.items():
            if item.is_choice:
                far += 0.1 * (configuration[name] != item.choices[0])
            else:
                far += (item.to_unit(configuration[name]) - 0.5) ** 2
        noise = 0.02 * self._rng.normal(size=epochs)
        return {e: 0.1 + far + 2 * math.exp(-e / 8) + float(abs(noise[e - 1])) for e in range(1, epochs + 1)}

    def record(self, number: int) -> TrialRecord:
        """A trial that has ended: 2 % infeasible, 3 % complete, the rest stopped at some rung."""
        configuration = self.configuration()
        kind = self._rng.random()
        if kind < 0.02:
            return self.started(number, configuration, TrialState.INFEASIBLE, {}, Reason.DIVERGED)
        epochs = EPOCHS if kind < 0.05 else int(self._rng.choice(RUNGS, p=(0.6, 0.25, 0.1, 0.05)))
        state = TrialState.COMPLETE if epochs == EPOCHS else TrialState.PRUNED
        return self.started(number, configuration, state, self.curve(configuration, epochs))

    def started(
        self,
        number: int,
        configuration: dict[str, Value],
        state: TrialState = TrialState.RUNNING,
        curve: dict[int, float] | None = None,
        reason: Reason | None = None,
        parent: TrialRecord | None = None,
    ) -> TrialRecord:
        """The trial as the study would tell of it."""
        curve = curve or {}
        value = min(curve.values(), default=None) if state.finished else None
        return TrialRecord(
            number, "joint", configuration, number, EPOCHS, state, curve, value, reason,
            parent=None if parent is None else parent.number, inherited=0 if parent is None else parent.epochs_run,
        )  # fmt: skip


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    """Append the CPU seconds of this process that the block takes."""
    began = time.process_time()
    yield
    times.append(time.process_time() - began)


def memory_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def watch_refits(times: list[float]) -> None:
    """Time the refits inside the decisions, to tell them apart."""
    tune = Surrogate.tune

    def timed_tune(self: Surrogate, *words: Any, **more: Any) -> None:
        with timed(times):
            tune(self, *words, **more)

    Surrogate.tune = timed_tune  # type: ignore[method-assign]


def ours(trials: int, asked: int) -> Result:
    """Tell and ask our advisor."""
    made = Trials()
    names = list(made.space.hyperparameters)
    focus = Focus(varies=names[:4], windows=dict.fromkeys(names[4:], 0.15), rungs=RUNGS)
    advisor = Advisor(made.space, made.base, Direction.MINIMIZE, EPOCHS, SamplerConfig(), 0, focus)
    refits: list[float] = []
    watch_refits(refits)
    known = [made.record(number) for number in range(trials)]
    before, tells = memory_mb(), []
    with timed(tells):
        for record in known:
            advisor.observe(record)
    running = [made.started(trials + i, made.configuration()) for i in range(WORKERS)]
    for record in running:
        advisor.observe(record)
    known += running
    proposes: list[float] = []
    goes: list[float] = []
    rest: list[float] = []
    advisor.propose(len(known))  # the first one fits what was told at once
    first_fits = list(refits)
    refits.clear()
    for _ in range(asked):
        with _without(refits, proposes):
            proposal = advisor.propose(len(known))
        assert proposal is not None
        parent = None if proposal.parent is None else known[proposal.parent]
        begun = made.started(
            len(known), dict(proposal.configuration), curve=dict(parent.curve) if parent else {}, parent=parent
        )
        epochs = RUNGS[-1] if begun.inherited < RUNGS[-1] else EPOCHS
        curve = {**made.curve(begun.configuration, epochs), **begun.curve}  # type: ignore[arg-type]
        with timed(rest):
            advisor.observe(begun)
            at_rung = made.started(begun.number, begun.configuration, curve=curve, parent=parent)  # type: ignore[arg-type]
            advisor.observe(at_rung)
        with _without(refits, goes):
            advisor.goes_on(at_rung)
        state = TrialState.COMPLETE if epochs == EPOCHS else TrialState.PRUNED
        known.append(made.started(begun.number, begun.configuration, state, curve, parent=parent))  # type: ignore[arg-type]
        advisor.observe(known[-1])
    return {
        "times": proposes, "goes_on": goes, "refits": first_fits + refits, "memory_mb": memory_mb() - before,
        "tell_ms": 1e3 * tells[0] / trials,
    }  # fmt: skip


@contextmanager
def _without(refits: list[float], times: list[float]) -> Iterator[None]:
    """Time the block, less what it spent in refits."""
    before, whole = len(refits), []
    with timed(whole):
        yield
    times.append(whole[0] - sum(refits[before:]))


def theirs(name: str) -> Callable[[int, int], Result]:
    """Tell and ask an Optuna sampler."""

    def measure(trials: int, asked: int) -> Result:
        made = Trials()
        sampler = (
            optuna.samplers.TPESampler(seed=0, multivariate=True)
            if name == "tpe"
            else optuna.samplers.GPSampler(seed=0)
        )
        study = optuna.create_study(sampler=sampler)
        distributions = made.space.distributions()
        before = memory_mb()
        study.add_trials([_optuna_trial(made.record(number), distributions) for number in range(trials)])
        times: list[float] = []
        for _ in range(asked):
            with timed(times):
                trial = study.ask(distributions)
            study.tell(trial, min(made.curve({**made.base, **trial.params}, 9).values()))
        return {"times": times, "memory_mb": memory_mb() - before}

    return measure


def _optuna_trial(record: TrialRecord, distributions: dict[str, Any]) -> optuna.trial.FrozenTrial:
    """With the best of its curve; an infeasible one with a bad value."""
    params = {name: record.configuration[name] for name in distributions}
    value = 4.0 if record.value is None else record.value
    return optuna.trial.create_trial(params=params, distributions=distributions, value=value)


def _child(side: str, trials: int, asked: int, pipe: Connection) -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    pipe.send(ours(trials, asked) if side == "ours" else theirs(side)(trials, asked))


def measure(side: str, trials: int, asked: int, limit: float) -> Result | None:
    """In a process of its own; None if it took longer than ``limit`` seconds."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(side, trials, asked, there))
    child.start()
    there.close()
    try:
        found: Result | None = here.recv() if here.poll(limit) else None
    except EOFError:
        found = None
    child.kill()
    child.join()
    return found


def quantile(times: list[float], share: float) -> float:
    """Of the times, in milliseconds."""
    return 1e3 * float(np.quantile(times, share))


def row(side: str, trials: int, found: Result, base: Result | None) -> list[str]:
    """One line of the table."""
    mean = 1e3 * statistics.fmean(found["times"])
    cells = [f"{trials:,}", side, f"{mean:.1f}", f"{quantile(found['times'], 0.95):.1f}"]
    goes, refits = found.get("goes_on"), found.get("refits")
    cells += [f"{1e3 * statistics.fmean(goes):.1f}", f"{quantile(goes, 0.95):.1f}"] if goes else ["", ""]
    cells += [f"{1e3 * statistics.fmean(refits):.0f}" if refits else "", f"{found['memory_mb']:.0f}"]
    ratio = mean / (1e3 * statistics.fmean(base["times"])) if base else None
    return [*cells, f"{ratio:.2f}" if ratio is not None else ""]


HEAD = ["trials", "sampler", "propose, ms", "p95", "goes_on, ms", "p95", "refit, ms", "memory, MB", "to ours"]


def goal(results: dict[tuple[str, int], Result]) -> str:
    """Whether ours meets the target at 2,000 trials."""
    found = results.get(("ours", 2000))
    if found is None:
        return "2,000 trials were not measured"
    worst = max(max(1e3 * statistics.fmean(found[k]), quantile(found[k], 0.95)) for k in ("times", "goes_on"))
    return (
        f"at 2,000 trials the slowest of the means and 95th percentiles is {worst:.1f} ms, goal {GOAL_MS:.0f} ms: "
        + ("met" if worst < GOAL_MS else "NOT MET")
    )


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--asked", type=int, default=50, help="suggestions at each size")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--limit", type=float, default=120.0, help="seconds a sampler may take at one size")
    words = parser.parse_args()
    results: dict[tuple[str, int], Result] = {}
    rows, given_up = [HEAD], set()
    for trials in words.trials:
        for side in [side for side in words.sides if side not in given_up]:
            found = measure(side, trials, min(words.asked, 5) if side == "gp" else words.asked, words.limit)
            if found is None:
                given_up.add(side)
                rows.append([f"{trials:,}", side, f"not done in {words.limit:.0f} s", *[""] * (len(HEAD) - 3)])
            else:
                results[side, trials] = found
                rows.append(row(side, trials, found, results.get(("ours", trials))))
            print("  ".join(rows[-1]), file=sys.stderr, flush=True)
    print(f"\n12 hyperparameters, {words.asked} suggestions each, {platform.platform()}, one thread, CPU time\n")
    print(table(rows), "\n" + goal(results), sep="\n")
    path = HERE / "results" / f"suggest-{datetime.now(UTC):%Y%m%dT%H%M%S}.json"
    path.parent.mkdir(exist_ok=True)
    stored = [{"sampler": side, "trials": trials, **found} for (side, trials), found in results.items()]
    path.write_text(json.dumps(stored, indent=2) + "\n", encoding="utf-8")
    print(f"written to {path}")


if __name__ == "__main__":
    main()
