"""Faults of loss, score and outputs are named; what only looks like one is not."""

import pytest
import torch
from preflight_tasks import (
    HEALTHY,
    UPSIDE_DOWN,
    Blobs,
    BlobsWithNorm,
    Counting,
    F,
    Labels,
    Line,
    run,
    severity,
    with_attributes,
    with_loss,
    with_model,
    with_outputs,
)
from torch import Tensor, nn

from orchestrator.config.hyperparameters import Hyperparameters, LossConfig, OptimizerConfig
from orchestrator.preflight.report import Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task

CHECKS = (
    "loss_direction",
    "loss_targets",
    "loss_coverage",
    "loss_reduction",
    "loss_floor",
    "score_direction",
    "init_loss",
    "base_rate_bias",
    "double_softmax",
    "output_range",
)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_tasks_pass_or_are_skipped(kind: type[Task], name: str) -> None:
    assert severity(name, kind()) in (Severity.PASS, Severity.SKIPPED)


def clamped(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets.clamp_max(1))


FAULTS = {
    "negated cross-entropy": ("loss_direction", with_loss(Blobs, lambda o, y: -F.cross_entropy(o, y))),
    "negated squared error": ("loss_direction", with_loss(Line, lambda o, y: -F.mse_loss(o, y))),
    "targets not used": ("loss_direction", with_loss(Blobs, lambda o, y: o.square().mean())),
    "last class clamped": ("loss_targets", with_loss(Blobs, clamped)),
    "values clamped": ("loss_targets", with_loss(Line, lambda o, y: F.mse_loss(o, y.clamp(max=0.5)))),
    "first example only": ("loss_coverage", with_loss(Blobs, lambda o, y: F.cross_entropy(o[:1], y[:1]))),
    "softmax over the batch": ("loss_reduction", with_loss(Blobs, lambda o, y: F.nll_loss(o.log_softmax(0), y))),
    "softmax inside the loss": ("loss_floor", with_loss(Blobs, lambda o, y: F.cross_entropy(o.softmax(1), y))),
    "smoothing 0.95": ("loss_floor", with_loss(Blobs, lambda o, y: F.cross_entropy(o, y, label_smoothing=0.95))),
    "directions reversed": ("score_direction", with_attributes(Blobs, directions=UPSIDE_DOWN)),
    "softmax in the model": ("double_softmax", with_outputs(Blobs, lambda o: o.softmax(-1))),
    "sigmoid in the model": ("double_softmax", with_outputs(Labels, torch.sigmoid)),
    "softmax over tokens": ("double_softmax", with_outputs(Counting, lambda o: o.softmax(-1))),
    "ReLU on logits": ("output_range", with_outputs(Blobs, torch.relu)),
    "ReLU on values": ("output_range", with_outputs(Line, torch.relu)),
    "sigmoid on values": ("output_range", with_outputs(Line, torch.sigmoid)),
    "constant outputs": ("output_range", with_outputs(Line, lambda o: o.unsqueeze(-1).softmax(-1).squeeze(-1))),
    "large weights": ("init_loss", with_model(Blobs, lambda m: [nn.init.normal_(p) for p in m.parameters()])),
    "large weights, values": ("init_loss", with_model(Line, lambda m: m[2].weight.mul_(50))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_blocked_by_the_check_that_names_it(fault: str) -> None:
    name, task = FAULTS[fault]
    finding = run(name, task)
    assert finding.severity is Severity.FAIL, finding
    assert finding.statistic
    assert finding.threshold
    assert finding.meaning
    assert finding.causes
    assert finding.advice


def single_column(task: Task) -> Task:
    """One value per example, as a column."""

    class Column(type(task)):  # type: ignore[misc]
        def splits(self):  # type: ignore[no-untyped-def]
            splits = super().splits()
            for part in (splits.train, splits.validation, splits.test):
                part.tensors = (part.tensors[0], part.tensors[1][:, :1])
            return splits

        def model(self, **hyperparameters):  # type: ignore[no-untyped-def]
            return nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))

    return Column()


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_a_column_against_a_row_is_a_broadcast() -> None:
    task = single_column(with_loss(Line, lambda o, y: F.mse_loss(o, y.squeeze(-1))))
    finding = run("loss_reduction", task)
    assert finding.severity is Severity.FAIL
    assert "broadcast" in finding.causes[0]
    assert finding.values["alone"] < 1e-6 < 0.2 < finding.values["together"]
    assert severity("loss_reduction", single_column(Line())) is Severity.PASS


