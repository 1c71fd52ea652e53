"""What stops a trial early, as a pure function of the curves of its stage.

Optuna's own halving and hyperband pruners keep hidden state in each trial that a restart could not
rebuild, and compare trials of every stage with each other: once the bad ones of the first stage are in
the study, everything later passes. Ours see one stage's curves and nothing else. Values are compared
at equal epochs, best so far, and never before ``min_epochs``.

Asynchronous successive halving: Li et al. 2020 (arXiv 1810.05934); Hyperband's brackets: Li et al.
2018 (arXiv 1603.06560); the median rule: Golovin et al. 2017 (Vizier), section 3.2.1.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import optuna
from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from orchestrator.config.schema import PrunerConfig
from orchestrator.errors import ConfigError
from orchestrator.importing import build_target
from orchestrator.study.mates import Mates, cost_at
from orchestrator.study.records import TrialRecord
from orchestrator.types import Configuration, Direction, TrialState


class Pruner(Protocol):
    """Decides whether a trial that has just reported goes on."""

    @property
    def rungs(self) -> Sequence[int]:
        """Epochs at which a trial may be stopped, so that it is checkpointed there; may be empty."""
        ...

    def stops(self, record: TrialRecord, mates: Mates) -> bool:
        """Whether to stop ``record``, which has just reported, given trials of its stage; it may be one of them."""
        ...


@dataclass(frozen=True)
class NoPruner:
    """Every trial runs to its full budget."""

    rungs: Sequence[int] = ()

    def stops(self, record: TrialRecord, mates: Mates) -> bool:
        """See :class:`Pruner`."""
        return False


@dataclass(frozen=True)
class MedianPruner:
    """Stop below the median of the others' best values at the same epoch."""

    direction: Direction
    min_epochs: int
    startup_trials: int
    rungs: Sequence[int] = ()

    def stops(self, record: TrialRecord, mates: Mates) -> bool:
        """See :class:`Pruner`."""
        epoch = record.epochs_run
        if not self.min_epochs <= epoch < record.epochs or warming_up(record):
            return False
        others = mates.at(epoch).besides(record.number)
        own = cost_at(epoch, record, self.direction)
        return own is not None and len(others) >= self.startup_trials and own > statistics.median(others)


