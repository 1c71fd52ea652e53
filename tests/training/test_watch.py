"""The watch: what ends a trial, what only gets a label, and that looking changes nothing."""

import io
import math
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from orchestrator.config.hyperparameters import DataConfig, Hyperparameters, LossConfig, OptimizerConfig
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import InfeasibleTrialError
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task
from orchestrator.training.loop import Loop, predict
from orchestrator.training.watch import Watch, constant_loss, example_errors
from orchestrator.types import Reason, TrialSpec

CPU = TrainerConfig(device="cpu")


def table(examples: int, seed: int, *, noise: float = 1.0) -> TensorDataset:
    """Three overlapping classes in four columns."""
    generator = np.random.default_rng(seed)
    targets = np.arange(examples) % 3
    inputs = noise * generator.normal(size=(examples, 4)) + targets[:, None]
    return TensorDataset(torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets))


def numbers(examples: int, seed: int, *, offset: float = 0.0) -> TensorDataset:
    generator = np.random.default_rng(seed)
    inputs = generator.normal(size=(examples, 4))
    targets = inputs.sum(axis=1, keepdims=True) + offset
    return TensorDataset(torch.as_tensor(inputs, dtype=torch.float32), torch.as_tensor(targets, dtype=torch.float32))


class Classes(ClassificationTask):
    def __init__(self, make: Callable[[], nn.Module] | None = None) -> None:
        self.make = make or (lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)))

    def splits(self) -> Splits:
        return Splits(table(90, 0), table(60, 1), table(30, 2))

    def model(self) -> nn.Module:  # type: ignore[override]
        return self.make()


class Numbers(RegressionTask):
    def __init__(self, offset: float = 0.0) -> None:
        self.offset = offset

    def splits(self) -> Splits:
        return Splits(*(numbers(examples, seed, offset=self.offset) for seed, examples in enumerate((400, 60, 30))))

    def model(self) -> nn.Module:  # type: ignore[override]
        return nn.Linear(4, 1)


def loop_of(
    task: Task, *, lr: float = 0.1, epochs: int = 10, batch_size: int = 10, splits: Splits | None = None, **more: Any
) -> Loop:
    hyperparameters = Hyperparameters(
        optimizer=OptimizerConfig(name="sgd", lr=lr, **more), data=DataConfig(batch_size=batch_size)
    )
    spec = TrialSpec(0, "lr", {}, seed=0, epochs=epochs, directory=Path("unused"), keep=False)
    return Loop(task, splits or task.splits(), hyperparameters, CPU, spec)


def watch_of(task: Task, epochs: int = 10) -> tuple[Watch, nn.Module]:
    return Watch(task, task.splits().train, Hyperparameters(), epochs), task.model()


def feed(losses: Sequence[float], task: Task | None = None) -> None:
    watch, model = watch_of(task or Classes())
    for loss in losses:
        watch.step(loss, model)


def windows(*medians: float) -> list[float]:
    return [value for value in medians for _ in range(20)]


def test_a_loss_that_rises_above_twice_the_constant_predictor_ends_the_trial() -> None:
    with pytest.raises(
        InfeasibleTrialError, match=r"training loss 5 .*best constant prediction has 1\.099"
    ) as raised:
        feed(windows(1.1, 3.0, 5.0))
    assert raised.value.reason is Reason.DIVERGED


@pytest.mark.parametrize(
    ("losses", "why"),
    [
        (windows(1.1, 1.5, 2.1), "below twice the constant predictor"),
        (windows(1.1, 5.0, 4.0, 3.0, 2.5), "above, but falling"),
        (windows(9.0, 3.0, 4.0, 5.0), "the untrained network was worse still"),
        ([1.1, *([1.0] * 9 + [1e6]) * 12], "single minibatches"),
        (windows(1.1, 3.0), "two windows are not a rise"),
        ([1.1, *windows(-1.0, -0.5, 3.0, 4.0, 9.0)], "a loss below zero has no scale"),
    ],
)
def test_what_is_no_divergence(losses: list[float], why: str) -> None:
    feed(losses)


