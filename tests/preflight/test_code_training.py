"""Faults of the user's own loop are named by the right check; our own loop passes."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from preflight_tasks import HEALTHY, Blobs, BlobsWithNorm, Line, run, severity
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, LinearLR, LRScheduler, OneCycleLR
from torch.utils.data import Subset, WeightedRandomSampler

from orchestrator.config.hyperparameters import Hyperparameters, OptimizerConfig, ScheduleConfig
from orchestrator.config.schema import TrainerConfig
from orchestrator.preflight.procedure import Procedure
from orchestrator.preflight.report import Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task
from orchestrator.training.data import size
from orchestrator.training.loop import predict

CHECKS = (
    "parameter_updates",
    "gradient_reset",
    "training_mode",
    "learning_rate",
    "weight_decay",
    "schedule",
    "scheduler_order",
    "evaluation",
    "evaluation_mode",
    "evaluation_side_effects",
    "loader_pairs",
    "epoch_coverage",
)

FAST = Hyperparameters(optimizer=OptimizerConfig(lr=3e-3))


def subject(
    procedure: type[Procedure] | None = None, kind: type[Task] = Blobs, hp: Hyperparameters = FAST
) -> Subject:
    return Subject(kind(), hp, procedure)


@pytest.mark.parametrize("kind", HEALTHY)
@pytest.mark.parametrize(
    "hp",
    [
        FAST,
        Hyperparameters(
            optimizer=OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-3, clip_norm=1.0),
            schedule=ScheduleConfig(kind="cosine", warmup=0.1),
        ),
        Hyperparameters(optimizer=OptimizerConfig(name="adam"), schedule=ScheduleConfig(kind="one_cycle")),
    ],
    ids=["AdamW", "SGD", "Adam"],
)
def test_our_own_loop_passes(kind: type[Task], hp: Hyperparameters) -> None:
    under_test = subject(None, kind, hp)
    found = {name: run(name, under_test) for name in CHECKS}
    assert {f.severity for f in found.values()} <= {Severity.PASS, Severity.SKIPPED}, found
    assert found["gradient_reset"].values["share"] == 0


def stepping(*calls: str) -> type[Procedure]:
    """A step made of the named calls, in that order."""

    class Stepping(Procedure):
        def step(self, model: nn.Module, optimizer: optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
            loss = self.task.loss(model(inputs), targets)
            for call in calls:
                if call == "backward":
                    torch.autograd.backward(loss)
                else:
                    getattr(optimizer, call)()
            return loss.detach()

    return Stepping


@pytest.mark.parametrize("kind", [Blobs, BlobsWithNorm, Line])
def test_a_missing_reset_is_found_exactly(kind: type[Task]) -> None:
    finding = run("gradient_reset", subject(stepping("backward", "step"), kind))
    assert finding.severity is Severity.FAIL
    assert finding.values["share"] == pytest.approx(1, abs=0.01)
    assert severity("gradient_reset", subject(stepping("zero_grad", "backward", "step"), kind)) is Severity.PASS


@pytest.mark.parametrize(
    "calls", [("zero_grad", "backward"), ("backward", "zero_grad", "step"), ("zero_grad", "step")]
)
def test_steps_without_effect_are_blocked(calls: tuple[str, ...]) -> None:
    assert severity("parameter_updates", subject(stepping(*calls))) is Severity.FAIL


def test_gradients_accumulated_on_purpose_are_no_fault() -> None:
    class Accumulating(Procedure):
        def step(self, model: nn.Module, optimizer: optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
            optimizer.zero_grad()
            losses = []
            for some, wanted in zip(torch.split(inputs, 16), torch.split(targets, 16), strict=True):
                loss = self.task.loss(model(some), wanted) * (len(some) / len(inputs))
                torch.autograd.backward(loss)
                losses.append(loss.detach())
            optimizer.step()
            return torch.stack(losses).sum()

    assert severity("gradient_reset", subject(Accumulating)) in (Severity.PASS, Severity.SKIPPED)
    assert severity("parameter_updates", subject(Accumulating)) is Severity.PASS


def rate(value: float, **more: Any) -> Subject:
    return subject(hp=Hyperparameters(optimizer=OptimizerConfig(lr=value, **more)))


def test_learning_rates_are_judged_by_what_they_can_move() -> None:
    assert severity("learning_rate", rate(1e-7)) is Severity.FAIL
    assert severity("learning_rate", rate(5e-5)) is Severity.WARN
    assert [severity("learning_rate", rate(value)) for value in (3e-4, 1e-3, 3e-2)] == [Severity.PASS] * 3
    assert severity("learning_rate", rate(10.0)) is Severity.FAIL


def test_weight_decay_is_judged_by_its_share_of_a_step() -> None:
    assert severity("weight_decay", rate(1e-3, weight_decay=100.0)) is Severity.FAIL
    assert severity("weight_decay", rate(1e-3, weight_decay=10.0)) is Severity.WARN
    assert severity("weight_decay", rate(3e-3, weight_decay=0.1)) is Severity.PASS
    assert severity("weight_decay", rate(3e-3, weight_decay=1e-3, name="adam")) is Severity.PASS
    assert severity("weight_decay", rate(1e-3, weight_decay=100.0, name="adam")) is Severity.FAIL


def test_training_in_evaluation_mode_is_blocked() -> None:
    class Sleeping(Procedure):
        def train_epoch(self, model: nn.Module, *more: Any) -> float:
            model.train = lambda mode=True: nn.Module.train(model, False)  # type: ignore[method-assign]
            return super().train_epoch(model, *more)

    assert severity("training_mode", subject(Sleeping, BlobsWithNorm)) is Severity.FAIL


def scheduled(make: Any, *, by_epoch: bool = False, never: bool = False) -> type[Procedure]:
    class Scheduled(Procedure):
        def scheduler(self, optimizer: optim.Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
            made: LRScheduler = make(optimizer, total_steps, steps_per_epoch)
            return made

        def after_step(self, scheduler: LRScheduler) -> None:
            if not by_epoch and not never:
                scheduler.step()

        def after_epoch(self, scheduler: LRScheduler) -> None:
            if by_epoch:
                scheduler.step()

    return Scheduled


SCHEDULES = {
    "cosine over all steps": (Severity.PASS, scheduled(lambda o, total, per: CosineAnnealingLR(o, total))),
    "cosine over epochs": (
        Severity.PASS,
        scheduled(lambda o, total, per: CosineAnnealingLR(o, total // per), by_epoch=True),
    ),
    "one cycle": (Severity.PASS, scheduled(lambda o, total, per: OneCycleLR(o, 3e-3, total_steps=total + 1))),
    "three drops": (
        Severity.PASS,
        scheduled(lambda o, total, per: LambdaLR(o, lambda step: 0.1 ** (3 * step // total))),
    ),
    "zero after a tenth": (
        Severity.FAIL,
        scheduled(lambda o, total, per: LambdaLR(o, lambda step: max(0.0, 1 - 10 * step / total))),
    ),
    "epoch decay on steps": (Severity.FAIL, scheduled(lambda o, total, per: LambdaLR(o, lambda step: 0.9**step))),
    "never stepped": (Severity.FAIL, scheduled(lambda o, total, per: CosineAnnealingLR(o, total), never=True)),
    "cycles by mistake": (
        Severity.WARN,
        scheduled(lambda o, total, per: CosineAnnealingLR(o, max(2, total // per // 2))),
    ),
    "warm-up to the end": (
        Severity.WARN,
        scheduled(lambda o, total, per: LinearLR(o, start_factor=0.01, total_iters=total)),
    ),
    "zero for the last third": (
        Severity.WARN,
        scheduled(lambda o, total, per: LambdaLR(o, lambda step: max(0.0, 1 - 1.5 * step / total))),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_over_the_true_steps(name: str) -> None:
    wanted, procedure = SCHEDULES[name]
    assert severity("schedule", subject(procedure)) is wanted


def test_a_long_schedule_is_run_with_shorter_epochs() -> None:
    class Long(Procedure):
        def training_order(self, examples: int, epoch: int) -> list[Tensor]:
            return [torch.arange(2)] * 20_000

    hp = Hyperparameters(schedule=ScheduleConfig(kind="cosine"))
    finding = run("schedule", subject(Long, hp=hp))
    assert finding.severity is Severity.PASS
    assert "in 600000 steps" in finding.statistic


@pytest.mark.filterwarnings("ignore:Detected call of")
def test_pytorchs_warning_about_the_order_is_passed_on() -> None:
    class Early(Procedure):
        def train_epoch(
            self, model: nn.Module, optimizer: optim.Optimizer, scheduler: LRScheduler, dataset: Any, epoch: int
        ) -> float:
            scheduler.step()
            return super().train_epoch(model, optimizer, scheduler, dataset, epoch)

    assert severity("scheduler_order", subject(Early)) is Severity.WARN


def evaluating(collect: Any) -> type[Procedure]:
    class Evaluating(Procedure):
        def evaluate(self, model: nn.Module, dataset: Any) -> dict[str, float]:
            scores: dict[str, float] = collect(self, model, dataset)
            return scores

    return Evaluating


def by_batches(procedure: Procedure, model: nn.Module, dataset: Any) -> list[dict[str, float]]:
    predictions, targets = predict(procedure.task, model, dataset, procedure.trainer)
    pairs = zip(predictions.split(64), targets.split(64), strict=True)
    return [procedure.task.score(*pair) for pair in pairs]


def averaged(procedure: Procedure, model: nn.Module, dataset: Any) -> dict[str, float]:
    found = by_batches(procedure, model, dataset)
    return {name: sum(scores[name] for scores in found) / len(found) for name in found[0]}


def first_half(procedure: Procedure, model: nn.Module, dataset: Any) -> dict[str, float]:
    return Procedure.evaluate(procedure, model, Subset(dataset, range(size(dataset) // 2)))


def in_training_mode(procedure: Procedure, model: nn.Module, dataset: Any) -> dict[str, float]:
    predictions, targets = [], []
    with torch.no_grad():
        for inputs, some in procedure.loader(dataset, train=False):
            predictions.append(procedure.task.predictions(model(inputs)))
            targets.append(some)
    return procedure.task.score(torch.cat(predictions), torch.cat(targets))


@pytest.mark.parametrize(
    "collect", [lambda p, m, d: by_batches(p, m, d)[-1], averaged, first_half], ids=["last", "mean of means", "half"]
)
def test_scores_of_a_part_are_blocked(collect: Any) -> None:
    assert severity("evaluation", subject(evaluating(collect))) is Severity.FAIL


def test_evaluation_in_training_mode_is_blocked() -> None:
    under_test = subject(evaluating(in_training_mode), BlobsWithNorm)
    assert severity("evaluation_mode", under_test) is Severity.FAIL
    assert severity("evaluation_side_effects", under_test) is Severity.FAIL
    # Without dropout or batch norm it makes no difference.
    assert severity("evaluation_mode", subject(evaluating(in_training_mode), Line)) is Severity.PASS


def test_targets_of_other_examples_are_blocked() -> None:
    class Misaligned(Procedure):
        def loader(self, dataset: Any, train: bool, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            for inputs, targets in super().loader(dataset, train, epoch):
                yield inputs, targets.roll(1, 0)

    assert severity("loader_pairs", subject(Misaligned)) is Severity.FAIL


def ordered(order: Any) -> Severity:
    class Ordered(Procedure):
        def training_order(self, examples: int, epoch: int) -> list[Tensor]:
            batches: list[Tensor] = order(examples)
            return batches

    return severity("epoch_coverage", subject(Ordered))


def test_an_epoch_must_show_the_data() -> None:
    assert ordered(lambda n: [torch.arange(32)] * (n // 32)) is Severity.FAIL
    assert ordered(lambda n: list(torch.arange(n // 3).split(32))) is Severity.WARN
    assert ordered(lambda n: [torch.arange(n) + 1]) is Severity.FAIL
    sampler = list(WeightedRandomSampler(torch.ones(300), 300, generator=torch.Generator().manual_seed(0)))
    assert ordered(lambda n: list(torch.tensor(sampler).split(32))) is Severity.PASS


def test_accumulation_is_checked_where_it_is_used() -> None:
    def found(task: Task, **trainer: Any) -> Severity:
        return severity("accumulation", Subject(task, FAST, trainer=TrainerConfig(**trainer)))

    class Weighted(Blobs):
        def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
            weight = torch.tensor([0.1, 1.0, 10.0])
            return nn.functional.cross_entropy(outputs, targets, weight=weight)

    assert found(Blobs()) is Severity.SKIPPED
    assert found(Blobs(), microbatch_size=8) is Severity.PASS
    assert found(Weighted(), microbatch_size=8) is Severity.WARN
