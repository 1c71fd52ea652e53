"""What proposes configurations: one :class:`StageSampler` per stage, behind it Optuna's samplers.

A sampler never touches the sweep's study. It sees a *view*: an in-memory study in the stage's own
coordinates (:mod:`orchestrator.study.region`) into which the trials of all stages that fall into the
stage's windows were copied. So it proposes within the window and learns from everything known there.

Randomness is derived anew for each proposal from (sweep seed, trial number): a restart proposes what
it would have proposed.
"""

import warnings
from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from orchestrator.config.schema import SamplerConfig
from orchestrator.errors import ConfigError
from orchestrator.importing import build_target
from orchestrator.seeds import derive_seed
from orchestrator.study.records import TrialRecord
from orchestrator.study.region import Point, Region
from orchestrator.study.study import CONSTRAINT
from orchestrator.types import Direction, TrialState


class StageSampler(Protocol):
    """Proposes points of one stage's region."""

    def propose(self, number: int, index: int) -> Point:
        """A point for trial ``number`` of the sweep, the stage's trial ``index`` (from 0)."""
        ...

    def observe(self, record: TrialRecord) -> None:
        """Take in a trial that has started or ended, of whatever stage."""
        ...


class RandomSampler:
    """Uniform in the stage's coordinates."""

    def __init__(self, region: Region, seed: int) -> None:
        self._distributions = region.distributions()
        self._seed = seed

    def propose(self, number: int, index: int) -> Point:
        """See :class:`StageSampler`."""
        generator = np.random.default_rng(derive_seed(self._seed, "random", number))
        return self._from_uniform(generator.random(len(self._distributions)))

    def observe(self, record: TrialRecord) -> None:
        """Nothing to learn."""

    def _from_uniform(self, uniform: Sequence[float] | np.ndarray) -> Point:
        point: Point = {}
        for (name, distribution), share in zip(self._distributions.items(), uniform, strict=True):
            if isinstance(distribution, CategoricalDistribution):
                choices = distribution.choices
                chosen = choices[min(int(share * len(choices)), len(choices) - 1)]
                assert chosen is not None
                point[name] = chosen
            else:
                point[name] = float(share)
        return point


class QuasiRandomSampler(RandomSampler):
    """A scrambled Sobol sequence over the stage's coordinates (SciPy's; Owen 1998)."""

    def __init__(self, region: Region, seed: int, stage: str) -> None:
        super().__init__(region, seed)
        self._scramble = derive_seed(seed, "qmc", stage)

    def propose(self, number: int, index: int) -> Point:
        """See :class:`StageSampler`. The sequence goes by the index within the stage."""
        # Here: the import takes half a second that the other samplers need not pay.
        from scipy.stats import qmc

        engine = qmc.Sobol(len(self._distributions), scramble=True, rng=self._scramble)
        if index:
            engine.fast_forward(index)  # SciPy's overflows at 0
        return self._from_uniform(engine.random(1)[0])


class ModelSampler:
    """An Optuna sampler on a view of everything known inside the stage's windows."""

    def __init__(self, config: SamplerConfig, region: Region, direction: Direction, seed: int) -> None:
        self._config = config
        self._region = region
        self._direction = direction
        self._seed = seed
        self._startup = RandomSampler(region, seed)
        self._own = _custom(config) if config.name == "custom" else None
        self._records: dict[int, TrialRecord] = {}
        self._view = self._new_view()

    def propose(self, number: int, index: int) -> Point:
        """See :class:`StageSampler`. Random for the stage's first ``startup_trials``."""
        known = any(record.state.finished for record in self._records.values())
        if index < self._config.startup_trials or not known:
            return self._startup.propose(number, index)
        if self._config.name == "gp":
            # Its values are clipped relative to all others, so they may all have changed.
            self._view = self._new_view()
        sampler = self._own or _optuna_sampler(self._config.name, derive_seed(self._seed, "model", number))
        return self._view.propose(sampler)

    def observe(self, record: TrialRecord) -> None:
        """See :class:`StageSampler`."""
        if self._region.point(record.configuration) is None:
            return
        before = self._constrained
        # What a trial continues is part of it.
        replaced = record.parent is not None and self._records.pop(record.parent, None) is not None
        self._records[record.number] = record
        if self._constrained != before or replaced:
            self._view = self._new_view()
        elif self._config.name != "gp":
            self._view.take(record, self._cost(record))

    @property
    def _constrained(self) -> bool:
        return any(record.state is TrialState.INFEASIBLE for record in self._records.values())

    def _new_view(self) -> "View":
        view = View(self._region, constrained=self._constrained, keeps_asked=self._own is not None)
        ceiling = self._ceiling() if self._config.name == "gp" else np.inf
        for number in sorted(self._records):
            record = self._records[number]
            view.take(record, min(self._cost(record), ceiling))
        return view

    def _cost(self, record: TrialRecord) -> float:
        """The value turned so that less is better; the worst known for an infeasible trial."""
        if record.state is TrialState.INFEASIBLE:
            return max(self._known_costs(), default=0.0)
        return self._direction.cost(record.value) if record.value is not None else 0.0

    def _known_costs(self) -> list[float]:
        values = (record.value for record in self._records.values())
        return [self._direction.cost(value) for value in values if value is not None]

    def _ceiling(self) -> float:
        """Costs above median + (median - best) say no more than "bad"; clipping them keeps the Gaussian
        process's scale on the good ones (search.md: winsorised target)."""
        costs = self._known_costs()
        return 2 * float(np.median(costs)) - min(costs) if costs else np.inf