def test_a_wrongly_scaled_start_that_improves_slowly_is_no_divergence() -> None:
    # The best constant has a loss near 4; the run is far above it all the time, with a noisy loss.
    loop = loop_of(Numbers(offset=300.0), lr=1e-5, epochs=5)
    results = [loop.run_epoch() for _ in range(5)]
    assert results[-1].metrics["train/loss"] > 1e4


def test_a_learning_rate_just_too_large_ends_the_trial_with_its_reason() -> None:
    loop = loop_of(Numbers(), lr=0.9, epochs=20)
    with pytest.raises(InfeasibleTrialError, match="and rising") as raised:
        deque((loop.run_epoch() for _ in range(20)), maxlen=0)
    assert raised.value.reason is Reason.DIVERGED


def test_a_healthy_training_ends() -> None:
    loop = loop_of(Numbers(), lr=0.05, epochs=20)
    assert [loop.run_epoch() for _ in range(20)][-1].value < 0.01


def test_the_constant_predictor_of_cross_entropy_is_the_entropy_of_the_classes() -> None:
    task = Classes()
    targets = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    data = TensorDataset(torch.randn(100, 4), targets)
    shares = torch.tensor([0.6, 0.3, 0.1])
    entropy = float(-(shares * shares.log()).sum())
    assert constant_loss(task, task.model(), data, Hyperparameters()) == pytest.approx(entropy, rel=1e-5)
    smooth = 0.8 * shares + 0.2 / 3
    found = constant_loss(task, task.model(), data, Hyperparameters(loss=LossConfig(label_smoothing=0.2)))
    assert found == pytest.approx(float(-(smooth * smooth.log()).sum()), rel=1e-5)


def test_the_constant_predictor_of_squared_error_is_the_mean() -> None:
    task = Numbers(offset=300.0)
    targets = task.splits().train[:512][1]
    found = constant_loss(task, task.model(), task.splits().train, Hyperparameters())
    assert found == pytest.approx(float(targets.var(correction=0)), rel=1e-4)


def test_looking_for_the_constant_predictor_leaves_the_model_as_it_was() -> None:
    task = Classes(lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)))
    model = task.model().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    constant_loss(task, model, task.splits().train, Hyperparameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_flip_rate_is_the_share_of_examples_whose_class_changed() -> None:
    task = Classes()
    loop = loop_of(task, epochs=4)
    classes, rates = [], []
    for _ in range(4):
        rates.append(loop.run_epoch().metrics.get("watch/flip_rate"))
        classes.append(predict(task, loop.model, loop.splits.validation, CPU)[0].argmax(dim=1))
    wanted = [float((a != b).double().mean()) for a, b in pairwise(classes)]
    assert rates == [None, *map(pytest.approx, wanted)]
    assert max(wanted) > 0


def test_the_change_of_predicted_values_is_in_deviations_of_the_targets() -> None:
    task = Numbers()
    loop = loop_of(task, lr=0.01, epochs=3)
    loop.run_epoch()
    before, targets = predict(task, loop.model, loop.splits.validation, CPU)
    metrics = loop.run_epoch().metrics
    after, _ = predict(task, loop.model, loop.splits.validation, CPU)
    wanted = float((after - before).square().mean().sqrt() / targets.double().std())
    assert metrics["watch/prediction_change"] == pytest.approx(wanted)
    assert "watch/flip_rate" not in metrics


class Dead(nn.Module):
    """``dead`` of 10 hidden units never fire; functional ReLU, and an input column that is constant."""

    def __init__(self, dead: int, norm: bool = False) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 10), nn.Linear(10, 3)
        self.norm = nn.BatchNorm1d(10) if norm else nn.Identity()
        with torch.no_grad():
            self.first.bias.fill_(50.0)
            self.first.bias[:dead] = -50.0

    def forward(self, inputs: Tensor) -> Tensor:
        return self.last(self.norm(functional.relu(self.first(inputs))))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("dead", [0, 3, 10])
