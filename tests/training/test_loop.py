"""One epoch of training at a time: what a step does, what is measured, what is kept."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from orchestrator.config.hyperparameters import (
    DataConfig,
    Hyperparameters,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import InfeasibleTrialError
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task
from orchestrator.training.loop import Loop, predict
from orchestrator.training.schedules import multiplier
from orchestrator.types import Reason, TrialSpec


def blobs(examples: int, seed: int) -> TensorDataset:
    """Three classes that overlap."""
    generator = np.random.default_rng(seed)
    targets = np.arange(examples) % 3
    inputs = generator.normal(size=(examples, 4)) + targets[:, None]
    return TensorDataset(torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets))


SPLITS = Splits(blobs(60, 0), blobs(31, 1), blobs(10, 2))


class Blobs(ClassificationTask):
    def splits(self) -> Splits:
        return SPLITS

    def model(self, width: int = 8) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))


class Line(RegressionTask):
    def splits(self) -> Splits:
        raise AssertionError("not needed")

    def model(self) -> nn.Module:  # type: ignore[override]
        return nn.Linear(2, 1)


SGD = OptimizerConfig(name="sgd", lr=0.1)
BASE = Hyperparameters(optimizer=SGD, data=DataConfig(batch_size=20))
CPU = TrainerConfig(device="cpu")


def make(
    hyperparameters: Hyperparameters = BASE,
    *,
    task: Task | None = None,
    splits: Splits = SPLITS,
    config: TrainerConfig = CPU,
    epochs: int = 4,
    seed: int = 0,
) -> Loop:
    spec = TrialSpec(0, "lr", {}, seed=seed, epochs=epochs, directory=Path("unused"), keep=False)
    return Loop(task or Blobs(), splits, hyperparameters, config, spec)


def weights(loop: Loop) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in loop.model.parameters()])


def each_step(loop: Loop, look: Callable[[], Any]) -> list[Any]:
    """What ``look`` sees after each optimizer step from now on."""
    seen: list[Any] = []
    loop.optimizer.register_step_post_hook(lambda *_: seen.append(look()))
    return seen


def test_training_learns() -> None:
    loop = make(replace(BASE, optimizer=replace(SGD, lr=0.3)), epochs=20)
    results = [loop.run_epoch() for _ in range(20)]
    assert results[-1].metrics["train/loss"] < 0.7 * results[0].metrics["train/loss"]
    assert results[-1].metrics["val/accuracy"] > 0.6
    assert [result.epoch for result in results] == list(range(1, 21))
    assert all(result.value == result.metrics["val/loss"] for result in results)
    assert loop.finished


@pytest.mark.parametrize("kind", ["constant", "step", "linear", "cosine", "one_cycle"])
def test_the_schedule_counts_true_optimizer_steps(kind: str) -> None:
    schedule = ScheduleConfig(kind=kind, warmup=0.25, final=0.1)  # type: ignore[arg-type]
    # Five microbatches per step: a step is an update, not a forward pass.
    loop = make(replace(BASE, schedule=schedule), config=replace(CPU, microbatch_size=4))
    rates = each_step(loop, lambda: [group["lr"] for group in loop.optimizer.param_groups])
    results = [loop.run_epoch() for _ in range(4)]
    assert loop.total_steps == loop.step == 12
    wanted = [0.1 * multiplier(schedule, step, 12) for step in range(12)]
    assert rates == [[rate] * 2 for rate in wanted]
    assert [result.metrics["train/lr"] for result in results] == wanted[2::3]
    assert len(set(wanted)) > 3


def test_one_step_of_plain_descent_is_the_gradient_of_the_batch() -> None:
    inputs, targets = torch.tensor([[1.0, 2.0], [3.0, -1.0]]), torch.tensor([[1.0], [2.0]])
    data = TensorDataset(inputs, targets)
    loop = make(task=Line(), splits=Splits(data, data, data), epochs=1)
    before = {name: value.detach().clone() for name, value in loop.model.named_parameters()}
    result = loop.run_epoch()
    error = inputs @ before["weight"].T + before["bias"] - targets
    assert result.metrics["train/loss"] == pytest.approx(float(error.square().mean()), rel=1e-6)
    weight = before["weight"] - 0.1 * (2 * error * inputs).mean(dim=0)
    bias = before["bias"] - 0.1 * 2 * error.mean()
    torch.testing.assert_close(loop.model.weight.detach(), weight)
    torch.testing.assert_close(loop.model.bias.detach(), bias)
    norm = torch.cat([(before["weight"] - weight).flatten(), before["bias"] - bias]).norm() / 0.1
    assert result.metrics["train/grad_norm"] == pytest.approx(float(norm), rel=1e-5)


@pytest.mark.parametrize("part", [1, 7, 20, 64])
def test_gradients_of_parts_add_up_to_the_whole_batch(part: int) -> None:
    hyperparameters = replace(BASE, optimizer=replace(SGD, momentum=0.9))
    whole, parts = make(hyperparameters), make(hyperparameters, config=replace(CPU, microbatch_size=part))
    for _ in range(3):
        one, other = whole.run_epoch(), parts.run_epoch()
        assert other.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], abs=1e-6)
    torch.testing.assert_close(weights(parts), weights(whole), rtol=0, atol=1e-6)


@pytest.mark.parametrize("limit", [0.01, 0.2])
def test_clipping_bounds_the_update(limit: float) -> None:
    def moves(clip: float) -> tuple[list[float], float]:
        loop = make(replace(BASE, optimizer=replace(SGD, clip_norm=clip)), epochs=1)
        start = weights(loop)
        seen = each_step(loop, lambda: weights(loop))
        norm = loop.run_epoch().metrics["train/grad_norm"]
        path = [start, *seen]
        return [float((after - before).norm()) for before, after in itertools.pairwise(path)], norm

    free, _ = moves(0.0)
    clipped, norm = moves(limit)
    assert all(move > 0.1 * limit * 1.01 for move in free), "the bound would not bind"
    assert clipped == pytest.approx([0.1 * limit] * 3, rel=1e-4)
    # What is reported is the norm before clipping.
    assert norm > limit


def test_clipping_leaves_small_gradients_alone() -> None:
    free, clipped = make(), make(replace(BASE, optimizer=replace(SGD, clip_norm=1e6)))
    free.run_epoch()
    clipped.run_epoch()
    assert torch.equal(weights(free), weights(clipped))


def test_weight_decay_shrinks_the_weights() -> None:
    free, decayed = make(epochs=10), make(replace(BASE, optimizer=replace(SGD, weight_decay=0.5)), epochs=10)
    for _ in range(10):
        free.run_epoch()
        decayed.run_epoch()
    assert decayed.model[0].weight.norm() < free.model[0].weight.norm()


def test_the_average_of_the_weights_is_what_is_evaluated_and_kept() -> None:
    decay = 0.8
    loop = make(replace(BASE, optimizer=replace(SGD, ema_decay=decay)))
    steps = each_step(loop, lambda: weights(loop))
    result = loop.run_epoch()
    average = steps[0]
    for step in steps[1:]:
        average = decay * average + (1 - decay) * step
    assert loop.average is not None
    found = torch.cat([parameter.detach().flatten() for parameter in loop.average.module.parameters()])
    torch.testing.assert_close(found, average)
    assert not torch.allclose(found, weights(loop))

    task = Blobs()
    values = {
        who: task.score(*predict(task, model, SPLITS.validation, CPU))["loss"]
        for who, model in (("average", loop.average.module), ("last", loop.model))
    }
    assert result.value == values["average"] != values["last"]
    assert torch.equal(loop.best["model"]["0.weight"], loop.average.module[0].weight)


def test_the_average_does_not_change_the_training() -> None:
    plain, averaged = make(), make(replace(BASE, optimizer=replace(SGD, ema_decay=0.9)))
    plain.run_epoch()
    averaged.run_epoch()
    assert torch.equal(weights(plain), weights(averaged))


class Scripted(Blobs):
    """Scores that were written beforehand."""

    def __init__(self, values: list[float]) -> None:
        self.values = iter(values)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        return {"loss": next(self.values), "accuracy": 0.5}


def test_early_stopping_waits_its_patience_and_keeps_the_best_weights() -> None:
    task = Scripted([3.0, 1.0, 2.0, 1.0, 1.5, 0.0])
    loop = make(task=task, config=replace(CPU, patience=3), epochs=50)
    kept = []
    while not loop.finished:
        loop.run_epoch()
        kept.append({name: value.clone() for name, value in loop.model.state_dict().items()})
    # An equal value (epoch 4) is not better, so the third epoch without a better one is epoch 5.
    assert loop.epoch == 5
    assert (loop.best["epoch"], loop.best["value"]) == (2, 1.0)
    for name, value in loop.best["model"].items():
        assert torch.equal(value, kept[1][name])
    assert not torch.equal(kept[1]["0.weight"], kept[-1]["0.weight"])


def test_without_patience_the_budget_is_spent() -> None:
    loop = make(task=Scripted([1.0, 2.0, 3.0, 4.0]), epochs=4)
    while not loop.finished:
        loop.run_epoch()
    assert loop.epoch == 4


class Poisoned(Blobs):
    """The loss of the batch numbered ``at`` is not finite."""

    def __init__(self, at: int, value: float) -> None:
        self.at, self.value, self.calls = at, value, 0

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        self.calls += 1
        loss = super().loss(outputs, targets)
        return loss * self.value if self.calls == self.at else loss


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_ends_the_trial_before_the_update(value: float) -> None:
    loop = make(replace(BASE, optimizer=OptimizerConfig(name="adam", ema_decay=0.9)), task=Poisoned(3, value))
    seen = each_step(loop, lambda: weights(loop))
    with pytest.raises(InfeasibleTrialError, match="training loss") as caught:
        loop.run_epoch()
    assert caught.value.reason is Reason.NON_FINITE
    assert "epoch 1" in caught.value.detail
    assert len(seen) == 2
    assert torch.equal(weights(loop), seen[-1])
    assert weights(loop).isfinite().all()


def test_a_bad_part_of_a_batch_stops_the_whole_batch() -> None:
    loop = make(task=Poisoned(2, math.nan), config=replace(CPU, microbatch_size=10))
    before = weights(loop)
    with pytest.raises(InfeasibleTrialError):
        loop.run_epoch()
    assert torch.equal(weights(loop), before)


def test_a_diverging_rate_is_infeasible_not_a_value() -> None:
    loop = make(replace(BASE, optimizer=replace(SGD, lr=1e30)))
    with pytest.raises(InfeasibleTrialError) as caught:
        [loop.run_epoch() for _ in range(4)]
    assert caught.value.reason is Reason.NON_FINITE


def test_a_score_that_is_not_finite_ends_the_trial() -> None:
    loop = make(task=Scripted([math.nan]))
    with pytest.raises(InfeasibleTrialError, match="validation loss nan after epoch 1") as caught:
        loop.run_epoch()
    assert caught.value.reason is Reason.NON_FINITE


class Counting(Blobs):
    def __init__(self) -> None:
        self.scored: list[Tensor] = []

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        self.scored.append(targets)
        assert len(predictions) == len(targets)
        return super().score(predictions, targets)


@pytest.mark.parametrize("eval_batch_size", [1, 10, 30, 31, 5000])
def test_evaluation_sees_every_validation_example_once_whatever_its_batches(eval_batch_size: int) -> None:
    task = Counting()
    loop = make(task=task, config=replace(CPU, eval_batch_size=eval_batch_size))
    result = loop.run_epoch()
    [targets] = task.scored
    assert isinstance(SPLITS.validation, TensorDataset)
    assert torch.equal(targets, SPLITS.validation.tensors[1])
    assert result.value == pytest.approx(make().run_epoch().value, abs=1e-6)


def test_evaluation_changes_nothing() -> None:
    class Noisy(Blobs):
        def model(self) -> nn.Module:  # type: ignore[override]
            return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))

    loop = make(task=Noisy())
    loop.run_epoch()
    before = {name: value.clone() for name, value in loop.model.state_dict().items()}
    assert loop.evaluate() == loop.evaluate()
    assert all(torch.equal(value, before[name]) for name, value in loop.model.state_dict().items())


def test_label_smoothing_changes_the_training_and_never_the_validation_loss() -> None:
    frozen = replace(BASE, optimizer=replace(SGD, lr=1e-12))
    plain = make(frozen).run_epoch().metrics
    smooth = make(replace(frozen, loss=LossConfig(label_smoothing=0.3))).run_epoch().metrics
    assert smooth["train/loss"] != pytest.approx(plain["train/loss"], rel=1e-3)
    assert smooth["val/loss"] == pytest.approx(plain["val/loss"], rel=1e-6)


def test_augmentation_is_called_on_training_batches_only_and_only_if_asked() -> None:
    class Loud(Blobs):
        def __init__(self) -> None:
            self.strengths: list[float] = []
            self.seen = 0

        def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
            self.strengths.append(strength)
            self.seen += len(inputs)
            return inputs, targets

    task = Loud()
    make(task=task).run_epoch()
    assert task.strengths == []
    make(replace(BASE, data=DataConfig(batch_size=20, augmentation=0.4)), task=task).run_epoch()
    assert task.strengths == [0.4] * 3
    assert task.seen == 60


def test_the_seed_decides_everything() -> None:
    one, same, other = make(seed=0), make(seed=0), make(seed=1)
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))
    one.run_epoch()
    torch.rand(100)
    same.run_epoch()
    assert torch.equal(weights(one), weights(same))


class Items(Dataset[Any]):
    """The same examples, one by one."""

    def __init__(self, tensors: TensorDataset) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.tensors[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_training_is_the_same_from_a_data_set_of_any_kind(workers: int) -> None:
    class Dropping(Blobs):
        def model(self) -> nn.Module:  # type: ignore[override]
            return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.3), nn.Linear(8, 3))

    items = Splits(*(Items(part) for part in (SPLITS.train, SPLITS.validation, SPLITS.test)))  # type: ignore[arg-type]
    one = make(task=Dropping())
    other = make(task=Dropping(), splits=items, config=replace(CPU, data_workers=workers))
    for _ in range(2):
        assert one.run_epoch().value == other.run_epoch().value
    assert torch.equal(weights(one), weights(other))
