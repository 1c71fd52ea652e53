"""Tables of the search benchmark: mean regret, mean rank, paired intervals, and speed-up with several workers."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from search_methods.results import EPOCHS_PER_FT, Case, Row

BUDGETS_FT = (1, 2, 5, 10, 20)
DRAWS = 10_000  # bootstrap resamples

Pairing = tuple[str, int]  # instance, seed
Settings = dict["Setting", dict[str, dict[Pairing, "Row"]]]


@dataclass(frozen=True, order=True)
class Setting:
    """What runs must share to be compared."""

    start: str
    noise: float
    workers: int

    def __str__(self) -> str:
        workers = "one worker" if self.workers == 1 else f"{self.workers} workers"
        return f"start {self.start}, noise {self.noise:g}, {workers}"


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def by_setting(rows: Iterable[Row]) -> Settings:
    """Rows by setting, method, and what pairs them across methods."""
    found: Settings = {}
    for row in rows:
        case: Case = row.case
        methods = found.setdefault(Setting(case.start, case.noise, case.workers), {})
        methods.setdefault(case.method, {})[case.instance, case.seed] = row
    return dict(sorted(found.items()))


def regrets(rows: dict[Pairing, Row], pairs: list[Pairing]) -> np.ndarray:
    """Regret of each pair at each of BUDGETS_FT, shape (pairs, budgets)."""
    return np.array([[rows[pair].regret_at(budget) for budget in BUDGETS_FT] for pair in pairs])


def common(methods: dict[str, dict[Pairing, Row]]) -> list[Pairing]:
    """The pairs that every method has."""
    return sorted(set.intersection(*(set(rows) for rows in methods.values())))


def mean_ranks(values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Mean rank of each method at each budget (1 is best, ties share the mean of their ranks).

    ``values`` are regrets of shape (pairs, budgets), in the same order of pairs; each result has shape (budgets,).
    """
    ranks = rankdata(np.stack(list(values.values())), axis=0, nan_policy="propagate")
    return {name: rank.mean(axis=0) for name, rank in zip(values, ranks, strict=True)}


def interval(values: np.ndarray, groups: list[str], draws: int = DRAWS) -> Interval:
    """Mean of ``values``, shape (n,), and its percentile interval, resampling whole groups.

    Seeds of one instance are not independent evidence: they are averaged first and instances are resampled.
    """
    names = sorted(set(groups))
    means = np.array([np.mean([v for v, g in zip(values, groups, strict=True) if g == name]) for name in names])
    picks = np.random.default_rng(0).integers(len(means), size=(draws, len(means)))
    low, high = np.quantile(means[picks].mean(axis=1), [0.025, 0.975])
    return Interval(float(means.mean()), float(low), float(high))


def time_to(rows: Iterable[Row], regret: float) -> float:
    """The first simulated time at which the mean regret over ``rows`` is at most ``regret``; NaN if never."""
    runs = list(rows)
    times = np.unique([0.0, *(time for row in runs for _, time, _ in row.trace)])
    mean = np.mean([row.regret_by_time(times) for row in runs], axis=0)
    reached = np.flatnonzero(mean <= regret)
    return float(times[reached[0]]) if len(reached) else float("nan")


def speed_up(one: dict[Pairing, Row], many: dict[Pairing, Row], budget_ft: float) -> tuple[float, float]:
    """The mean regret that one worker has after ``budget_ft``, and how much sooner several workers have it.

    Over the pairs that both have; the ratio of simulated times is NaN if the several workers never get there.
    """
    pairs = common({"one": one, "many": many})
    regret = float(np.mean([one[pair].regret_at(budget_ft) for pair in pairs]))
    alone = time_to((one[pair] for pair in pairs), regret + 1e-12)
    return regret, alone / time_to((many[pair] for pair in pairs), regret + 1e-12)


def regret_table(methods: dict[str, dict[Pairing, Row]]) -> str:
    """Mean regret over each method's own runs, mean rank over the runs that all have, seconds a run."""
    pairs = common(methods)
    ranks = mean_ranks({name: regrets(rows, pairs) for name, rows in methods.items()}) if pairs else {}
    budgets = [f"{budget} FT" for budget in BUDGETS_FT]
    lines = [_header(["method", "runs", *budgets, *(f"rank {name}" for name in budgets), "own s a run"])]
    own = {name: regrets(rows, sorted(rows)).mean(axis=0) for name, rows in methods.items()}
    for name in sorted(own, key=lambda name: float(own[name][2])):
        rank = [f"{value:.1f}" for value in ranks[name]] if pairs else ["-"] * len(BUDGETS_FT)
        seconds = np.mean([row.seconds for row in methods[name].values()])
        shown = [f"{value:.3f}" for value in own[name]]
        lines.append(_line([name, str(len(methods[name])), *shown, *rank, f"{seconds:.1f}"]))
    return "\n".join(lines) + f"\n\nRanks over {len(pairs)} runs that all methods have."


def paired_table(methods: dict[str, dict[Pairing, Row]], product: str) -> str:
    """Product minus each peer: mean difference of regret with its interval, and the losses by name."""
    lines = [_header(["product − peer", "runs", *(f"{budget} FT" for budget in BUDGETS_FT)])]
    losses = []
    for name in sorted(set(methods) - {product}):
        pairs = common({product: methods[product], name: methods[name]})
        if not pairs:
            continue
        difference = regrets(methods[product], pairs) - regrets(methods[name], pairs)
        found = [interval(column, [instance for instance, _ in pairs]) for column in difference.T]
        lines.append(_line([name, str(len(pairs)), *(_difference(item) for item in found)]))
        losses += [
            f"{name} at {budget} FT ({item.mean:+.3f}{', beyond doubt' if item.low > 0 else ''})"
            for budget, item in zip(BUDGETS_FT, found, strict=True)
            if item.mean > 0
        ]
    return "\n".join(lines) + f"\n\n`{product}` loses to: " + ("; ".join(losses) or "none") + "."


def speed_table(one: dict[str, dict[Pairing, Row]], many: dict[str, dict[Pairing, Row]], workers: int) -> str:
    """Speed-up in simulated time at the regret that one worker has at each budget."""
    lines = [_header(["method", "runs", *(f"as {budget} FT of one" for budget in BUDGETS_FT)])]
    for name in sorted(set(one) & set(many)):
        pairs = common({"one": one[name], "many": many[name]})
        if pairs:
            found = [speed_up(one[name], many[name], budget) for budget in BUDGETS_FT]
            lines.append(_line([name, str(len(pairs)), *(_speed(*item) for item in found)]))
    spent = max(row.max_ft for rows in many.values() for row in rows.values())
    return "\n".join(lines) + (
        f"\n\nThe {workers} workers spend at most {spent:g} FT ({spent * EPOCHS_PER_FT / workers:g} units of time)."
    )


def _difference(item: Interval) -> str:
    mark = " **loss**" if item.low > 0 else ""
    return f"{item.mean:+.3f} [{item.low:+.3f}, {item.high:+.3f}]{mark}"


def _speed(regret: float, ratio: float) -> str:
    return "not reached" if np.isnan(ratio) else f"{ratio:.1f}× (to {regret:.3f})"


def _header(names: list[str]) -> str:
    return _line(names) + "\n" + _line(["---"] * len(names))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
