"""Predictions in other units than the targets."""

import pytest
from torch import Tensor

from benchmarks.mutations import tables
from benchmarks.mutations.sequences import Language
from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.code_units import free_outputs, prediction_rows, prediction_units
from orchestrator.preflight.report import Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task
from orchestrator.tasks.tabular import BreastCancer


class NotScaledBack(tables.RawTargets):
    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double()


class ScaledTwice(tables.HuberRegression):
    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double() * self.deviation + self.mean


class Negated(tables.HuberRegression):
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return -(outputs - targets).square().mean()


def severity(task: Task) -> Severity:
    finding = prediction_units(Subject(task), CheckSettings())
    assert not isinstance(finding, list)
    return finding.severity  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [tables.RawTargets, tables.NegativeTargets, tables.HuberRegression, tables.Counts])
def test_predictions_in_the_units_of_the_targets_pass(kind: type[Task]) -> None:
    assert severity(kind()) is Severity.PASS


@pytest.mark.parametrize("kind", [NotScaledBack, ScaledTwice])
def test_predictions_in_other_units_are_blocked(kind: type[Task]) -> None:
    assert severity(kind()) is Severity.FAIL


def test_it_does_not_guess_where_the_loss_has_no_minimum_or_there_are_no_units() -> None:
    assert severity(Negated()) is Severity.SKIPPED
    assert severity(tables.MeanAndVariance()) is Severity.SKIPPED


def test_free_outputs_of_the_squared_error_are_the_targets() -> None:
    subject = Subject(tables.DeepRegression())
    inputs, targets = subject.train_examples(4)
    fitted = free_outputs(subject, subject.outputs(subject.model, inputs), targets)
    assert fitted is not None
    assert fitted.numpy() == pytest.approx(targets.numpy(), abs=1e-4)


class SoftmaxOverExamples(BreastCancer):
    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().softmax(dim=0)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(SoftmaxOverExamples, Severity.FAIL), (BreastCancer, Severity.PASS), (Language, Severity.PASS)],
)
def test_predictions_of_an_example_are_its_own(kind: type[Task], expected: Severity) -> None:
    finding = prediction_rows(Subject(kind()), CheckSettings())
    assert finding.severity is expected  # type: ignore[union-attr]


def test_it_does_not_apply_to_classes() -> None:
    from orchestrator.preflight.registry import checks

    row = next(row for row in checks() if row.name == "prediction_units")
    assert row.reason_to_skip(Subject(BreastCancer())) is not None
