"""A few cells of the mutation benchmark: healthy tasks pass, planted faults are blocked under their name."""

import pytest

from benchmarks.mutations.catalogue import FAULTS, by_name
from benchmarks.mutations.harm import TRAINER, Outcome, clean, harm
from benchmarks.mutations.planting import Cell
from benchmarks.mutations.pool import BY_NAME, POOL
from benchmarks.mutations.results import Flag
from benchmarks.mutations.table import BLOCKED, SILENT, WARNED, verdict
from orchestrator.preflight.registry import checks
from orchestrator.preflight.report import Report
from orchestrator.preflight.run import run_preflight
from orchestrator.types import Direction


def report(cell: Cell) -> Report:
    return run_preflight(
        cell.task, hyperparameters=cell.hyperparameters, procedure=cell.procedure, trainer=TRAINER, seed=0
    )


@pytest.mark.parametrize("name", ["huber", "mean_and_variance", "category_columns", "contrastive", "wine"])
def test_a_healthy_task_is_left_alone(name: str) -> None:
    found = report(clean(BY_NAME[name], 0))
    assert not found.failed, found.text()


# PyTorch says itself that targets are broadcast; its users see a warning, not an error.
@pytest.mark.filterwarnings("ignore:Using a target size:UserWarning")
@pytest.mark.parametrize(
    ("fault", "base"),
    [
        ("sigmoid before BCE-with-logits", "binary_logit"),
        ("negated loss", "diabetes"),
        ("class 0 ignored by the loss", "digits_mlp"),
        ("targets broadcast in MSE", "diabetes"),
        ("softmax over the batch", "wine"),
        ("validation is training", "diabetes"),
        ("missing values in inputs", "diabetes"),
        ("labels shuffled", "breast_cancer"),
        ("zero_grad missing", "huber"),
        ("step missing", "diabetes"),
    ],
)
def test_a_planted_fault_is_blocked_under_its_name(fault: str, base: str) -> None:
    planted = by_name()[fault]
    found = report(planted.plant(clean(BY_NAME[base], 0)))
    names = {finding.check for finding in found.failed}
    assert names & set(planted.expected), found.text()


def test_planting_leaves_the_healthy_task_as_it_was() -> None:
    cell = clean(BY_NAME["diabetes"], 0)
    before = type(cell.task)
    by_name()["negated loss"].plant(cell)
    assert type(cell.task) is before
    assert by_name()["negated loss"].plant(cell).task is not cell.task


def test_the_catalogue_is_complete() -> None:
    known = {row.name for row in checks()}
    assert len(POOL) >= 15
    assert len({fault.name for fault in FAULTS}) == len(FAULTS)
    for fault in FAULTS:
        assert set(fault.bases) <= set(BY_NAME), fault.name
        assert set(fault.expected) <= known, fault.name


def test_a_flag_of_the_healthy_task_is_not_a_catch() -> None:
    usual = Flag("base_rate_bias", "warn", "")
    new = Flag("loss_direction", "fail", "")
    assert verdict([usual], [usual]).outcome == SILENT
    assert verdict([usual], []).outcome == WARNED
    both = verdict([usual, new], [usual])
    assert (both.outcome, both.names) == (BLOCKED, ("loss_direction",))


def run(shown: float, true: float, noise: float) -> Outcome:
    return Outcome({"loss": shown + noise}, {"loss": true + noise}, {"loss": shown + noise})


@pytest.mark.parametrize(
    ("shown", "true", "kind", "harmful"),
    [(0.5, 0.5, "worse", False), (0.9, 0.9, "worse", True), (0.1, 0.5, "misreported", True)],
)
def test_harm_is_a_worse_network_or_a_wrong_score(shown: float, true: float, kind: str, harmful: bool) -> None:
    clean_runs = [run(0.5, 0.5, noise) for noise in (0.0, 0.01, 0.02)]
    faulty = [run(shown, true, noise) for noise in (0.001, 0.012, 0.02)]
    found = harm({"loss": Direction.MINIMIZE}, clean_runs, faulty)
    assert found.harmful is harmful
    if harmful:
        assert found.kind == kind