def test_dead_units_are_counted_where_a_layer_reads_them(dead: int, norm: bool) -> None:
    def constant_column(data: TensorDataset) -> TensorDataset:
        inputs, targets = data.tensors
        inputs[:, 0] = 0.0
        return TensorDataset(inputs, targets)

    splits = Splits(*(constant_column(table(60, seed)) for seed in range(3)))
    loop = loop_of(Classes(lambda: Dead(dead, norm)), lr=1e-6, epochs=2, splits=splits)
    assert loop.run_epoch().metrics["watch/dead_units"] == pytest.approx(dead / 10)


def test_dead_channels_of_a_convolution_are_counted() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten(), nn.Linear(32, 3))
    first = network[0]
    assert isinstance(first, nn.Conv2d)
    assert first.bias is not None
    with torch.no_grad():
        first.bias.copy_(torch.tensor([-50.0, -50.0, 50.0, 50.0]))
    data = TensorDataset(torch.randn(20, 1, 8, 8), torch.arange(20) % 3)
    loop = loop_of(Classes(lambda: network), lr=1e-6, epochs=1, splits=Splits(data, data, data))
    assert loop.run_epoch().metrics["watch/dead_units"] == pytest.approx(2 / 36)


def test_units_are_looked_at_about_ten_times_in_a_trial() -> None:
    loop = loop_of(Classes(), epochs=40)
    looks = [epoch for epoch in range(1, 41) if "watch/dead_units" in loop.run_epoch().metrics]
    assert looks == list(range(4, 41, 4))
    assert not any(module._forward_pre_hooks for module in loop.model.modules())


def test_a_fused_transformer_evaluates_with_the_same_bits() -> None:
    def network() -> nn.Module:
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        return nn.Sequential(nn.Unflatten(1, (4, 1)), nn.Linear(1, 8), encoder, nn.Flatten(), nn.Linear(32, 3))

    task = Classes(network)
    loop = loop_of(task, epochs=1)
    scores = loop.run_epoch().metrics
    predictions, targets = predict(task, loop.model, loop.splits.validation, CPU)
    assert scores["val/loss"] == task.score(predictions, targets)["loss"]


def test_overfitting_is_a_label_that_comes_after_a_lasting_rise() -> None:
    task = Classes(lambda: nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 3)))
    splits = Splits(table(30, 0, noise=4.0), table(300, 1, noise=4.0), table(3, 2))
    loop = loop_of(task, lr=0.5, epochs=60, splits=splits)
    metrics = [loop.run_epoch().metrics for _ in range(60)]
    labels = [found["watch/overfitting"] for found in metrics]
    losses = [found["val/loss"] for found in metrics]
    assert sorted(labels) == labels
    assert labels[-1] == 1.0
    # Three rises at least between the best epoch and the label.
    best = losses.index(min(losses))
    assert labels.index(1.0) >= best + 3
    assert metrics[-1]["train/loss"] < metrics[best]["train/loss"]


def test_noise_around_a_plateau_is_not_called_overfitting() -> None:
    watch, _ = watch_of(Classes())
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(300) % 3
    base = torch.randn(300, 3, generator=generator, dtype=torch.float64)
    for epoch in range(200):
        noisy = base + 0.3 * torch.randn(300, 3, generator=generator, dtype=torch.float64)
        watch.evaluated(noisy.softmax(dim=1), targets)
        found = watch.end_epoch(train_loss=1.0 / (epoch + 1))
    assert found["watch/overfitting"] == 0.0


def test_a_worse_validation_while_training_gets_worse_too_is_not_overfitting() -> None:
    watch, _ = watch_of(Classes())
    targets = torch.arange(300) % 3
    right = functional.one_hot(targets, 3).double()
    for epoch, sure in enumerate([3.0, 2.0, 1.0, 0.5, 0.2]):
        watch.evaluated((sure * right).softmax(dim=1), targets)
        found = watch.end_epoch(train_loss=1.0 + epoch)
    assert found["watch/overfitting"] == 0.0


