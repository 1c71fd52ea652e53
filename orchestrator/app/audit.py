"""``stage=audit``: did staging pay? The budget of a finished sweep once more, as joint and as random search.

Simulated on what the sweep's own surrogate expects of each configuration, or trained for real. All ways of
searching begin with the same configurations and may cost as many epochs as the sweep did.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from orchestrator.app.simulate import simulate
from orchestrator.config.schema import PrunerConfig, RecipeConfig, RunConfig, SamplerConfig, StageChoice, StageConfig
from orchestrator.errors import ConfigError, InfeasibleTrialError
from orchestrator.files import write_json
from orchestrator.progress import Progress, log_to, table
from orchestrator.seeds import derive_seed
from orchestrator.stages.sweep import Plan, Sweep, make_plan, open_sweep
from orchestrator.stages.visits import ALL, budget, stage_of
from orchestrator.study.encoding import Encoding
from orchestrator.study.feasibility import Feasibility
from orchestrator.study.knowledge import Belief, Knowledge
from orchestrator.study.pruners import rungs_of
from orchestrator.study.records import TrialRecord, searched
from orchestrator.types import Configuration, Direction, Reason, TrialState

FILE = "audit.json"
SHARES = (0.25, 0.5, 1.0)
"""Of the budget: when the ways of searching are compared."""
_AGREE = 0.8
"""One way is better than another if it is so in this share of the seeds: our guess."""
_LIKELY = 0.5
"""Simulation: a configuration is infeasible where the probability of success is below this."""
_BIASED = (
    "  simulated on the surrogate of this very sweep: it knows best where the sweep looked, so it can show how the\n"
    "  ways of searching fare on what the sweep believes, not what a search elsewhere would have found; it favours\n"
    "  the sweep's own way, and leaves out what the surrogate cannot express. audit.live=true trains for real"
)
_ONE_RUN = "  trained for real, one run each: a difference within seed noise is luck"


@dataclass(frozen=True)
class AuditResult:
    """What came of an audit."""

    live: bool
    epochs: int
    """What the sweep's search cost, and what each way may cost."""
    seeds: int
    objective: str
    values: Mapping[str, Sequence[Sequence[float | None]]]
    """Way of searching to, for each seed, the objective of its best configuration at each of ``shares`` of the
    budget; None before its first value. Simulated: as the surrogate expects it, without seed noise."""
    verdict: str
    shares: Sequence[float] = SHARES


class SurrogateCurves:
    """Learning curves as a finished sweep's surrogate expects them, with its seed noise.

    Args:
        plan: the sweep's settings, task and search space.
        records: all its trials.
    """

    def __init__(self, plan: Plan, records: Sequence[TrialRecord]) -> None:
        config = plan.config
        self._epochs = config.trainer.epochs
        self._direction = plan.task.direction
        self._encoding = Encoding(plan.space)
        rungs = rungs_of(config.pruner, self._epochs)
        known = Knowledge(self._encoding, self._direction, self._epochs, rungs)
        for record in records:
            known.observe(record)
        belief = known.believe()
        assert belief is not None
        self._belief: Belief = belief
        self._feasible: Feasibility | None = None
        if known.by_state[TrialState.INFEASIBLE]:
            tried = known.newest(len(known.trainings))[-1000:]
            places = np.array([training.place for training in tried])
            self._feasible = Feasibility(self._encoding, places, [training.last for training in tried])

    def __call__(self, configuration: Configuration, seed: int) -> list[float]:
        """The objective after each epoch of a training with ``seed``.

        Raises:
            InfeasibleTrialError: such configurations failed in the sweep.
        """
        place = self._encoding.place(configuration)[None, :]
        if self._feasible is not None and self._feasible.probability(place)[0] < _LIKELY:
            raise InfeasibleTrialError(Reason.DIVERGED, "like those that failed in the sweep")
        offset = np.random.default_rng(seed).normal() * self._belief.surrogate.seed_noise
        return self._curve(self._encoding.inputs(place), float(offset))

    def value(self, configuration: Configuration) -> float:
        """The objective at the end of the budget, without seed noise."""
        return self._curve(self._encoding.inputs(self._encoding.place(configuration)[None, :]), 0.0)[-1]

    def _curve(self, inputs: np.ndarray, offset: float) -> list[float]:
        epochs = np.arange(1, self._epochs + 1)
        times = np.log(epochs) / np.log(max(self._epochs, 2))
        mean, _ = self._belief.surrogate.predict(
            np.repeat(inputs, self._epochs, axis=0), times, np.full(self._epochs, -1)
        )
        # Direction.cost turns a cost back into the objective, too.
        return [self._direction.cost(self._belief.scale.cost(float(at))) for at in mean + offset]


