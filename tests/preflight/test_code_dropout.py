"""Dropout that drops nearly everything."""

import pytest

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.code_dropout import dropout_strength
from orchestrator.preflight.report import Finding, Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.tabular import Diabetes


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.0, Severity.PASS), (0.5, Severity.PASS), (0.8, Severity.PASS), (0.95, Severity.WARN), (1.0, Severity.FAIL)],
)
def test_strong_dropout_is_named(share: float, expected: Severity) -> None:
    finding = dropout_strength(Subject(Diabetes(), Hyperparameters(model={"dropout": share})), CheckSettings())
    assert isinstance(finding, Finding)
    assert finding.severity is expected