@dataclass(frozen=True)
class HalvingPruner:
    """At each rung only the best 1/factor of the stage's trials seen there so far go on."""

    direction: Direction
    rungs: Sequence[int]
    reduction_factor: int
    startup_trials: int
    patience: int = 0
    """At how many rungs in a row a trial may miss the cut before it is stopped there."""
    groups: int = 1
    group: int = 0
    """Of the stage's trials those count whose number leaves ``group`` when divided by ``groups``."""

    def stops(self, record: TrialRecord, mates: Mates) -> bool:
        """See :class:`Pruner`."""
        if record.epochs_run not in self.rungs or record.epochs_run >= record.epochs or warming_up(record):
            return False
        reached = [rung for rung in self.rungs if rung <= record.epochs_run][-1 - self.patience :]
        return len(reached) > self.patience and all(self._misses(rung, record, mates) for rung in reached)

    def _misses(self, epoch: int, record: TrialRecord, mates: Mates) -> bool:
        """Whether ``record`` was not among the best 1/factor at this rung."""
        costs, own = mates.at(epoch, self.groups, self.group), cost_at(epoch, record, self.direction)
        count = len(costs.of) + (record.number not in costs.of)
        if own is None or count < self.startup_trials:
            return False
        return costs.better(own) >= max(1, count // self.reduction_factor)


@dataclass(frozen=True)
class HyperbandPruner:
    """Halving in brackets that begin at ever higher rungs; a trial's bracket goes by its number."""

    brackets: Sequence[HalvingPruner]

    @property
    def rungs(self) -> Sequence[int]:
        """All rungs: those of the first bracket."""
        return self.brackets[0].rungs

    def stops(self, record: TrialRecord, mates: Mates) -> bool:
        """See :class:`Pruner`."""
        return self.brackets[record.number % len(self.brackets)].stops(record, mates)


class CustomPruner:
    """An Optuna pruner of the user's on an in-memory copy of the stage's curves.

    The copy is made anew at each report, so the pruner may keep no state in the trials.
    """

    rungs: Sequence[int] = ()

    def __init__(self, pruner: BasePruner, direction: Direction, min_epochs: int) -> None:
        self._pruner = pruner
        self._direction = direction
        self._min_epochs = min_epochs

    def stops(self, record: TrialRecord, mates: Mates) -> bool:
        """See :class:`Pruner`."""
        if not self._min_epochs <= record.epochs_run < record.epochs:
            return False
        study = optuna.create_study(study_name="stage", direction=self._direction.value)
        trials = {**mates.records, record.number: record}
        study.add_trials([_frozen(trials[number]) for number in sorted(trials)])
        index = sorted(trials).index(record.number)
        return self._pruner.prune(study, study.get_trials(deepcopy=False)[index])


def warming_up(record: TrialRecord) -> bool:
    """Whether the trial's learning rate was still rising in its last epoch: too early to compare it."""
    return record.epochs_run < record.epochs and warms_up(record.configuration, record.epochs_run, record.epochs)


def warms_up(configuration: Configuration, epoch: int, epochs: int) -> bool:
    """Whether a trial of ``epochs`` has its learning rate still rising in ``epoch``."""
    return epoch <= float(configuration.get("schedule.warmup", 0.0)) * epochs


def next_rung(rungs: Sequence[int], configuration: Configuration, epoch: int, epochs: int) -> int:
    """The first rung after ``epoch`` at which a trial may be stopped; ``epochs`` if there is none."""
    later = (rung for rung in rungs if epoch < rung < epochs and not warms_up(configuration, rung, epochs))
    return next(later, epochs)


PAUSE_ROOM = 1.8
"""The last rung of the staged sampler is at most ``epochs / PAUSE_ROOM``: 27 of 50 (search.md: 1, 3, 9, 25, 50)."""


def rungs_of(config: PrunerConfig, epochs: int, room: float | None = None) -> tuple[int, ...]:
    """The rungs below ``epochs``: those given, or ``min_epochs`` times powers of the factor.

    The last is at most ``epochs / room`` (default: the factor): stopping a trial shortly before its end saves
    nothing.
    """
    if config.name == "none":
        return ()
    if config.rungs is not None:
        return tuple(rung for rung in config.rungs if rung < epochs)
    rungs = []
    rung = config.min_epochs
    while rung * (room or config.reduction_factor) <= epochs:
        rungs.append(rung)
        rung *= config.reduction_factor
    return tuple(rungs)


def make_pruner(config: PrunerConfig, direction: Direction, epochs: int) -> Pruner:
    """The pruner named in ``config`` for trials of ``epochs``.

    Raises:
        ConfigError: a custom pruner cannot be built.
    """
    if config.name == "median":
        return MedianPruner(direction, config.min_epochs, config.startup_trials)
    rungs = rungs_of(config, epochs)
    if config.name == "none" or (config.name != "custom" and not rungs):
        return NoPruner()
    if config.name == "custom":
        return CustomPruner(_custom(config), direction, config.min_epochs)
    factor, startup, patience = config.reduction_factor, config.startup_trials, config.patience
    if config.name == "halving":
        return HalvingPruner(direction, rungs, factor, startup, patience)
    count = len(rungs)
    return HyperbandPruner(
        [HalvingPruner(direction, rungs[skip:], factor, startup, patience, count, skip) for skip in range(count)]
    )


def _custom(config: PrunerConfig) -> BasePruner:
    assert config.target is not None
    pruner = build_target(config.target, dict(config.args), "pruner._target_")
    if not isinstance(pruner, BasePruner):
        raise ConfigError(f"pruner._target_={config.target}: gives a {type(pruner).__name__}, not an Optuna pruner")
    return pruner


_STATES = {
    TrialState.RUNNING: OptunaState.RUNNING,
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.INFEASIBLE: OptunaState.FAIL,
}


def _frozen(record: TrialRecord) -> FrozenTrial:
    ended = record.state.finished
    return FrozenTrial(
        number=-1,
        trial_id=-1,
        state=_STATES[record.state],
        value=record.value if ended else None,
        datetime_start=datetime.now(),
        datetime_complete=datetime.now() if ended else None,
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values=dict(record.curve),
    )
