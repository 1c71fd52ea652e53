"""The staged search in plain Optuna: trials that fail, and every kind of parameter."""

import math
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState
from plain_studies import (
    EPOCHS,
    SPACE,
    Objective,
    make_study,
    objective,
    searched,
    suggested,
)

from orchestrator.study.storage import quiet_optuna


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def fails_by_nan_report(trial: optuna.Trial) -> float:
    trial.report(math.nan, 0)
    assert trial.should_prune()
    raise optuna.TrialPruned


def fails_by_nan(trial: optuna.Trial) -> float:
    return math.nan


def fails_by_infinity(trial: optuna.Trial) -> float:
    return math.inf


def fails_by_error(trial: optuna.Trial) -> float:
    raise MemoryError


def fails_by_refusal(trial: optuna.Trial) -> float:
    raise optuna.TrialPruned


def fails_by_constraint(trial: optuna.Trial) -> float:
    trial.set_constraint("memory", 1.0)
    return 0.0


@pytest.mark.parametrize(
    "fails",
    [fails_by_nan_report, fails_by_nan, fails_by_infinity, fails_by_error, fails_by_refusal, fails_by_constraint],
)
def test_it_learns_where_trials_fail(fails: Objective) -> None:
    def run(trial: optuna.Trial) -> float:
        return fails(trial) if suggested(trial)["lr"] > 0.1 else objective(trial)

    study = make_study(space=SPACE)
    study.optimize(run, n_trials=60, catch=MemoryError)
    bad = [trial.params["lr"] > 0.1 for trial in study.trials]
    assert sum(bad[:16]) >= 4
    assert sum(bad[30:]) <= 6
    good = [t for t in study.trials if t.state is TrialState.COMPLETE and t.params["lr"] <= 0.1]
    assert min(trial.value for trial in good) < 0.2


def test_a_continuation_that_breaks_off_once_is_tried_again_and_then_given_up() -> None:
    broken: set[int] = set()
    victims: list[dict[str, Any]] = []

    def run(trial: optuna.Trial) -> float:
        if "continue_from" in trial.user_attrs and (not victims or suggested(trial) == victims[0]):
            victims.append(suggested(trial))
            broken.add(trial.number)
            raise KeyboardInterrupt if len(victims) == 1 else RuntimeError
        return objective(trial)

    study = make_study()
    with pytest.raises(KeyboardInterrupt):
        study.optimize(run, n_trials=50)
    study.optimize(run, n_trials=40, catch=RuntimeError)
    first, second = (study.trials[number] for number in sorted(broken))
    assert first.params == second.params
    assert first.user_attrs["continue_from"] == second.user_attrs["continue_from"]
    assert study.best_value < 0.2


def test_every_kind_of_distribution() -> None:
    def run(trial: optuna.Trial) -> float:
        step = trial.suggest_float("stepped", -1.0, 1.0, step=0.1)
        whole = trial.suggest_int("whole", -3, 9, step=3)
        layers = trial.suggest_int("layers", 1, 8)
        units = trial.suggest_int("units", 1, 64, log=True)
        flag = trial.suggest_categorical("flag", [False, True])
        mixed = trial.suggest_categorical("mixed", [None, 0.5, "x", 3])
        assert trial.suggest_float("single", 2.0, 2.0) == 2.0
        assert isinstance(whole, int)
        assert isinstance(layers, int)
        assert isinstance(flag, bool)
        off = (step - 0.3) ** 2 + (whole - 3) ** 2 / 9 + (layers - 4) ** 2 / 9 + math.log(units / 16) ** 2 / 4
        for epoch in range(EPOCHS):
            trial.report(0.1 + off + (not flag) + (mixed is not None) + math.exp(-epoch), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return 0.1 + off + (not flag) + (mixed is not None)

    study = searched(120, run, stages=None)
    assert study.best_params["flag"] is True
    assert study.best_params["mixed"] is None
    assert study.best_value < 0.5


@pytest.mark.parametrize("given", [False, True])
def test_parameters_may_depend_on_others(given: bool) -> None:
    momentum = FloatDistribution(0.0, 0.99)

    def run(trial: optuna.Trial) -> float:
        lr = trial.suggest_float("lr", 1e-4, 1.0, log=True)
        sgd = trial.suggest_categorical("optimizer", ["sgd", "adam"]) == "sgd"
        off = (math.log10(lr) + 2) ** 2 + ((trial.suggest_float("momentum", 0.0, 0.99) - 0.9) ** 2 if sgd else 0.5)
        stopped = trial.user_attrs.get("continue_from")
        if stopped is not None:
            assert trial.study.trials[stopped].params == trial.params
        for epoch in range(EPOCHS):
            trial.report(off + math.exp(-epoch), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return off

    optimizer = CategoricalDistribution(["sgd", "adam"])
    space = {"lr": SPACE["lr"], "optimizer": optimizer, "momentum": momentum} if given else None
    study = searched(60, run, stages=None, space=space)
    # Known only when asked for, momentum is drawn at random; given, it is taken to matter always.
    assert study.best_params["optimizer"] == "sgd"
    assert study.best_value < 0.45


def test_a_small_space_may_be_exhausted() -> None:
    def run(trial: optuna.Trial) -> float:
        return float(trial.suggest_categorical("a", [1, 2])) + trial.suggest_int("b", 0, 1)

    study = searched(15, run, stages=None)
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 4
    assert study.best_value == 1.0
