"""Is there something to learn: healthy tasks learn, broken ones are named."""

from typing import Any

import pytest
import torch
from preflight_tasks import (
    HEALTHY,
    Blobs,
    BlobsWithNorm,
    Counting,
    Labels,
    Line,
    run,
    severity,
    with_loss,
    with_model,
    with_outputs,
    with_training_targets,
)
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator.config.hyperparameters import Hyperparameters, OptimizerConfig
from orchestrator.preflight.report import Severity
from orchestrator.preflight.shorts import best_constant, constant_loss_on, without_dropout
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Splits, Task

CHECKS = (
    "overfit_two",
    "overfit_settings",
    "skill",
    "zero_input",
    "capacity",
    "width_matters",
    "divergence",
    "progress",
    "trained_modes",
    "dead_units_trained",
)
FAST = Hyperparameters(optimizer=OptimizerConfig(lr=3e-3))


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_tasks_learn(kind: type[Task]) -> None:
    subject = Subject(kind(), FAST)
    found = {name: run(name, subject) for name in CHECKS}
    assert {f.severity for f in found.values()} <= {Severity.PASS, Severity.SKIPPED}, found


def shuffled(targets: Tensor) -> Tensor:
    return targets[torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("kind", [Blobs, Line, Labels, Counting])
def test_targets_shuffled_against_inputs_are_blocked(kind: type[Task]) -> None:
    finding = run("skill", with_training_targets(kind, shuffled))
    assert finding.severity is Severity.FAIL, finding
    assert finding.values["gain"] < 0.05


def test_few_examples_only_warn() -> None:
    class Few(Blobs):
        def splits(self) -> Splits:
            splits = super().splits()
            inputs, targets = splits.train.tensors
            return Splits(TensorDataset(inputs[:60], shuffled(targets[:60])), splits.validation, splits.test)

    assert severity("skill", Few()) is Severity.WARN


def test_inputs_that_say_nothing_are_blocked() -> None:
    class Noise(Blobs):
        def splits(self) -> Splits:
            splits = super().splits()
            for number, part in enumerate((splits.train, splits.validation, splits.test)):
                noise = torch.randn(300, 8, generator=torch.Generator().manual_seed(50 + number))
                part.tensors = (noise, part.tensors[1])
            return splits

    assert severity("zero_input", Noise()) in (Severity.FAIL, Severity.WARN)
    assert severity("skill", Noise()) is Severity.FAIL


def test_what_leaks_shows_when_targets_are_shuffled_at_the_source() -> None:
    class Encoded(Blobs):
        leaks = True
        seed: int | None = None

        def splits(self) -> Splits:
            splits = super().splits()
            for number, part in enumerate((splits.train, splits.validation, splits.test)):
                inputs, targets = part.tensors
                if self.seed is not None:
                    order = torch.Generator().manual_seed(self.seed + number)
                    targets = targets[torch.randperm(len(targets), generator=order)]
                if self.leaks:
                    inputs = torch.cat([inputs[:, 1:], targets[:, None] - 1.0], dim=1)
                part.tensors = (inputs, targets)
            return splits

        def shuffled(self, seed: int) -> Task:
            other = type(self)()
            other.seed = seed
            return other

    finding = run("shuffled_source", Encoded())
    assert finding.severity is Severity.FAIL
    assert finding.values["gain"] > 0.5
    assert severity("shuffled_source", type("Sound", (Encoded,), {"leaks": False})()) is Severity.PASS
    assert severity("shuffled_source", Blobs()) is Severity.SKIPPED


OVERFIT = {
    "dead": with_model(Blobs, lambda m: [layer.bias.fill_(-50.0) for layer in m if isinstance(layer, nn.Linear)]),
    "input ignored": with_outputs(Blobs, lambda o: o * 0),
    "softmax twice": with_outputs(Blobs, lambda o: o.softmax(-1)),
    "negated": with_loss(Blobs, lambda o, y: -nn.functional.cross_entropy(o, y)),
    "ReLU on values": with_outputs(Line, torch.relu),
}


@pytest.mark.parametrize("name", OVERFIT)
def test_what_cannot_learn_two_examples_is_blocked(name: str) -> None:
    assert severity("overfit_two", OVERFIT[name]) is Severity.FAIL


def test_dropout_is_off_for_two_examples_and_on_with_the_users_settings() -> None:
    class Heavy(Blobs):
        def model(self, width: int = 16, dropout: float = 0.97) -> nn.Module:  # type: ignore[override]
            return super().model(width, dropout)

    assert severity("overfit_two", Heavy()) is Severity.PASS
    assert severity("overfit_settings", Subject(Heavy(), FAST)) in (Severity.PASS, Severity.WARN)
    model = nn.Sequential(nn.Dropout(0.5), nn.LSTM(2, 2, num_layers=2, dropout=0.3))
    with without_dropout(model):
        assert (model[0].p, model[1].dropout) == (0.0, 0.0)
    assert (model[0].p, model[1].dropout) == (0.5, 0.3)


@pytest.mark.parametrize("value", [1e-8, 30.0])
def test_settings_that_cannot_learn_two_examples_are_a_warning(value: float) -> None:
    hp = Hyperparameters(optimizer=OptimizerConfig(name="sgd", lr=value))
    assert severity("overfit_settings", Subject(Line(), hp)) is Severity.WARN


def test_a_learning_rate_far_too_large_diverges() -> None:
    hp = Hyperparameters(optimizer=OptimizerConfig(name="sgd", lr=30.0))
    assert severity("divergence", Subject(Line(), hp)) is Severity.FAIL
    assert severity("progress", Subject(Line(), Hyperparameters(optimizer=OptimizerConfig(lr=1e-7)))) is Severity.WARN


def test_lagging_statistics_of_batch_norm_are_a_warning() -> None:
    def slow(model: nn.Module) -> None:
        model[1].momentum = 1e-6  # type: ignore[index,union-attr]
        model[0].weight.mul_(30)  # type: ignore[index,union-attr]

    finding = run("trained_modes", Subject(with_model(BlobsWithNorm, slow), FAST))
    assert finding.severity is Severity.WARN
    assert finding.values["ratio"] > 3


def test_a_width_without_effect_is_a_warning() -> None:
    class Fixed(Blobs):
        def model(self, width: int = 16) -> nn.Module:  # type: ignore[override]
            return super().model(16)

    assert severity("width_matters", Fixed()) is Severity.WARN


@pytest.mark.parametrize(
    ("formula", "wanted"),
    [
        (nn.functional.mse_loss, lambda y: y.mean(dim=0)),
        (nn.functional.l1_loss, lambda y: y.median(dim=0).values),
    ],
)
def test_the_best_constant_is_that_of_the_loss(formula: Any, wanted: Any) -> None:
    subject = Subject(with_loss(Line, formula))
    batch = subject.train_examples(299)
    constant = best_constant(subject, batch)
    expected = wanted(batch[1])
    assert torch.allclose(constant[0], expected, atol=0.02)
    best = float(formula(expected.expand_as(batch[1]), batch[1]))
    assert constant_loss_on(subject, constant, batch) == pytest.approx(best, rel=1e-3)


def test_class_weights_move_the_best_constant() -> None:
    weight = torch.tensor([1.0, 1.0, 8.0])
    task = with_loss(Blobs, lambda o, y: nn.functional.cross_entropy(o, y, weight=weight))
    subject = Subject(task)
    batch = subject.train_examples(300)
    found = best_constant(subject, batch).softmax(-1)[0]
    counts = torch.bincount(batch[1], minlength=3) * weight
    assert torch.allclose(found, counts / counts.sum(), atol=1e-2)
