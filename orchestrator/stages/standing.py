"""How the finalists stand when their trainings have ended: who won, how surely, and how lucky the search was."""

import math
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from orchestrator.progress import duration, table
from orchestrator.stages.finalists import OWN, FinalistsStage, search_value
from orchestrator.stages.notes import finalist_rows, with_spread
from orchestrator.stages.race import Paired, paired
from orchestrator.stages.sweep import Sweep
from orchestrator.study.records import TrialRecord
from orchestrator.types import Direction, TrialState


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """One configuration."""

    trial: int
    """The trial of the search that it comes from."""
    search_value: float
    """The best that the search saw of it; of a stopped one, up to where it was stopped."""
    values: Sequence[float | None]
    """With each fresh seed; None where it was not trained to its end."""
    trials: Sequence[int | None]
    """The trainings with these seeds; None where there is none."""
    epochs: Sequence[int]
    """How long each of these trainings was; 0 where there is none."""
    mean: float | None
    """Over the fresh seeds."""
    spread: float | None
    """Their standard deviation; None with fewer than two."""
    as_long: float | None
    """Mean of the same trainings within as many epochs as the search had; None where the schedule was stretched, and
    where the search had stopped it."""
    own: float | None
    """With the seed that the search had used, trained on; None: it was not."""
    remark: str = ""
    """Why it was not given all seeds."""


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What the finalists came to. Keys shared with a search's verdict mean the same."""

    stage: str
    finalists: Sequence[Finalist]
    """The best by mean first, then those that were not given all seeds."""
    seeds: Sequence[int]
    """Fresh training seeds, the same for all."""
    winner: int | None
    """Trial of the search whose configuration won; None: no training was through."""
    mean: float | None
    spread: float | None
    runner_up: int | None
    paired: Paired | None
    """Winner against runner-up, on seeds that both have; None without a runner-up."""
    best_trial: int | None
    """The training of the winner's configuration with the fresh seed that is best on validation: what is retrained
    and shipped. The search's own seed is left out: it was chosen by validation among all of the search."""
    best_value: float | None
    previous_trial: int | None
    previous_value: float | None
    noise: float | None
    """Standard deviation between seeds, pooled over the finalists."""
    noise_measured: bool = True
    trials: int = 0
    epochs: int = 0
    pruned: int = 0
    promoted: int = 0
    infeasible: Mapping[str, int] = field(default_factory=dict)
    budget: int = 0
    """Epochs that each was trained at least."""
    seconds: float = 0.0
    remarks: Sequence[str] = ()
    """How sure the winner is, and how lucky the search was, in words."""
    usage: Mapping[str, float] = field(default_factory=dict)
    """What the workers' time went into, as shares."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    """For the tracker."""


def conclude(stage: FinalistsStage) -> Standing:
    """The standing when nothing more is to begin."""
    costs = {finalist.number: stage.costs(finalist) for finalist in stage.chosen if stage.failure(finalist) is None}
    through = max(map(len, costs.values()), default=0)

    def rank(finalist: TrialRecord) -> tuple[int, bool, float]:
        known = costs.get(finalist.number, [])
        return -len(known), finalist.number not in costs, statistics.mean(known) if known else 0.0

    order = sorted(stage.chosen, key=rank)
    rows = [_row(stage, finalist, through) for finalist in order]
    winner = order[0] if through else None
    second = next((f for f in order[1:] if costs.get(f.number)), None) if winner else None
    test = None
    if winner is not None and second is not None:
        other = costs[second.number]
        test = paired(costs[winner.number][: len(other)], other)
    best = stage.trainings(winner)[0] if winner is not None else stage.previous
    variances = [row.spread**2 for row in rows if row.spread is not None]
    own = stage.records
    mean, spread = (rows[0].mean, rows[0].spread) if winner is not None else (None, None)
    told = [] if winner is None else [_curse(rows[0], stage.sweep.direction)]
    if test is not None and second is not None:
        told.insert(0, _sure(second.number, test))
    figures = {"finalists/mean": mean, "finalists/spread": spread, "finalists/search": rows[0].search_value}
    return Standing(
        stage=stage.visit.key,
        finalists=rows,
        seeds=stage.seeds,
        winner=winner.number if winner is not None else None,
        mean=mean,
        spread=spread,
        runner_up=second.number if second is not None else None,
        paired=test,
        best_trial=best.number if best is not None else None,
        best_value=best.value if best is not None else None,
        previous_trial=stage.previous.number if stage.previous is not None else None,
        previous_value=stage.previous.value if stage.previous is not None else None,
        noise=math.sqrt(statistics.mean(variances)) if variances else None,
        trials=len(own),
        epochs=sum(record.epochs_paid for record in own),
        promoted=sum(record.parent is not None for record in own),
        infeasible=dict(Counter(str(r.reason) for r in own if r.state is TrialState.INFEASIBLE)),
        budget=stage.budget,
        seconds=time.monotonic() - stage.started,
        remarks=told,
        metrics={name: value for name, value in figures.items() if value is not None},
    )


def _row(stage: FinalistsStage, finalist: TrialRecord, through: int) -> Finalist:
    direction = stage.sweep.direction
    cells = [stage.cell(finalist, index) for index in range(len(stage.seeds))]
    done = [record for record in cells if record is not None and record.feasible]
    values = [record.value for record in done if record.value is not None]
    as_long = None
    if finalist.feasible and done and all(record.schedule_epochs == stage.search_epochs for record in done):
        as_long = statistics.mean(
            direction.best([value for at, value in record.curve.items() if at <= stage.search_epochs])
            for record in done
        )
    own = stage.cell(finalist, OWN)
    return Finalist(
        trial=finalist.number,
        search_value=search_value(stage.sweep, finalist),
        values=[record.value if record is not None and record.feasible else None for record in cells],
        trials=[record.number if record is not None else None for record in cells],
        epochs=[record.epochs_run if record is not None else 0 for record in cells],
        mean=statistics.mean(values) if values else None,
        spread=statistics.stdev(values) if len(values) > 1 else None,
        as_long=as_long,
        own=own.value if own is not None and own.feasible else None,
        remark=_remark(stage, finalist, through),
    )


def _remark(stage: FinalistsStage, finalist: TrialRecord, through: int) -> str:
    failed = stage.failure(finalist)
    if failed is not None:
        return f"trial {failed.number} failed: {failed.reason}"
    count = len(stage.costs(finalist))
    if count < through and finalist not in stage.racing(count):
        return f"dropped after {count} seeds"
    if count < len(stage.seeds):
        return "time was up"
    return "" if finalist.feasible else f"stopped in the search after epoch {finalist.epochs_run}"


def describe(sweep: Sweep, standing: Standing) -> str:
    """The standing in words and a table."""
    resumed = f", {standing.promoted} from checkpoints" if standing.promoted else ""
    lines = [
        f"[{standing.stage}] verdict after {standing.trials} trainings, {standing.epochs} epochs{resumed} in "
        f"{duration(standing.seconds)}:"
    ]
    if standing.winner is None:
        lines.append("  no training of a finalist was through: the search's best stays")
    else:
        lines.append(
            f"  winner: the configuration of trial {standing.winner} with {sweep.task.objective} "
            f"{with_spread(standing.mean, standing.spread)}; its best fresh seed, trial {standing.best_trial}, has "
            f"{standing.best_value:.4g}"
        )
    lines.append(table(finalist_rows(asdict(standing))))
    return "\n".join([*lines, *(f"  {line}" for line in standing.remarks)])


def _sure(second: int, test: Paired) -> str:
    """How sure the winner is."""
    told = (
        f"against trial {second}, the runner-up: {'better' if test.difference > 0 else 'worse'} by "
        f"{abs(test.difference):.2g}"
    )
    if test.error is None or test.p_value is None:
        return f"{told} with one seed: nothing to be sure by"
    surely = "hardly luck" if test.p_value < 0.05 else "this may be luck, and both equally good"
    return (
        f"{told} ± {test.error:.2g} (standard error), in {test.better} of {test.pairs} seeds; paired t-test "
        f"p = {test.p_value:.2g}: {surely}"
    )


def _curse(won: Finalist, direction: Direction) -> str:
    """How lucky the search was with its value of the winner."""
    assert won.mean is not None
    if won.as_long is None:
        return (
            f"winner's curse: the search had {won.search_value:.4g} with the seed it chose by, the finalists have "
            f"{won.mean:.4g} with fresh ones in more epochs"
        )
    lucky = direction.cost(won.as_long) - direction.cost(won.search_value)
    gained = direction.cost(won.as_long) - direction.cost(won.mean)
    told = f"lucky by {lucky:.2g}" if lucky > 0 else f"unlucky by {-lucky:.2g}"
    return (
        f"winner's curse: the search had {won.search_value:.4g}, fresh seeds have {won.as_long:.4g} in as many "
        f"epochs, so it was {told}; training longer brought {gained:.2g}"
    )
