"""The helper for users' own tests (a few checks only: the whole preflight has tests of its own)."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import orchestrator
from orchestrator import ClassificationTask, Splits
from orchestrator.config.checks_code import InitLoss
from orchestrator.config.preflight import CheckSettings
from orchestrator.errors import ConfigError
from orchestrator.preflight.registry import checks
from orchestrator.preflight.report import Severity
from orchestrator.preflight.testing import assert_preflight

REST = [row.name for row in checks() if row.name not in {"task_runs", "loss_direction", "init_loss"}]


class Sound(ClassificationTask):
    def splits(self) -> Splits:
        inputs = torch.randn(600, 5, generator=torch.Generator().manual_seed(0))
        targets = (inputs.sum(dim=1) > 0).long()
        return Splits(*(TensorDataset(inputs[i::3], targets[i::3]) for i in range(3)))

    def model(self, width: int = 8) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 2))


class Negated(Sound):
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return -super().loss(outputs, targets, label_smoothing)


def test_a_sound_task_gives_its_report() -> None:
    report = assert_preflight(Sound(), skip=REST)
    assert report.worst is Severity.PASS
    assert {finding.check for finding in report.of(Severity.PASS)} == {"task_runs", "loss_direction", "init_loss"}


def test_a_broken_task_fails_with_the_whole_report() -> None:
    with pytest.raises(AssertionError, match=r"(?s)FAIL loss_direction: .*preflight of Negated: "):
        assert_preflight(Negated(), skip=REST)


def test_a_warning_fails_only_if_asked_to() -> None:
    touchy = CheckSettings(init_loss=InitLoss(warn=1.0001))
    assert assert_preflight(Sound(), skip=REST, settings=touchy).worst is Severity.WARN
    with pytest.raises(AssertionError, match="WARN init_loss"):
        assert_preflight(Sound(), skip=REST, settings=touchy, strict=True)


def test_a_misspelt_check_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"there is no check init_los; did you mean init_loss\?"):
        assert_preflight(Sound(), skip=["init_los"])


def test_the_function_is_offered_by_the_package() -> None:
    report = orchestrator.run_preflight(Negated(), skip=REST)
    assert [finding.check for finding in report.failed] == ["loss_direction"]
