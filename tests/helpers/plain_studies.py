"""Plain Optuna studies of curves that cost nothing, and what the tests ask of them."""

import math
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from orchestrator import StagedSampler

EPOCHS = 27
STAGES = [["lr"], ["width"], ["kind"]]
SPACE = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "width": IntDistribution(8, 512, log=True),
    "kind": CategoricalDistribution([None, True, "cosine"]),
}
Objective = Callable[[optuna.Trial], float]


def loss(lr: float, width: int, kind: Any, epoch: int) -> float:
    """Best near lr=0.02, width=128, kind=True: 0.168 after EPOCHS."""
    off = (math.log10(lr) + 1.7) ** 2 + 0.3 * math.log2(width / 128) ** 2 + 0.4 * (kind is not True)
    return 0.1 + 0.2 * off + 2.0 * math.exp(-epoch / 8)


def suggested(trial: optuna.Trial) -> dict[str, Any]:
    return {
        "lr": trial.suggest_float("lr", 1e-4, 1.0, log=True),
        "width": trial.suggest_int("width", 8, 512, log=True),
        "kind": trial.suggest_categorical("kind", [None, True, "cosine"]),
    }


def objective(trial: optuna.Trial, first_step: int = 0, sign: float = 1.0, every: int = 1) -> float:
    """Goes on from where the trial it continues stopped, as a loop with checkpoints does."""
    params = suggested(trial)
    stopped = trial.user_attrs.get("continue_from")
    begin = 0 if stopped is None else trial.study.trials[stopped].last_step + 1 - first_step
    value = math.nan
    for epoch in range(begin + 1, EPOCHS + 1):
        value = sign * loss(**params, epoch=epoch)
        if epoch % every:
            continue
        trial.report(value, epoch - 1 + first_step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return value


def make_study(direction: str = "minimize", storage: Any = None, **arguments: Any) -> optuna.Study:
    sampler = StagedSampler(EPOCHS, **{"stages": STAGES, **arguments})
    return optuna.create_study(
        study_name="plain", direction=direction, storage=storage, sampler=sampler, pruner=sampler.pruner,
        load_if_exists=True,
    )  # fmt: skip


def searched(n_trials: int, run: Objective = objective, **arguments: Any) -> optuna.Study:
    study = make_study(**arguments)
    study.optimize(run, n_trials=n_trials)
    return study


def story(study: optuna.Study) -> list[tuple[Any, ...]]:
    """What happened, without how steps were counted."""
    return [(trial.params, trial.user_attrs, trial.state, len(trial.intermediate_values)) for trial in study.trials]


def continued(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in study.trials if "continue_from" in trial.user_attrs]


def epochs_paid(study: optuna.Study) -> int:
    return sum(len(trial.intermediate_values) for trial in study.trials)


def in_turn(study: optuna.Study, n_trials: int, workers: int) -> None:
    """Run ``n_trials`` trials on ``workers`` workers that train an epoch each in turn."""
    todo, live = n_trials, []
    while todo or live:
        while todo and len(live) < workers:
            trial, todo = study.ask(), todo - 1
            stopped = trial.user_attrs.get("continue_from")
            live.append((trial, suggested(trial), 0 if stopped is None else study.trials[stopped].last_step + 1))
        trial, params, epoch = live.pop(0)
        value = loss(**params, epoch=epoch + 1)
        trial.report(value, epoch)
        if trial.should_prune():
            study.tell(trial, state=TrialState.PRUNED)
        elif epoch + 1 == EPOCHS:
            study.tell(trial, value)
        else:
            live.append((trial, params, epoch + 1))
