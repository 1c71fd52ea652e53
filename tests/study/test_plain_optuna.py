"""The staged search in plain Optuna: what a user's own study may do with it, and what it must do there."""

import itertools
import math
import pickle
import statistics
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from plain_studies import (
    EPOCHS,
    SPACE,
    STAGES,
    continued,
    epochs_paid,
    in_turn,
    loss,
    make_study,
    objective,
    searched,
    story,
    suggested,
)

import orchestrator
from orchestrator import StagedSampler
from orchestrator.errors import ConfigError
from orchestrator.study.plain.trials import Plan
from orchestrator.study.storage import quiet_optuna

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def test_the_package_exports_it_without_importing_optuna_or_torch() -> None:
    code = "import sys, orchestrator; assert not {'optuna', 'torch'} & set(sys.modules); orchestrator.StagedSampler"
    code += "; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)
    assert "StagedSampler" in orchestrator.__all__


@pytest.mark.parametrize("arguments", [{}, {"stages": None}, {"space": SPACE}, {"start": {"lr": 0.5}}])
def test_it_finds_the_optimum_for_a_few_full_trainings(arguments: dict[str, Any]) -> None:
    def enough(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if epochs_paid(study) >= 15 * EPOCHS:
            study.stop()

    study = make_study(**arguments)
    study.optimize(objective, n_trials=100, callbacks=[enough])
    assert epochs_paid(study) < 16 * EPOCHS
    assert study.best_value < loss(0.02, 128, True, EPOCHS) + 0.02
    assert study.best_params["kind"] is True


def test_a_promoted_trial_goes_on_with_the_parameters_of_a_stopped_one() -> None:
    study = searched(50)
    assert continued(study)
    for trial in continued(study):
        stopped = study.trials[trial.user_attrs["continue_from"]]
        assert stopped.state is TrialState.PRUNED
        assert stopped.params == trial.params
        assert min(trial.intermediate_values) == stopped.last_step + 1
    parents = [trial.user_attrs["continue_from"] for trial in continued(study)]
    assert len(set(parents)) == len(parents)


def test_new_trials_are_never_repeated() -> None:
    study = searched(50)
    fresh = [tuple(t.params.values()) for t in study.trials if "continue_from" not in t.user_attrs]
    assert len(set(fresh)) == len(fresh)


def test_it_opens_with_points_and_a_line_then_walks_the_stages_in_growing_passes() -> None:
    study = searched(100, space=SPACE, start={"lr": 0.012, "width": 64, "kind": None})
    stages = [trial.user_attrs["stage"] for trial in study.trials]
    assert stages[:16] == ["start"] * 9 + ["lr"] * 7
    assert study.trials[0].params == {"lr": 0.012, "width": 64, "kind": None}
    line = study.trials[9:16]
    assert len({(t.params["width"], t.params["kind"]) for t in line}) == 1
    steps = [math.log10(b.params["lr"] / a.params["lr"]) for a, b in itertools.pairwise(line)]
    assert steps == pytest.approx([4 / 7] * 6)
    assert all(trial.state is TrialState.PRUNED and trial.last_step == 0 for trial in study.trials[:16])
    visits = list(dict.fromkeys(stages))
    assert visits[:9] == ["start", "lr", "width", "kind", "joint", "lr@2", "width@2", "kind@2", "joint@2"]
    paid: dict[str, int] = {}
    for trial in study.trials:
        paid[trial.user_attrs["stage"]] = paid.get(trial.user_attrs["stage"], 0) + len(trial.intermediate_values)
    assert paid["joint@2"] > paid["joint"]


def test_the_stages_default_to_the_learning_rate_and_then_each_of_the_others() -> None:
    stages = [trial.user_attrs["stage"] for trial in searched(40, stages=None).trials]
    assert [s for s in dict.fromkeys(stages) if "@" not in s] == ["start", "lr", "kind", "width", "joint"]


def test_a_trial_is_stopped_at_rungs_only() -> None:
    last = {trial.last_step + 1 for trial in searched(50).trials}
    assert last <= {1, 3, 9, EPOCHS}
    last = {trial.last_step + 1 for trial in searched(50, rungs=[2, 10]).trials}
    assert last <= {2, 10, EPOCHS}
    assert EPOCHS in last
    assert all(trial.state is TrialState.COMPLETE for trial in searched(12, rungs=[]).trials)


def test_steps_may_count_from_0_or_from_1() -> None:
    from_zero = searched(40)
    assert story(searched(40, lambda trial: objective(trial, first_step=1))) == story(from_zero)
    assert story(searched(40, lambda trial: objective(trial, first_step=1), first_step=1)) == story(from_zero)


def test_maximising_is_minimising_the_opposite() -> None:
    upwards = searched(40, lambda trial: objective(trial, sign=-1.0), direction="maximize")
    assert story(upwards) == story(searched(40))
    assert upwards.best_value == -searched(40).best_value


def test_the_same_seed_gives_the_same_trials() -> None:
    assert story(searched(30, seed=1)) == story(searched(30, seed=1))
    assert story(searched(30, seed=1)) != story(searched(30, seed=2))


def test_reports_may_be_sparse() -> None:
    study = searched(90, lambda trial: objective(trial, first_step=1, every=2))
    assert {trial.last_step for trial in study.trials if trial.state is TrialState.PRUNED} <= {2, 4, 10}
    assert study.best_value < 0.25
    for trial in continued(study):
        assert min(trial.intermediate_values) == study.trials[trial.user_attrs["continue_from"]].last_step + 2


def test_it_works_without_any_report() -> None:
    study = searched(25, lambda trial: loss(**suggested(trial), epoch=EPOCHS))
    assert all(trial.state is TrialState.COMPLETE for trial in study.trials)
    assert study.best_value < 0.3


def test_an_objective_that_begins_anew_is_charged_for_all_its_epochs() -> None:
    def anew(trial: optuna.Trial) -> float:
        params = suggested(trial)
        for epoch in range(EPOCHS):
            trial.report(loss(**params, epoch=epoch + 1), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return loss(**params, epoch=EPOCHS)

    study = searched(90, anew)
    sampler = study.sampler
    assert isinstance(sampler, StagedSampler)
    assert continued(study)
    assert sum(sampler.epochs_paid(study).values()) == epochs_paid(study)
    for trial in continued(study):
        # Stopped again only beyond what was known.
        assert trial.last_step > study.trials[trial.user_attrs["continue_from"]].last_step
    assert study.best_value < 0.2


def test_epochs_after_a_checkpoint_are_charged_only_once() -> None:
    study = searched(50)
    sampler = study.sampler
    assert isinstance(sampler, StagedSampler)
    assert sampler.epochs_paid(study) == {t.number: len(t.intermediate_values) for t in study.trials}


def test_the_start_is_tried_once_and_by_the_first_trial_however_long_it_takes() -> None:
    study = make_study(start={"lr": 0.01, "width": 64, "kind": None})
    first, second = study.ask(), study.ask()
    # The second is faster: with its end the search space is known, while the first has not asked for anything.
    assert suggested(second) != {"lr": 0.01, "width": 64, "kind": None}
    study.tell(second, 1.0)
    others = [suggested(study.ask()) for _ in range(10)]
    assert suggested(first) == {"lr": 0.01, "width": 64, "kind": None}
    assert suggested(first) not in others


def test_no_trial_continues_one_with_a_higher_number() -> None:
    """With threads a trial may begin and be stopped before an earlier one is decided about."""
    study = make_study()
    for _ in range(20):
        late = study._storage.create_new_trial(study._study_id)
        study.optimize(objective, n_trials=3)
        study.tell(optuna.Trial(study, late), state=TrialState.FAIL)
    parents = [trial.user_attrs["continue_from"] for trial in continued(study)]
    assert parents
    assert all(trial.number > trial.user_attrs["continue_from"] for trial in continued(study))


@pytest.mark.parametrize("workers", [2, 8])
def test_beside_others_too_what_is_good_is_continued(workers: int) -> None:
    """Costs are smooth here, so that all good places are alike and like those that run."""
    study = make_study(seed=1)
    in_turn(study, 60, workers)
    roots = {trial.number: trial.number for trial in study.trials}
    ranks = []
    for trial in continued(study):
        roots[trial.number] = roots[trial.user_attrs["continue_from"]]
        first = study.trials[roots[trial.number]].intermediate_values[0]
        before = [t.intermediate_values[0] for t in study.trials[: trial.number] if 0 in t.intermediate_values]
        ranks.append(sum(value < first for value in before) / len(before))
    assert len(ranks) > 3
    # Taken at random they would rank 0.5 on average.
    assert statistics.mean(ranks) < 0.4


def test_many_threads_share_it() -> None:
    barrier = threading.Barrier(4, timeout=60)

    def together(trial: optuna.Trial) -> float:
        if trial.number < 4:
            barrier.wait()
        return objective(trial)

    study = make_study(start={"lr": 0.01, "width": 64, "kind": None})
    study.optimize(together, n_trials=60, n_jobs=4)
    assert study.trials[0].params == {"lr": 0.01, "width": 64, "kind": None}
    fresh = [tuple(t.params.values()) for t in study.trials if "continue_from" not in t.user_attrs]
    assert len(set(fresh)) == len(fresh)
    parents = [trial.user_attrs["continue_from"] for trial in continued(study)]
    assert parents
    assert len(set(parents)) == len(parents)
    # What four threads find depends on their timing.
    assert study.best_value < 0.3


def test_two_processes_share_a_storage(tmp_path: Path) -> None:
    workers = [make_study(storage=open_storage("journal", tmp_path)) for _ in range(2)]
    for _ in range(25):
        # Both run at once: neither has told when the other asks.
        for study, trial in [(study, study.ask()) for study in workers]:
            try:
                study.tell(trial, objective(trial))
            except optuna.TrialPruned:
                study.tell(trial, state=TrialState.PRUNED)
    fresh = [tuple(t.params.values()) for t in workers[0].trials if "continue_from" not in t.user_attrs]
    assert len(set(fresh)) == len(fresh)
    parents = [trial.user_attrs["continue_from"] for trial in continued(workers[1])]
    assert parents
    assert len(set(parents)) == len(parents)


def test_running_trials_are_counted() -> None:
    study = make_study(space=SPACE)
    asked = [study.ask() for _ in range(30)]
    params = [tuple(suggested(trial).values()) for trial in asked]
    assert len(set(params)) == 30
    assert [t.user_attrs["stage"] for t in asked[:16]] == ["start"] * 8 + ["lr"] * 7 + [asked[15].user_attrs["stage"]]


def open_storage(kind: str, folder: Path) -> optuna.storages.BaseStorage:
    if kind == "database":
        return optuna.storages.RDBStorage(f"sqlite:///{folder / 'study.db'}")
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.storages.JournalStorage(backend)


@pytest.mark.parametrize("kind", ["memory", "journal", "database"])
def test_a_restart_goes_on_with_the_same_trials(tmp_path: Path, kind: str) -> None:
    expected = story(searched(40))
    memory = optuna.storages.InMemoryStorage()
    for done in (3, 9, 20, 33, 40):
        study = make_study(storage=memory if kind == "memory" else open_storage(kind, tmp_path))
        study.optimize(objective, n_trials=done - len(study.trials))
    assert story(study) == expected


def test_it_survives_pickling() -> None:
    study = searched(20)
    sampler = pickle.loads(pickle.dumps(study.sampler))
    study.sampler, study.pruner = sampler, sampler.pruner
    study.optimize(objective, n_trials=20)
    assert story(study) == story(searched(40))


def test_one_sampler_may_serve_two_studies() -> None:
    sampler = StagedSampler(EPOCHS, STAGES)
    studies = [optuna.create_study(sampler=sampler, pruner=sampler.pruner) for _ in range(2)]
    for _ in range(20):
        for study in studies:
            study.optimize(objective, n_trials=1)
    assert story(studies[0]) == story(studies[1]) == story(searched(20))


def test_enqueued_trials_come_first_and_may_be_promoted() -> None:
    good = {"lr": 0.02, "width": 128, "kind": True}
    study = make_study()
    study.enqueue_trial(good)
    study.enqueue_trial({"kind": "cosine"})
    study.optimize(objective, n_trials=30)
    first, second = study.trials[:2]
    assert first.params == good
    assert second.params["kind"] == "cosine"
    assert [first.user_attrs["stage"], second.user_attrs["stage"]] == ["enqueued"] * 2
    assert (first.state, first.last_step) == (TrialState.PRUNED, 0)
    assert study.best_params == good
    assert any(trial.user_attrs["continue_from"] == 0 for trial in continued(study))


def test_an_enqueued_trial_that_runs_is_known_by_its_own_values() -> None:
    study = make_study(space=SPACE)
    study.enqueue_trial({"lr": 0.02, "kind": "cosine"})
    held = study.ask()
    for _ in range(3):
        study.optimize(objective, n_trials=1)
    planned = Plan.of(study.trials[0])
    assert planned is not None
    assert planned.values is not None
    assert (planned.values["lr"], planned.values["kind"]) == (0.02, 2)
    assert suggested(held) == {"lr": 0.02, "width": planned.values["width"], "kind": "cosine"}


def test_it_learns_from_another_samplers_trials() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0), pruner=optuna.pruners.NopPruner())
    study.optimize(objective, n_trials=10)
    study.sampler = sampler = StagedSampler(EPOCHS, STAGES)
    study.pruner = sampler.pruner
    study.optimize(objective, n_trials=40)
    assert study.best_value < 0.2


