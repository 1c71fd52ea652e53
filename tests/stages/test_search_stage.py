"""One visit of a search stage: its budget, its trials, its windows."""

import math
from collections.abc import Sequence

import pytest
from curves import bowl, command, curve_of, falling

from orchestrator import Simulation, simulate
from orchestrator.errors import InfeasibleTrialError, NoFeasibleTrialError
from orchestrator.types import Configuration, Reason, TrialState

WORKERS = pytest.mark.parametrize("workers", [1, 4])
ROUNDS = ("deterministic=true", "runner.workers=4")


def spent(found: Simulation) -> int:
    return sum(trial.epochs_paid for trial in found.trials)


def sometimes(configuration: Configuration, seed: int) -> Sequence[float]:
    if configuration["model.width"] > 120:
        raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "too wide")
    return falling(configuration, seed)


@WORKERS
@pytest.mark.parametrize("budget", [2, 3, 6])
@pytest.mark.parametrize("words", [
    (), ("pruner=median",), ("pruner=hyperband",), ("pruner=none",), ("pruner.audit_share=0.5",),
    ("sampler=tpe",), ("schedule.warmup=0.25",), ROUNDS, (*ROUNDS, "pruner.audit_share=0.5"),
])  # fmt: skip
def test_a_stage_by_itself_never_costs_more_than_its_budget_and_finishes_a_trial(
    words: tuple[str, ...], budget: int, workers: int
) -> None:
    found = simulate(command("stage=width", f"+stages.width.budget={budget}", *words), falling, workers)
    assert spent(found) <= budget * 9
    assert found.best is not None
    assert found.best.epochs_run == 9


@WORKERS
def test_a_stage_uses_what_it_has(workers: int) -> None:
    found = simulate(command("stage=width"), sometimes, workers)
    assert 6 * 9 - 9 < spent(found) <= 6 * 9
    assert any(trial.state is TrialState.INFEASIBLE for trial in found.trials)


def test_an_opening_longer_than_the_budget_is_cut() -> None:
    found = simulate(command("stage=lr", "trainer.epochs=1", "+stages.lr.budget=3"), falling)
    assert spent(found) == 3
    assert found.best is not None


@WORKERS
@pytest.mark.parametrize("n_trials", [1, 2, 5, 12])
@pytest.mark.parametrize("words", [(), ("sampler=tpe",), ROUNDS])
def test_so_many_trials_are_so_many_and_one_at_least_is_finished(
    words: tuple[str, ...], n_trials: int, workers: int
) -> None:
    found = simulate(command("stage=lr", f"n_trials={n_trials}", *words), falling, workers)
    assert len(found.trials) == n_trials
    assert found.best is not None


@WORKERS
def test_repeats_train_the_best_again_with_other_seeds_and_within_the_budget(workers: int) -> None:
    found = simulate(command("stage=width"), falling, workers)
    repeats = [trial for trial in found.trials if trial.repeats is not None]
    assert len(repeats) == 2
    [target] = {trial.repeats for trial in repeats}
    original = found.trials[target]
    assert {trial.state for trial in repeats} == {TrialState.COMPLETE}
    assert all(trial.configuration == original.configuration for trial in repeats)
    assert len({original.seed, *(trial.seed for trial in repeats)}) == 3
    assert spent(found) <= 6 * 9
    # Nothing new begins beside them.
    first = min(trial.number for trial in repeats)
    assert [trial.repeats is not None for trial in found.trials[first:]] == [True, True]
    assert found.best is not None
    assert found.best.repeats is None


def test_a_trial_in_warm_up_is_not_stopped() -> None:
    """Warm until epoch 4.5: no trial may end at the rungs 1 and 3."""
    found = simulate(command("stage=width", "schedule.warmup=0.5", "pruner.rungs=[1,3,6]"), falling)
    assert min(trial.epochs_run for trial in found.trials) == 6
    assert any(trial.state is TrialState.PRUNED for trial in found.trials)


def test_audited_trials_are_let_through_to_their_end() -> None:
    found = simulate(command("stage=width", "pruner.audit_share=0.5"), falling)
    audited = [trial for trial in found.trials if trial.audited is not None]
    assert audited
    assert all(trial.state is TrialState.COMPLETE and trial.epochs_run == 9 for trial in audited)
    assert all(trial.audited < 9 for trial in audited)
    verdict = found.ledger.finished["width"]["audit"]
    assert verdict["trials"] == len(audited)
    assert verdict["epochs"] == sum(9 - trial.audited for trial in audited)
    everything = simulate(command("stage=width", "pruner.audit_share=1.0"), falling)
    assert not any(trial.state is TrialState.PRUNED and trial.epochs_run == 1 for trial in everything.trials[:2])


def test_promotions_continue_their_parents_and_are_paid_once() -> None:
    found = simulate(command("stage=joint", "stages.joint.budget=6"), falling)
    children = [trial for trial in found.trials if trial.parent is not None]
    assert children
    for child in children:
        parent = found.trials[child.parent]
        assert (child.configuration, child.seed) == (parent.configuration, parent.seed)
        assert child.inherited == parent.epochs_run
        assert {epoch: child.curve[epoch] for epoch in parent.curve} == parent.curve
        assert child.epochs_paid == child.epochs_run - parent.epochs_run


