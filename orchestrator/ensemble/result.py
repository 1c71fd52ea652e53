"""What the ensemble stage found, as the ledger keeps it, and in words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.ensemble.record import Kind
from orchestrator.progress import table

SINGLE: Literal["single"] = "single"
UNIFORM: Literal["uniform"] = "uniform"
ENSEMBLE = "ensemble"
"""Whose scores: the best single trial's; the mean of the best few trials'; the chosen ensemble's."""


@dataclass(frozen=True)
class Gain:
    """By how much the objective is better (above 0) than the best single trial's."""

    value: float
    error: float
    """Standard error, paired over examples."""


@dataclass(frozen=True)
class WayFound:
    """A way of choosing, judged on examples that did not choose."""

    value: float
    """The objective, cross-fitted."""
    gain: Gain
    members: int


@dataclass(frozen=True)
class Calibration:
    """How sure predictions are against how often they are right, on validation, cross-fitted."""

    bins: Mapping[str, Sequence[tuple[int, float, float]]]
    """``single`` and ``ensemble`` (its temperature, if it has one, applied) to examples, confidence, share right."""
    ece: Mapping[str, float]
    """Expected calibration error of ``single``, ``ensemble`` without temperature, and ``scaled``: with it."""
    temperature: float
    """Fitted on all of validation."""
    gain: Gain
    """Of log-loss, by the temperature."""
    used: bool


@dataclass(frozen=True)
class Step:
    """Greedy selection with at most so many members."""

    members: int
    value: float
    """The objective on validation, cross-fitted."""
    error: float
    """Standard error of the difference to the best count, paired over examples."""
    test: float
    """The objective on test, members and shares chosen on all of validation."""


@dataclass(frozen=True)
class EnsembleResult:
    """Single best, uniform average and ensemble side by side."""

    kind: Kind
    weights: Mapping[str, float]
    """Member to its share of the average, the greatest first."""
    members: Sequence[Mapping[str, Any]]
    """Their costs and origins: see :class:`~orchestrator.ensemble.record.Member`."""
    candidates: int
    """Networks considered, averages of weights among them."""
    ran: int
    """Networks whose predictions were not known before."""
    averages: Sequence[str]
    """Candidates whose weights are averages: SWA, soups."""
    objective: str
    """How it was computed: log-loss, squared error, error rate, or by calling the task's score."""
    single: int
    """The best single trial."""
    uniform: Sequence[str]
    """The members of the uniform average."""
    validation: Mapping[str, Mapping[str, float]]
    """``single``, ``uniform`` and ``ensemble`` to scores on validation, cross-fitted: each fold is predicted by what
    the other folds chose."""
    test: Mapping[str, Mapping[str, float]]
    """The same on the test split, chosen on all of validation."""
    gains: Mapping[str, Gain]
    """``validation`` and ``test`` to the ensemble's gain over the best single trial."""
    ways: Mapping[Kind, WayFound]
    growth: Sequence[Step]
    knee: int
    """The smallest number of members within one standard error of the best, cross-fitted."""
    calibration: Calibration | None
    """None where predictions are no probabilities."""


def describe(result: EnsembleResult, directions: Sequence[str]) -> str:
    """The comparison as a table, and what to know about it. ``directions``: names of the scores."""
    names = {
        SINGLE: f"best single (trial {result.single})",
        UNIFORM: f"mean of the best {len(result.uniform)}",
        ENSEMBLE: f"ensemble of {len(result.weights)} ({result.kind})",
    }
    rows = [["", *(f"{split} {name}" for split in ("validation", "test") for name in directions)]]
    for who, label in names.items():
        scores = [result.validation[who], result.test[who]]
        rows.append([label, *(f"{split[name]:.4g}" for split in scores for name in directions)])
    shares = ", ".join(f"{name}: {share:.0%}" for name, share in result.weights.items())
    gains = "; ".join(f"{gain.value:+.2g} ± {gain.error:.2g} on {split}" for split, gain in result.gains.items())
    lines = [
        table(rows),
        f"  members: {shares}",
        f"  chosen from {result.candidates} networks, {len(result.averages)} of them averages of weights",
        f"  gain over the best single: {gains} (standard error over examples)",
        f"  {knee_line(result)}",
        f"  {cost_line(result)}",
        *([f"  {calibration_line(result.calibration)}"] if result.calibration else []),
        "  (validation: each fold by members that the other folds chose; test: read now)",
    ]
    return "\n".join(lines)


def knee_line(result: EnsembleResult) -> str:
    """How many members are worth their cost."""
    tried = len(result.growth)
    return (
        f"the knee is at {result.knee} member{'s' if result.knee > 1 else ''}: more (up to {tried}) gain less than "
        + ("a standard error")
    )


def cost_line(result: EnsembleResult) -> str:
    """What predicting costs."""
    sums = {key: sum(one[key] for one in result.members) for key in ("parameters", "megabytes", "ms_per_example")}
    return (
        f"cost of a prediction: {sums['parameters']} parameters, {sums['megabytes']:.3g} MB, "
        f"{sums['ms_per_example']:.2g} ms an example here"
    )


def calibration_line(found: Calibration) -> str:
    """What the temperature does."""
    used = "used" if found.used else "not used"
    return (
        f"calibration error {found.ece['ensemble']:.2%} (best single {found.ece['single']:.2%}); with temperature "
        f"{found.temperature:.3g} ({used}) {found.ece['scaled']:.2%}, log-loss lower by "
        f"{found.gain.value:.2g} ± {found.gain.error:.2g}"
    )
