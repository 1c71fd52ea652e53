"""In which order, how often and how long the search stages are visited.

One stage by itself is one visit with the stage's whole budget. ``stage=all`` with the staged sampler walks
the stages in passes of growing length: a good configuration is there early, and whatever is spent later
improves it; knowing the total in advance bought nothing in our prototypes (search.md, "what carried the
gain", 5).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from orchestrator.config.schema import RunConfig, StageConfig
from orchestrator.study.space import SearchSpace

ALL = "all"
"""In ``varies``: every hyperparameter of the search space."""


def varied(space: SearchSpace, stage: StageConfig) -> list[str]:
    """The hyperparameters that a stage searches over their whole range on this task."""
    if ALL in stage.varies:
        return list(space.hyperparameters)
    return [name for name in stage.varies if name in space]


@dataclass(frozen=True)
class Visit:
    """One stage's turn."""

    stage: str
    """Name of the stage in the configuration."""
    round: int = 1
    """Which pass it belongs to, from 1."""
    epochs: int | None = None
    """Epochs it may cost; None: as many as its ``n_trials`` take."""
    n_trials: int | None = None
    """Most trials; None: the epochs decide."""
    up_to: int | None = None
    """Instead of ``epochs``: it ends when the sweep has cost so many."""
    ceiling: int | None = None
    """In passes: epochs that the search may cost in all, without its repeats."""
    share: float | None = None
    """In the last pass: which part of what the ceiling leaves, when the visit begins, it may cost in place of
    ``epochs``. Openings and trials that were worth going on with have then cost more than their visits' own epochs,
    and what is left is for all stages."""
    alone: bool = True
    """Not part of passes: never more than its epochs, and its best trial is finished."""
    repeats: int = 0
    """More seeds of the best configuration at its end."""

    @property
    def key(self) -> str:
        """What the visit's trials, MLflow run and ledger entry are called."""
        return self.stage if self.round == 1 else f"{self.stage}@{self.round}"


def stage_of(key: str) -> str:
    """Name of the stage that a visit's key belongs to."""
    return key.partition("@")[0]


def make_visits(config: RunConfig, names: Sequence[str]) -> list[Visit]:
    """The visits of a command.

    Args:
        config: settings.
        names: its search stages that have something to vary, in order.
    """
    limited = config.n_trials is not None or any(config.stages[name].n_trials for name in names)
    staged = config.sampler.name == "staged"
    if config.stage.name != "all" or not staged or limited or not config.recipe.first_pass:
        # A stage without a budget only opens the passes, unless it is what was asked for.
        asked = [name for name in names if budget(config, config.stages[name]) or config.stage.name == name]
        return [_alone(config, name) for name in asked]
    return _passes(config, names)


def budget(config: RunConfig, stage: StageConfig) -> float:
    """Full trainings that a stage may cost."""
    return config.recipe.budget[stage.impact] if stage.budget is None else stage.budget


def _alone(config: RunConfig, name: str) -> Visit:
    settings = config.stages[name]
    n_trials = config.n_trials or settings.n_trials
    if n_trials is not None:
        return Visit(name, n_trials=n_trials)
    full = budget(config, settings)
    # Repeats take at most half of it.
    repeats = min(config.recipe.repeats, int(full / 2)) if config.sampler.name == "staged" else 0
    return Visit(name, epochs=round(full * config.trainer.epochs), repeats=repeats)


def _passes(config: RunConfig, names: Sequence[str]) -> list[Visit]:
    epochs = config.trainer.epochs
    shares = {name: budget(config, config.stages[name]) for name in names}
    total = sum(shares.values())
    repeats = min(config.recipe.repeats, int(total / 2))
    # The repeats' share is none of the passes': their trials may go on for as long as they are worth it.
    ceiling = round((total - repeats) * epochs)
    visits = []
    lengths = pass_lengths(_length(config, names, total - repeats), config.recipe.first_pass, config.recipe.growth)
    for number, length in enumerate(lengths, start=1):
        for name in names:
            cost = length * shares[name] / total * epochs
            opening = number == 1 and bool(config.stages[name].opening)
            # A stage whose trials run to their end waits for a pass that affords most of one; the last is for all.
            now = config.stages[name].prunes or number == len(lengths)
            worth = round(cost) >= (1 if now else epochs / 2)
            if opening or (shares[name] and worth):
                visits.append(Visit(name, number, round(cost), ceiling=ceiling, alone=False))
    if visits:
        ending = [at for at, visit in enumerate(visits) if visit.round == visits[-1].round]
        for at in ending:
            rest = sum(visits[later].epochs or 0 for later in ending if later >= at)
            visits[at] = replace(visits[at], share=(visits[at].epochs or 0) / max(rest, 1))
        last = visits[-1]
        visits[-1] = Visit(last.stage, last.round, up_to=round(total * epochs), alone=False, repeats=repeats)
    return visits


def _length(config: RunConfig, names: Sequence[str], total: float) -> float:
    """Full trainings of all passes together: not what they open with, and not the sweep's first finished trial, which
    are charged to no visit."""
    opening = 1 + sum(config.stages[name].points for name in names if config.stages[name].opening)
    beside = 1 + opening * config.pruner.min_epochs / config.trainer.epochs
    return max(total - beside, min(total, config.recipe.first_pass))


def pass_lengths(total: float, first: float, growth: float) -> list[float]:
    """Lengths that grow from ``first`` and sum to ``total``; the last takes what is too short for one more."""
    lengths: list[float] = []
    left, length = total, first
    while left > 0:
        taken = left if left < length * (1 + growth) else length
        lengths.append(taken)
        left -= taken
        length *= growth
    return lengths