@pytest.mark.parametrize(
    ("shape", "target_shape", "classes"), [((6, 3), (6,), 1), ((6, 5, 3), (6, 5), 2), ((6, 3, 5), (6, 5), 1)]
)
def test_the_error_of_an_example_is_the_mean_cross_entropy_of_its_places(
    shape: tuple[int, ...], target_shape: tuple[int, ...], classes: int
) -> None:
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(3, target_shape, generator=torch.Generator().manual_seed(1))
    found = example_errors(logits.softmax(dim=classes), targets, classes)
    each = functional.cross_entropy(logits.movedim(classes, 1), targets, reduction="none")
    assert found is not None
    assert torch.allclose(found, each.reshape(6, -1).mean(dim=1))


def test_predictions_of_another_shape_than_the_targets_are_not_judged() -> None:
    watch, _ = watch_of(Classes())
    for _ in range(2):
        watch.evaluated(torch.randn(10, 32, dtype=torch.float64), torch.randn(10))
        assert watch.end_epoch(train_loss=1.0) == {}


def test_the_share_of_clipped_steps() -> None:
    assert loop_of(Classes(), clip_norm=1e-6).run_epoch().metrics["train/clipped"] == 1.0
    assert loop_of(Classes(), clip_norm=1e6).run_epoch().metrics["train/clipped"] == 0.0
    assert "train/clipped" not in loop_of(Classes()).run_epoch().metrics
    norms = loop_of(Classes(), batch_size=90).run_epoch().metrics["train/grad_norm"]
    assert loop_of(Classes(), batch_size=90, clip_norm=0.9 * norms).run_epoch().metrics["train/clipped"] == 1.0


class Off:
    """Watches nothing."""

    step = evaluated = lambda self, *_: None
    units = lambda self, *_: nullcontext()  # noqa: E731
    end_epoch = lambda self, *_: {}  # noqa: E731


def test_watching_does_not_change_the_training() -> None:
    task = Classes(
        lambda: nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(), nn.Linear(8, 3))
    )
    watched, blind = (loop_of(task, epochs=3) for _ in range(2))
    blind.watch = Off()  # type: ignore[assignment]
    for _ in range(3):
        seen, unseen = watched.run_epoch(), blind.run_epoch()
        assert seen.value == unseen.value
        assert unseen.metrics.keys() < seen.metrics.keys()
    other = blind.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in watched.model.state_dict().items())


def test_the_watch_goes_on_from_a_checkpoint() -> None:
    splits = Splits(table(30, 0, noise=4.0), table(60, 1, noise=4.0), table(3, 2))
    whole, half = (loop_of(Classes(), lr=0.5, epochs=30, splits=splits) for _ in range(2))
    wanted = [whole.run_epoch().metrics for _ in range(30)]
    for _ in range(13):
        half.run_epoch()
    file = io.BytesIO()
    torch.save(half.state(), file)
    file.seek(0)
    rest = loop_of(Classes(), lr=0.5, epochs=30, splits=splits)
    rest.restore(torch.load(file, weights_only=True))
    found = [rest.run_epoch().metrics for _ in range(17)]
    for one, other in zip(found, wanted[13:], strict=True):
        assert {name: value for name, value in one.items() if name != "seconds"} == {
            name: value for name, value in other.items() if name != "seconds"
        }


def test_windows_go_on_from_a_checkpoint() -> None:
    first, model = watch_of(Classes())
    losses = windows(1.1, 3.0, 5.0)
    for loss in losses[:47]:
        first.step(loss, model)
    second, _ = watch_of(Classes())
    second.restore(first.state())
    for loss in losses[47:59]:
        second.step(loss, model)
    with pytest.raises(InfeasibleTrialError):
        second.step(losses[59], model)


def test_a_loss_without_a_finite_value_at_a_constant_is_not_judged_by_it() -> None:
    class Strange(Classes):
        def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
            return outputs.log().sum() * 0 + 1 / outputs.std()

    task = Strange()
    assert constant_loss(task, task.model(), task.splits().train, Hyperparameters()) == math.inf
    feed(windows(1.1, 30.0, 50.0), task)