@pytest.mark.filterwarnings("ignore:PartialFixedSampler is experimental")
def test_some_parameters_may_be_held_by_optunas_own_sampler() -> None:
    study = make_study()
    sampler = study.sampler
    study.sampler = optuna.samplers.PartialFixedSampler({"kind": "cosine"}, sampler)
    study.optimize(objective, n_trials=80)
    assert {trial.params["kind"] for trial in study.trials} == {"cosine"}
    assert study.best_value < loss(0.02, 128, "cosine", EPOCHS) + 0.05


def test_ask_and_tell() -> None:
    study = make_study()
    for _ in range(40):
        trial = study.ask(SPACE)
        try:
            study.tell(trial, objective(trial))
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
    assert story(study) == story(searched(40))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 0}, "epochs=0: must be at least 1"),
        ({"first_step": 2}, "first_step=2: must be 0, 1 or None"),
        ({"stages": ["lr"]}, r"stages=\['lr'\]: must be lists of names"),
        ({"stages": []}, r"stages=\[\]: must be lists of names"),
        ({"rungs": [3, 1]}, r"rungs=\[3, 1\]: must be rising epochs from 1, below epochs=50"),
        ({"rungs": [1, 50]}, "must be rising epochs"),
        ({"space": SPACE, "stages": [["lrr"]]}, "stages: 'lrr' is not a parameter of the study; did you mean lr?"),
        (
            {"space": SPACE, "start": {"widht": 1}},
            "start: 'widht' is not a parameter of the study; did you mean width?",
        ),
        ({"space": SPACE, "start": {"lr": 2.0}}, "start: lr=2.0 is not in FloatDistribution"),
        ({"space": SPACE, "start": {"kind": "step"}}, "start: kind='step' is not in CategoricalDistribution"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StagedSampler(**arguments)


def test_names_that_the_study_does_not_have_are_named_when_its_first_trial_has_ended() -> None:
    for arguments in ({"stages": [["lr"], ["wdith"]]}, {"start": {"wdith": 3}}):
        study = make_study(**arguments)
        with pytest.raises(ConfigError, match="'wdith' is not a parameter of the study; did you mean width"):
            study.optimize(objective, n_trials=2)


def test_two_objectives_are_refused() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=StagedSampler())
    with pytest.raises(ValueError, match="multi-objective"):
        study.ask()


def test_the_example_learns_and_goes_on_from_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import plain_optuna

    study = plain_optuna.search(n_trials=24)
    done = continued(study)
    assert done
    assert study.best_value < 0.5
    jumps = []
    for trial in done:
        stopped = study.trials[trial.user_attrs["continue_from"]]
        assert min(trial.intermediate_values) == stopped.last_step + 1
        jumps.append(trial.intermediate_values[stopped.last_step + 1] / stopped.value)
    # Trained on, not begun anew: no jump back to where an untrained network stands (one may diverge by itself).
    assert statistics.median(jumps) < 1.5