def audit(plan: Plan, run: Callable[[Plan, list[str]], None]) -> None:
    """Audit the plan's sweep; prints, and stores the result in its folder and ledger.

    Args:
        plan: of the sweep.
        run: runs stages of a plan for real.

    Raises:
        ConfigError: the sweep has not finished a search.
    """
    if not plan.exists:
        raise ConfigError(f"stage=audit: sweep {plan.name} has not begun; run stage=all first")
    progress = Progress()
    with open_sweep(plan, progress) as sweep, log_to(sweep.folder / "orchestrator.log"):
        epochs, stages = _finished_search(sweep)
        ways = {"recipe": recipe(plan.config, stages, epochs), **rivals(plan.config, epochs)}
        if plan.config.dry_run:
            cost = f"train {2 * epochs} epochs" if plan.config.audit.live else "simulate, and train nothing"
            progress.say(f"audit of sweep {plan.name}: would {cost}; {epochs} epochs for each way of searching")
            return
        live = plan.config.audit.live
        values = _live(sweep, ways, epochs, run) if live else _simulated(sweep, ways, epochs)
        seeds = len(values["recipe"])
        verdict = _verdict(values, sweep.direction)
        result = AuditResult(live, epochs, seeds, sweep.task.objective, values, verdict)
        text = describe(result)
        write_json(sweep.folder / FILE, asdict(result))
        sweep.ledger.finish("audit", result, text)
        progress.say(text)


def _finished_search(sweep: Sweep) -> tuple[int, list[str]]:
    """What the sweep's search cost, and its stages in order."""
    records = searched(sweep.study.records)
    entries = sweep.ledger.finished.items()
    finished = [key for key, result in entries if result.get("trials") and "finalists" not in result]
    open_ = sorted({record.stage for record in records} - set(finished))
    if not finished or open_ or sweep.best is None:
        why = f"stage {open_[0]} has not ended" if open_ else "no search stage has finished"
        raise ConfigError(f"stage=audit: sweep {sweep.name} has no finished search ({why}); finish it first")
    stages = [name for name in dict.fromkeys(map(stage_of, finished)) if name in sweep.config.stages]
    return sum(record.epochs_paid for record in records), stages


def recipe(config: RunConfig, names: Sequence[str], epochs: int) -> RunConfig:
    """The sweep's own stages, their budgets stretched to ``epochs``."""
    shares = {name: budget(config, config.stages[name]) for name in names}
    total = sum(shares.values())
    full = epochs / config.trainer.epochs
    # A sweep of openings only: each gets as much.
    parts = {name: full * (share / total if total else 1 / len(shares)) for name, share in shares.items()}
    return _searching(config, {name: replace(config.stages[name], budget=part) for name, part in parts.items()})


def rivals(config: RunConfig, epochs: int) -> Mapping[str, RunConfig]:
    """Joint search with the staged sampler's surrogate, and random search with halving, of ``epochs``."""
    full = epochs / config.trainer.epochs
    everything = StageConfig(kind="search", asks="what do they give together?", varies=(ALL,), budget=full)
    openings = {name: replace(config.stages[name], budget=0.0) for name in ("start", "lr") if name in config.stages}
    halving = config.pruner if config.pruner.name == "halving" else PrunerConfig()
    staged = config.sampler if config.sampler.name == "staged" else SamplerConfig(start=config.sampler.start)
    joint = replace(config, sampler=staged, pruner=halving)
    random = replace(config, sampler=SamplerConfig(name="random", start=config.sampler.start), pruner=halving)
    return {
        "joint": _searching(joint, {**openings, "joint": everything}),
        "random": _searching(random, {"joint": everything}),
    }


def _searching(config: RunConfig, stages: Mapping[str, StageConfig]) -> RunConfig:
    """A command that runs all of ``stages``, without limits of trials or time, and without repeats."""
    free = {name: replace(stage, n_trials=None, timeout_s=None) for name, stage in stages.items()}
    order: RecipeConfig = replace(config.recipe, order=tuple(free), repeats=0)
    return replace(
        config, stage=StageChoice(name="all"), recipe=order, stages={**config.stages, **free}, n_trials=None,
        timeout_s=None, deterministic=False,
    )  # fmt: skip


