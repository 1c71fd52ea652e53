"""The staged search as an Optuna sampler and an Optuna pruner, for studies and training loops of your own."""

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler, RandomSampler
from optuna.trial import FrozenTrial

from orchestrator.config.schema import PrunerConfig
from orchestrator.seeds import derive_seed
from orchestrator.study.plain.search import PlainSearch, Settings, check_settings
from orchestrator.study.plain.space import Distributions, PlainSpace, check_names
from orchestrator.study.plain.trials import CONTINUE_FROM, PLAN, STAGE, Plan, first_step_of, own_epochs
from orchestrator.study.pruners import PAUSE_ROOM, rungs_of


class StagedSampler(BaseSampler):
    """Proposes new configurations, and to train stopped ones further.

    ::

        sampler = StagedSampler(epochs=50, start={"lr": 0.01})
        study = optuna.create_study(sampler=sampler, pruner=sampler.pruner)

    The objective reports after each epoch and asks ``trial.should_prune()`` after each report. Every trial is
    stopped early, most of them after one epoch, and the good ones are taken up again by *new* trials with the
    same parameters: such a trial has ``trial.user_attrs["continue_from"]``, the number of the trial whose
    checkpoint it should load, and reports only the epochs after it (epoch 4 first, if that one was stopped
    after epoch 3). An objective that ignores this and trains from the beginning works too, and is charged for
    all its epochs.

    Steps are epochs. They may count from 0 (``trial.report(loss, epoch)`` in ``for epoch in range(epochs)``)
    or from 1 (epochs done): a training that reports a step 0 counts from 0, any other from 1.

    A trial that fails, reports or returns what is not finite, violates a constraint, or is pruned before its
    first report counts as infeasible. Trials that other samplers made, and enqueued ones, are learnt from.
    All that is decided follows from what is in the study's storage: a restart goes on, several processes may
    share it, and trials that run count as pending. (A killed process leaves its trials running for ever:
    Optuna's storages with a heartbeat mark them failed.) ``trial.user_attrs["stage"]`` tells whose turn a
    trial was.

    Args:
        epochs: budget of a trial.
        stages: names of the parameters that are varied together, in order; default: the learning rate (known
            by its name), then each of the others. A joint stage over all follows by itself.
        start: a configuration you believe in, maybe of some parameters only. It is tried first, and is where
            values come from that no stage varies.
        space: name to distribution, where known beforehand; default: what all ended trials have in common, so
            that the first trial is ``start``, or random. Parameters outside it are drawn at random; best leave out
            those that only some trials ask for, because in it they are taken to matter always.
        rungs: epochs at which a trial may be stopped; default: powers of 3 up to 5/9 of ``epochs``.
        seed: same seed, same trials, with one worker.
        first_step: say that steps count from 0 or from 1, if the rule above does not hold.

    Raises:
        ConfigError: an argument is wrong. Names in ``stages`` and ``start`` that the study does not have are
            found out when its first trial has ended.
    """

    def __init__(
        self,
        epochs: int = 50,
        stages: Sequence[Sequence[str]] | None = None,
        start: Mapping[str, Any] | None = None,
        *,
        space: Distributions | None = None,
        rungs: Sequence[int] | None = None,
        seed: int = 0,
        first_step: int | None = None,
    ) -> None:
        self._settings = Settings(epochs, _rungs(rungs, epochs), stages, start, space, seed, first_step)
        check_settings(self._settings)
        if space is not None:
            check_names("start", start or {}, space)
            check_names("stages", [name for stage in stages or () for name in stage], space)
            PlainSpace(space, start or {})
        self._lock = threading.RLock()
        self._search: PlainSearch | None = None

    @property
    def pruner(self) -> "PromotionPruner":
        """What belongs in ``create_study(pruner=...)``."""
        return PromotionPruner(self)

    def epochs_paid(self, study: Study) -> dict[int, int]:
        """What the search cost so far: trial number to the epochs that the trial trained itself."""
        with self._lock:
            search = self._searching(study)
            search.trials.sync()
            return dict(search.trials.paid)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Decide what the trial does, and note it in the study before the objective begins."""
        self._raise_error_if_multi_objective(study)
        with self._lock:
            search = self._searching(study)
            plan = search.plan(trial)
            attributes: dict[str, Any] = {STAGE: search.label(plan.visit)}
            if plan.parent is not None:
                attributes[CONTINUE_FROM] = search.trials.stopped_at[plan.parent]
            study._storage.set_trial_system_attr(trial._trial_id, PLAN, plan.stored())
            for key, value in attributes.items():
                study._storage.set_trial_user_attr(trial._trial_id, key, value)
        # The objective sees this copy of the trial.
        trial.system_attrs[PLAN] = plan.stored()
        trial.user_attrs.update(attributes)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See Optuna."""
        plan = Plan.of(trial)
        if plan is None or plan.values is None:
            return {}
        with self._lock:
            known = self._searching(study).trials.space.distributions
        return {name: item for name, item in known.items() if name in plan.values}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See Optuna."""
        plan = Plan.of(trial)
        if plan is None or plan.values is None:
            return {}
        return PlainSpace(search_space, {}).params(plan.values)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """See Optuna: a parameter outside the search space. As in the trial that this one continues, or as in
        ``start`` if this is the first; else at random."""
        plan = Plan.of(trial)
        if plan is not None and plan.parent is not None:
            known = study.get_trials(deepcopy=False)[plan.parent].params
            if param_name in known:
                return known[param_name]
        elif plan is not None and plan.is_start:
            only = PlainSpace({param_name: param_distribution}, self._settings.start or {})
            return only.params(only.base)[param_name]
        seed = derive_seed(self._settings.seed, "independent", trial.number, param_name)
        return RandomSampler(seed).sample_independent(study, trial, param_name, param_distribution)

    def _prunes(self, study: Study, trial: FrozenTrial) -> bool:
        plan, settings = Plan.of(trial), self._settings
        own = own_epochs(trial, first_step_of(trial, plan, settings.first_step))
        if not own:
            return False
        *before, epoch = sorted(own)
        if not math.isfinite(own[epoch]):
            return True
        last = max([0 if plan is None else plan.inherited, *before])
        if epoch >= settings.epochs or not any(last < rung <= epoch for rung in settings.rungs):
            return False
        with self._lock:
            return not self._searching(study).goes_on(trial.number)

    def _searching(self, study: Study) -> PlainSearch:
        search = self._search
        known = None if search is None else search.trials.study
        same = known is not None and (known._storage, known._study_id) == (study._storage, study._study_id)
        if search is None or not same:
            search = self._search = PlainSearch(self._settings, study)
        return search

    def __getstate__(self) -> dict[str, Any]:
        # Everything else is read off the study again.
        return {"_settings": self._settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._settings = state["_settings"]
        self._lock = threading.RLock()
        self._search = None


class PromotionPruner(BasePruner):
    """Stops a trial at a rung unless going on with it is the best use of its worker; :class:`StagedSampler`
    may take it up again later. A value that is not finite ends it anywhere."""

    def __init__(self, sampler: StagedSampler) -> None:
        self._sampler = sampler

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """See Optuna."""
        return self._sampler._prunes(study, trial)


def _rungs(rungs: Sequence[int] | None, epochs: int) -> tuple[int, ...]:
    return rungs_of(PrunerConfig(), epochs, PAUSE_ROOM) if rungs is None else tuple(rungs)