class View:
    """An in-memory Optuna study of points; a sampler's whole world. It always minimises.

    Args:
        region: whose coordinates.
        constrained: whether each end says if it was feasible.
        keeps_asked: keep a trial as the sampler asked it, with what it noted there (CMA-ES needs that);
            otherwise as its configuration reads, whole numbers and clipping included, as after a restart.
    """

    def __init__(self, region: Region, *, constrained: bool, keeps_asked: bool = False) -> None:
        self._region = region
        self._distributions = region.distributions()
        self._constrained = constrained
        self._keeps_asked = keeps_asked
        self._study = optuna.create_study(direction="minimize")
        self._numbers: dict[int, int] = {}
        self._asked: int | None = None

    def propose(self, sampler: BaseSampler) -> Point:
        """Ask ``sampler`` for the next point. The caller must ``take`` the trial that comes of it."""
        self._study.sampler = sampler
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            # Optuna's Gaussian process divides 0 by 0 where a single point is any good, and copes.
            warnings.filterwarnings("ignore", category=RuntimeWarning, module=r"optuna\._gp")
            trial = self._study.ask(fixed_distributions=self._distributions)
        if self._keeps_asked:
            self._asked = trial.number
        else:
            self._study.tell(trial, state=OptunaState.FAIL)
        return dict(trial.params)

    def take(self, record: TrialRecord, cost: float) -> None:
        """Copy a trial that has started, or tell the end of one copied before."""
        if record.number not in self._numbers:
            self._add(record, cost)
        elif record.state.finished:
            self._end(self._numbers[record.number], record, cost)

    def _add(self, record: TrialRecord, cost: float) -> None:
        if self._asked is not None and not record.state.finished:
            self._numbers[record.number] = self._asked
            self._asked = None
            return
        self._numbers[record.number] = len(self._study.get_trials(deepcopy=False))
        self._study.add_trial(self._frozen(record, cost))

    def _frozen(self, record: TrialRecord, cost: float) -> FrozenTrial:
        point = self._region.point(record.configuration)
        assert point is not None
        finished = record.state.finished
        return FrozenTrial(
            number=-1,
            trial_id=-1,
            state=OptunaState.COMPLETE if finished else OptunaState.RUNNING,
            value=cost if finished else None,
            datetime_start=datetime.now(),
            datetime_complete=datetime.now() if finished else None,
            params=dict(point),
            distributions=self._distributions,
            user_attrs={},
            system_attrs=self._constraint(record) if finished else {},
            intermediate_values={},
        )

    def _end(self, number: int, record: TrialRecord, cost: float) -> None:
        stored = self._study.get_trials(deepcopy=False)[number]
        if stored.state.is_finished():
            return
        trial = optuna.Trial(self._study, stored._trial_id)
        if self._constrained:
            trial.set_constraint(CONSTRAINT, self._excess(record))
        self._study.tell(trial, cost)

    def _constraint(self, record: TrialRecord) -> dict[str, float]:
        return {f"constraints:{CONSTRAINT}": self._excess(record)} if self._constrained else {}

    @staticmethod
    def _excess(record: TrialRecord) -> float:
        return 1.0 if record.state is TrialState.INFEASIBLE else -1.0


def make_sampler(config: SamplerConfig, region: Region, direction: Direction, seed: int, stage: str) -> StageSampler:
    """The sampler named in ``config`` for one stage.

    Args:
        config: name and settings.
        region: what may be proposed.
        direction: of the objective.
        seed: of the sweep.
        stage: name of the stage.

    Raises:
        ConfigError: a custom sampler cannot be built.
    """
    if config.name == "random":
        return RandomSampler(region, seed)
    if config.name == "qmc":
        return QuasiRandomSampler(region, seed, stage)
    return ModelSampler(config, region, direction, seed)


def check_sampler(config: SamplerConfig) -> None:
    """Refuse a custom sampler that cannot be built.

    Raises:
        ConfigError: it cannot be imported, does not take its arguments, or is no Optuna sampler.
    """
    if config.name == "custom":
        _custom(config)


def _optuna_sampler(name: str, seed: int) -> BaseSampler:
    if name == "tpe":
        return optuna.samplers.TPESampler(n_startup_trials=1, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.GPSampler(n_startup_trials=1, seed=seed)


def _custom(config: SamplerConfig) -> BaseSampler:
    assert config.target is not None
    sampler = build_target(config.target, dict(config.args), "sampler._target_")
    if not isinstance(sampler, BaseSampler):
        raise ConfigError(
            f"sampler._target_={config.target}: gives a {type(sampler).__name__}, not an Optuna sampler"
        )
    return sampler