def test_a_stage_varies_its_own_and_what_it_tunes_again() -> None:
    found = simulate(command("stage=width", "sampler.open=1000"), falling)
    start = found.trials[0].configuration
    moved = {name for trial in found.trials for name, value in trial.configuration.items() if value != start[name]}
    assert moved == {"model.width", "optimizer.lr"}
    rates = [math.log10(trial.configuration["optimizer.lr"]) for trial in found.trials]
    assert all(-4 <= rate <= 0 for rate in rates)


@pytest.mark.parametrize(("lr", "end"), [(3.0, "high"), (3e-6, "low")])
def test_the_range_is_widened_when_the_best_lies_beyond_it(lr: float, end: str) -> None:
    curve = curve_of(lambda configuration, seed: bowl(configuration, lr=lr))
    found = simulate(command("stage=lr"), curve)
    assert found.best is not None
    best = found.best.configuration["optimizer.lr"]
    low, high = found.ledger.finished["lr"]["widened"]["optimizer.lr"]
    if end == "high":
        assert best > 1.0
        assert high >= best
    else:
        assert best < 1e-4
        assert low <= best
    assert "was widened" in found.ledger.finished["lr"]["text"]


def test_regularization_changes_one_at_a_time() -> None:
    found = simulate(command("stage=regularization", "sampler.open=1000", "+stages.regularization.budget=2"), falling)
    names = ["optimizer.weight_decay", "model.dropout", "loss.label_smoothing"]
    new = [trial.configuration for trial in found.trials if trial.parent is None]
    for index, configuration in enumerate(new[1:], start=1):
        assert min(sum(configuration[n] != other[n] for n in names) for other in new[:index]) <= 1


@WORKERS
def test_no_usable_trial_is_an_error_that_says_why(workers: int) -> None:
    def never(configuration: Configuration, seed: int) -> Sequence[float]:
        raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "too large")

    with pytest.raises(NoFeasibleTrialError, match=r"lr: none of \d+ trials gave a value .*out_of_memory"):
        simulate(command("stage=lr"), never, workers)


def test_passes_with_one_worker_spend_about_the_whole_budget() -> None:
    config = command("stage=all", "recipe.budget={high: 2, medium: 1, low: 1}", "stages.joint.budget=4")
    found = simulate(config, falling)
    total = 9 * sum(
        config.recipe.budget[s.impact] if s.budget is None else s.budget
        for name, s in config.stages.items()
        if s.kind == "search" and f"{name}" in {key.partition("@")[0] for key in found.ledger.finished}
    )
    # A visit of a pass may end with a trial that costs more than its share.
    assert total * 0.85 <= spent(found) <= total * 1.1
    # And leaves the repeats at the end theirs.
    best = found.ledger.finished[list(found.ledger.finished)[-1]]["best_trial"]
    assert [trial.repeats for trial in found.trials[-2:]] == [best, best]


FEW = ("stage=lr", "sampler=random", "pruner=none", "n_trials=8", "space.optimizer.lr.type=choice",
       "+space.optimizer.lr.choices=[0.001,0.1,1.0]")  # fmt: skip


@pytest.mark.parametrize("words", [(), ROUNDS])
def test_what_was_tried_is_not_paid_for_again_but_pointed_to(words: tuple[str, ...]) -> None:
    trained: list[tuple[float, int]] = []

    def noted(configuration: Configuration, seed: int) -> Sequence[float]:
        trained.append((float(configuration["optimizer.lr"]), seed))
        if configuration["optimizer.lr"] == 1.0:
            raise InfeasibleTrialError(Reason.DIVERGED, "too large")
        return falling(configuration, seed)

    found = simulate(command(*FEW, *words), noted, workers=1)
    assert len(found.trials) == 8
    rates = {trial.configuration["optimizer.lr"] for trial in found.trials}
    pointing = [trial for trial in found.trials if "not trained again" in trial.detail]
    assert len(trained) == len(found.trials) - len(pointing)
    assert len(pointing) >= 3
    if not words:
        assert len(trained) == len(rates), "in rounds, trials of one round know nothing of each other"
    for trial in pointing:
        assert trial.parent is not None
        earlier = found.trials[trial.parent]
        assert trial.detail == f"same configuration, seed and budget as trial {earlier.number}: not trained again"
        assert dict(trial.configuration) == dict(earlier.configuration)
        assert (trial.seed, trial.state, trial.reason) == (earlier.seed, earlier.state, earlier.reason)
        assert dict(trial.curve) == dict(earlier.curve)
        assert trial.epochs_paid == 1
    assert found.best is not None
    assert found.best.number not in {trial.number for trial in pointing}


def test_a_failure_that_is_not_the_configuration_s_is_tried_again() -> None:
    def dies(configuration: Configuration, seed: int) -> Sequence[float]:
        if configuration["optimizer.lr"] == 1.0:
            raise InfeasibleTrialError(Reason.WORKER_DIED, "killed")
        return falling(configuration, seed)

    found = simulate(command(*FEW), dies)
    died = [trial for trial in found.trials if trial.reason is Reason.WORKER_DIED]
    assert len(died) > 1
    assert not [trial for trial in died if trial.parent is not None]