@pytest.mark.parametrize(
    "task",
    [
        with_outputs(Blobs, lambda o: o.log_softmax(-1)),
        with_loss(Blobs, lambda o, y: F.cross_entropy(o, y, weight=torch.tensor([0.2, 1.0, 5.0]))),
        with_loss(Line, F.huber_loss),
        with_loss(Line, F.l1_loss),
    ],
    ids=["log_softmax twice", "class weights", "Huber", "L1"],
)
def test_unusual_but_right_losses_pass(task: Task) -> None:
    found = {name: severity(name, task) for name in CHECKS if name != "base_rate_bias"}
    assert set(found.values()) <= {Severity.PASS, Severity.SKIPPED}, found


def test_label_smoothing_inside_the_loss_is_only_told() -> None:
    task = with_loss(Blobs, lambda o, y: F.cross_entropy(o, y, label_smoothing=0.1))
    assert severity("loss_floor", task) is Severity.INFO


def test_strong_label_smoothing_in_the_settings_is_a_warning() -> None:
    def share(value: float) -> Severity:
        return severity("loss_smoothing", Subject(Blobs(), Hyperparameters(loss=LossConfig(label_smoothing=value))))

    assert share(0.2) is Severity.PASS
    assert share(0.9) is Severity.WARN


def test_a_sum_matters_to_sgd_and_not_to_adam() -> None:
    task = with_loss(Blobs, lambda o, y: F.cross_entropy(o, y, reduction="sum"))
    sgd = Hyperparameters(optimizer=OptimizerConfig(name="sgd"))
    clipped = Hyperparameters(optimizer=OptimizerConfig(clip_norm=1.0))
    assert severity("loss_reduction", task) is Severity.INFO
    assert severity("loss_reduction", Subject(task, sgd)) is Severity.WARN
    assert severity("loss_reduction", Subject(task, clipped)) is Severity.WARN
    assert run("loss_reduction", task).values["doubled"] == pytest.approx(2, rel=1e-3)


def test_a_score_of_a_part_of_the_examples_is_blind() -> None:
    class Half(Blobs):
        def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
            return super().score(predictions[: len(targets) // 2], targets[: len(targets) // 2])

    finding = run("score_direction", Half())
    assert finding.severity is Severity.FAIL
    assert "64 to 95" in finding.statistic


class Rare(Blobs):
    """One class in fifty."""

    bias = (0.0, 0.0)

    def splits(self):  # type: ignore[no-untyped-def]
        splits = super().splits()
        for part in (splits.train, splits.validation, splits.test):
            part.tensors = (part.tensors[0], (torch.arange(300) % 50 == 0).long())
        return splits

    def model(self, **hyperparameters):  # type: ignore[no-untyped-def]
        model = nn.Sequential(nn.Linear(8, 2))
        with torch.no_grad():
            model[0].weight.mul_(0.1)
            model[0].bias.copy_(torch.tensor(self.bias))
        return model


def test_the_advice_gives_the_bias_of_the_base_rates() -> None:
    finding = run("base_rate_bias", Rare())
    assert finding.severity is Severity.WARN
    first, second = (float(value) for value in finding.advice.rpartition(" to ")[2].split(", "))
    assert first - second == pytest.approx(torch.tensor(49.0).log().item(), abs=0.05)
    assert severity("base_rate_bias", with_attributes(Rare, bias=(3.9, 0.0))) is Severity.PASS


def test_a_pretrained_model_has_no_initial_loss() -> None:
    task = with_attributes(Blobs, pretrained=True)
    assert severity("init_loss", task) is Severity.SKIPPED
    assert "pretrained" in run("init_loss", task).statistic


def test_norm_and_dropout_do_not_change_the_verdict_on_outputs() -> None:
    assert severity("double_softmax", BlobsWithNorm()) is Severity.PASS
    assert severity("double_softmax", with_outputs(BlobsWithNorm, lambda o: o.softmax(-1))) is Severity.FAIL