def _simulated(sweep: Sweep, ways: Mapping[str, RunConfig], epochs: int) -> dict[str, list[list[float | None]]]:
    curves = SurrogateCurves(_plan_of(sweep), sweep.study.records)
    values: dict[str, list[list[float | None]]] = {way: [] for way in ways}
    seeds = sweep.config.audit.seeds
    for index in range(seeds):
        for way, config in ways.items():
            sweep.progress.update(f"[audit] {way}, seed {index + 1} of {seeds}")
            trials = simulate(replace(config, seed=derive_seed(sweep.config.seed, "audit", index)), curves).trials
            values[way].append(_anytime(trials, epochs, sweep.direction, lambda r: curves.value(r.configuration)))
    return values


def _plan_of(sweep: Sweep) -> Plan:
    return Plan(sweep.config, sweep.task, sweep.base, sweep.space, sweep.starts)


def _live(
    sweep: Sweep, ways: Mapping[str, RunConfig], epochs: int, run: Callable[[Plan, list[str]], None]
) -> dict[str, list[list[float | None]]]:
    def own(record: TrialRecord) -> float:
        assert record.value is not None
        return record.value

    values = {"recipe": [_anytime(searched(sweep.study.records), epochs, sweep.direction, own)]}
    for way in ("joint", "random"):
        config = ways[way]
        plan = make_plan(replace(config, sweep=replace(config.sweep, name=f"{sweep.name}.audit-{way}")))
        run(plan, list(config.recipe.order))
        with open_sweep(plan, sweep.progress) as other:
            values[way] = [_anytime(other.study.records, epochs, sweep.direction, own)]
    return values


def _anytime(
    trials: Iterable[TrialRecord], epochs: int, direction: Direction, judged: Callable[[TrialRecord], float]
) -> list[float | None]:
    """What the best trial within each of ``SHARES`` of ``epochs`` is worth; trials in the order of their numbers.

    The best is a finished one; where there is none yet, the best of those that were stopped. A trial counts if
    it ended within the budget; one that measures seed noise never does.
    """
    found: list[float | None] = [None] * len(SHARES)
    best: TrialRecord | None = None
    spent = 0
    for trial in trials:
        spent += trial.epochs_paid
        if (
            trial.value is not None
            and trial.repeats is None
            and (best is None or _rank(trial, direction) < _rank(best, direction))
        ):
            best = trial
        if best is None:
            continue
        for index, share in enumerate(SHARES):
            if spent <= share * epochs:
                found[index] = judged(best)
    return found


def _rank(trial: TrialRecord, direction: Direction) -> tuple[bool, float]:
    assert trial.value is not None
    return trial.state is not TrialState.COMPLETE, direction.cost(trial.value)


def _verdict(values: Mapping[str, Sequence[Sequence[float | None]]], direction: Direction) -> str:
    """One plain sentence."""
    parts = []
    for rival in ("joint", "random"):
        pairs = [(a[-1], b[-1]) for a, b in zip(values["recipe"], values[rival], strict=True)]
        costs = [(direction.cost(a), direction.cost(b)) for a, b in pairs if a is not None and b is not None]
        better, worse = sum(a < b for a, b in costs), sum(a > b for a, b in costs)
        count = len(pairs)
        if better >= _AGREE * count:
            parts.append(f"paid against {rival} search (better in {better} of {count})")
        elif worse >= _AGREE * count:
            parts.append(f"did not pay against {rival} search (worse in {worse} of {count})")
        else:
            parts.append(
                f"made no clear difference against {rival} search (better in {better}, worse in {worse} of {count})"
            )
    return f"staging {parts[0]} and {parts[1]}"


def describe(result: AuditResult) -> str:
    """The result as a table and a sentence."""
    rows = [["way", *(f"at {share:.0%} of the budget" for share in result.shares)]]
    for way, runs in result.values.items():
        columns = [[run[index] for run in runs if run[index] is not None] for index in range(len(result.shares))]
        rows.append([way, *(_spread([value for value in column if value is not None]) for column in columns)])
    how = "one real run" if result.live else f"{result.seeds} simulated runs"
    return "\n".join(
        [
            f"[audit] {result.objective} of the best configuration, {how} of {result.epochs} epochs for each way "
            f"(median, least to greatest):",
            table(rows),
            f"  {result.verdict}",
            _ONE_RUN if result.live else _BIASED,
        ]
    )


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "nothing yet"
    middle = f"{statistics.median(values):.4g}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.4g} to {max(values):.4g})"
