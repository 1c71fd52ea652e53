"""What every shipped task promises; see orchestrator/tasks/base.py."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

from orchestrator.tasks.arrays import SHARES, divide, standardised
from orchestrator.tasks.base import ClassificationTask, Splits, Task
from orchestrator.tasks.digits import DigitsCNN, DigitsMLP
from orchestrator.tasks.loading import model_defaults
from orchestrator.tasks.tabular import BreastCancer, Diabetes

SOURCES: dict[type[Task], Any] = {
    DigitsMLP: load_digits,
    DigitsCNN: load_digits,
    BreastCancer: load_breast_cancer,
    Diabetes: load_diabetes,
}

every_task = pytest.mark.parametrize("kind", SOURCES)
classification = pytest.mark.parametrize("kind", [DigitsMLP, DigitsCNN, BreastCancer])
tables = pytest.mark.parametrize("kind", [BreastCancer, Diabetes])


def tensors(part: Any) -> tuple[Tensor, Tensor]:
    assert isinstance(part, TensorDataset)
    inputs, targets = part.tensors
    return inputs, targets


def parts(splits: Splits) -> list[tuple[Tensor, Tensor]]:
    return [tensors(part) for part in (splits.train, splits.validation, splits.test)]


def outputs_of(task: Task, examples: int = 16, **hyperparameters: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    inputs, targets = tensors(task.splits().validation)
    return task.model(**hyperparameters).eval()(inputs[:examples]), targets[:examples]


@every_task
def test_the_splits_divide_the_data(kind: type[Task]) -> None:
    source = SOURCES[kind]()
    rows = np.asarray(source.data).reshape(len(source.target), -1)
    found = parts(kind().splits())
    assert [len(targets) / len(rows) for _, targets in found] == pytest.approx(SHARES, abs=0.01)
    assert sum(len(targets) for _, targets in found) == len(rows)
    # With the right total, an example in two parts would leave another one out.
    flat = torch.cat([inputs.flatten(1) for inputs, _ in found])
    assert len(torch.unique(flat, dim=0)) == len(np.unique(rows.astype(np.float32), axis=0))
    every_target = torch.cat([targets.flatten() for _, targets in found]).double()
    wanted = torch.as_tensor(np.asarray(source.target, dtype=np.float64))
    order, back = wanted.sort().values, every_target.sort().values
    # A scaled target keeps its order.
    assert torch.corrcoef(torch.stack([order, back]))[0, 1] == pytest.approx(1.0, abs=1e-6)


@every_task
def test_the_splits_are_the_same_at_every_call_and_change_with_the_split_seed(kind: type[Task]) -> None:
    one, again, other = (parts(task.splits()) for task in (kind(), kind(), kind(split_seed=1)))  # type: ignore[call-arg]
    for (inputs, targets), (same_inputs, same_targets) in zip(one, again, strict=True):
        assert torch.equal(inputs, same_inputs)
        assert torch.equal(targets, same_targets)
        assert inputs.dtype == torch.float32
    assert not torch.equal(one[0][1], other[0][1])


@every_task
def test_a_shipped_model_prepares_raw_inputs_as_the_splits_were(kind: type[Task]) -> None:
    source, task = SOURCES[kind](), kind()
    interface = task.interface()
    assert interface is not None
    # The table of diabetes comes scaled, unless it is asked for as it is.
    raw = (
        load_diabetes(scaled=False).data if kind is Diabetes else source.images if "images" in source else source.data
    )
    prepared = kind().prepare(torch.as_tensor(raw), interface.statistics)
    known = torch.cat([inputs for inputs, _ in parts(task.splits())])
    assert prepared.dtype == known.dtype
    order = [np.lexsort(values.flatten(1).numpy().T) for values in (prepared, known)]
    assert torch.equal(prepared[order[0]], known[order[1]])
    assert interface.example.shape[1:] == raw.shape[1:]
    assert len(interface.columns) in (0, raw.shape[1])
    assert len(interface.outputs) == task.model().eval()(prepared[:1]).shape[1]


def test_predicted_progression_comes_back_in_its_own_unit() -> None:
    task = Diabetes()
    interface = task.interface()
    assert interface is not None
    targets = torch.cat([targets for _, targets in parts(task.splits())]).double()
    found = task.restore(targets, interface.statistics).flatten().sort().values
    assert torch.allclose(found, torch.as_tensor(load_diabetes(scaled=False).target).sort().values, atol=1e-4)


@tables
def test_columns_are_scaled_by_training_statistics_only(kind: type[Task]) -> None:
    (train, _), (validation, _), (test, _) = parts(kind().splits())
    assert torch.allclose(train.mean(dim=0), torch.zeros(train.shape[1]), atol=1e-5)
    assert torch.allclose(train.std(dim=0, correction=0), torch.ones(train.shape[1]), atol=1e-4)
    # Not by those of all rows, or of their own.
    for part in (validation, test, torch.cat([train, validation, test])):
        assert (part.mean(dim=0).abs() > 1e-4).all()


@pytest.mark.parametrize("kind", [DigitsMLP, DigitsCNN])
def test_pixels_are_scaled_by_training_statistics_only(kind: type[Task]) -> None:
    (train, _), (validation, _), (test, _) = parts(kind().splits())
    assert train.shape[1:] == (1, 8, 8)
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert abs(float(torch.cat([validation, test]).mean())) > 1e-4


def test_the_regression_target_is_scaled_by_training_statistics_only() -> None:
    (_, train), (_, validation), _ = parts(Diabetes().splits())
    assert float(train.mean()) == pytest.approx(0, abs=1e-5)
    assert float(train.std(correction=0)) == pytest.approx(1, abs=1e-5)
    assert abs(float(validation.mean())) > 1e-3


@classification
def test_classes_have_the_same_shares_in_every_part(kind: type[Task]) -> None:
    shares = [torch.bincount(targets) / len(targets) for _, targets in parts(kind().splits())]
    for share in shares[1:]:
        assert torch.allclose(share, shares[0], atol=0.01)


@every_task
def test_width_and_depth_change_the_model(kind: type[Task]) -> None:
    task = kind()

    def size(**hyperparameters: Any) -> int:
        return sum(parameter.numel() for parameter in task.model(**hyperparameters).parameters())

    assert size(width=4, depth=1) < size(width=8, depth=1) < size(width=8, depth=2) < size(width=8, depth=3)
    assert {"width", "depth", "dropout"} <= model_defaults(task, {}).keys()
    defaults = model_defaults(task, {})
    assert size() == size(**defaults)
    dropped = task.model(dropout=0.5)
    assert {module.p for module in dropped.modules() if isinstance(module, torch.nn.Dropout)} == {0.5}


@every_task
def test_the_loss_is_a_scalar_with_a_gradient_and_the_mean_over_the_batch(kind: type[Task]) -> None:
    task = kind()
    outputs, targets = outputs_of(task)
    loss = task.loss(outputs, targets)
    assert loss.shape == ()
    assert loss.requires_grad
    loss, outputs = loss.detach(), outputs.detach()
    each = [float(task.loss(outputs[i : i + 1], targets[i : i + 1])) for i in range(len(targets))]
    assert float(loss) == pytest.approx(sum(each) / len(each), rel=1e-5)


@every_task
def test_scores_are_what_directions_names(kind: type[Task]) -> None:
    task = kind()
    inputs, targets = tensors(task.splits().validation)
    torch.manual_seed(0)
    with torch.inference_mode():
        predictions = task.predictions(task.model().eval()(inputs))
    assert predictions.dtype == torch.float64
    assert len(predictions) == len(targets)
    scores = task.score(predictions, targets)
    assert scores.keys() == task.directions.keys()
    assert task.objective in scores
    assert all(type(value) is float and math.isfinite(value) for value in scores.values())


@every_task
def test_the_validation_loss_is_the_unsmoothed_training_loss(kind: type[Task]) -> None:
    task = kind()
    outputs, targets = outputs_of(task, examples=80)
    outputs = outputs.detach()
    score = task.score(task.predictions(outputs), targets)["loss"]
    assert score == pytest.approx(float(task.loss(outputs, targets)), rel=1e-5)


@classification
def test_label_smoothing_raises_the_training_loss_of_a_sure_model(kind: type[Task]) -> None:
    task = kind()
    outputs, targets = outputs_of(task)
    sure = torch.nn.functional.one_hot(targets, outputs.shape[1]) * 20.0
    assert float(task.loss(sure, targets)) < 1e-6
    assert float(task.loss(sure, targets, label_smoothing=0.1)) > 0.5
    smoothed = task.loss(outputs, targets, label_smoothing=0.1)
    wanted = torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)
    assert torch.equal(smoothed, wanted)


@classification
def test_predictions_are_probabilities(kind: type[Task]) -> None:
    task = kind()
    outputs, _ = outputs_of(task)
    predictions = task.predictions(outputs)
    assert torch.allclose(predictions.sum(dim=1), torch.ones(len(predictions), dtype=torch.float64))
    assert (predictions >= 0).all()


def test_a_surely_wrong_prediction_still_has_a_finite_score() -> None:
    task = DigitsMLP()
    predictions = torch.zeros(2, 10, dtype=torch.float64)
    predictions[:, 0] = 1.0
    scores = task.score(predictions, torch.tensor([0, 1]))
    assert scores["accuracy"] == 0.5
    assert 300 < scores["loss"] < 400


def test_scores_of_known_predictions() -> None:
    probabilities = torch.tensor([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.7, 0.3]], dtype=torch.float64)
    scores = BreastCancer().score(probabilities, torch.tensor([0, 0, 1, 1]))
    assert scores["loss"] == pytest.approx(-sum(map(math.log, (0.9, 0.6, 0.8, 0.3))) / 4)
    assert scores["accuracy"] == 0.75
    assert scores["balanced_accuracy"] == pytest.approx((1 + 0.5) / 2)
    # Of the four pairs (malignant, benign), one is in the wrong order.
    assert scores["roc_auc"] == pytest.approx(0.75)

    task = Diabetes()
    targets = torch.tensor([[0.0], [1.0], [2.0]])
    scores = task.score(torch.tensor([[0.0], [1.0], [1.0]], dtype=torch.float64), targets)
    assert scores["loss"] == pytest.approx(1 / 3)
    assert scores["r2"] == pytest.approx(1 - (1 / 3) / (2 / 3))
    rows = load_diabetes(scaled=False).target
    train = rows[divide(len(rows), 0)[0]]
    assert scores["rmse"] == pytest.approx(train.std() * (1 / 3) ** 0.5)


@pytest.mark.parametrize("kind", [DigitsMLP, DigitsCNN])
def test_augmentation_shifts_some_images_and_keeps_the_rest(kind: type[Task]) -> None:
    task = kind()
    inputs, targets = tensors(task.splits().train)
    before = inputs.clone()
    for seed in range(8):
        torch.manual_seed(seed)
        changed, same = task.augment(inputs, targets, 0.5)
        assert changed.shape == inputs.shape
        assert changed.dtype == inputs.dtype
        assert torch.equal(same, targets)
        assert torch.equal(inputs, before)
        moved = (changed != inputs).flatten(1).any(dim=1).double().mean()
        assert moved == 0 or 0.4 < moved < 0.6
        # A shift changes no pixel's value, only its place.
        assert torch.equal(changed.flatten(1).sort().values, inputs.flatten(1).sort().values)
    seeds = []
    for seed in range(8):
        torch.manual_seed(seed)
        seeds.append(task.augment(inputs, targets, 1.0)[0])
    assert any(not torch.equal(one, seeds[0]) for one in seeds)


@tables
def test_a_task_without_augmentation_says_so(kind: type[Task]) -> None:
    task = kind()
    inputs, targets = tensors(task.splits().train)
    with pytest.raises(NotImplementedError, match=f"{kind.__name__} has no augmentation"):
        task.augment(inputs, targets, 0.5)


def test_a_constant_column_is_centred_and_stays_finite() -> None:
    values = np.array([[1.0, 5.0], [3.0, 5.0], [5.0, 5.0], [100.0, 9.0]])
    scaled = standardised(values, np.array([0, 1, 2]))
    assert np.isfinite(scaled).all()
    assert scaled[:, 1].tolist() == [0, 0, 0, 4]


def test_the_direction_is_the_objectives() -> None:
    class Accurate(DigitsMLP):
        objective = "accuracy"

    assert issubclass(Accurate, ClassificationTask)
    assert Accurate().direction.better(0.9, 0.1)
    assert DigitsMLP().direction.better(0.1, 0.9)
