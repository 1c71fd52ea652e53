"""Tasks that break their promises, each at one point of the protocol; named by import path in the tests."""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from orchestrator import ClassificationTask, Direction, Splits


def part(count: int = 30, width: int = 5) -> TensorDataset:
    generator = torch.Generator().manual_seed(count)
    inputs = torch.randn(count, width, generator=generator)
    return TensorDataset(inputs, (inputs[:, 0] > 0).long())


class Good(ClassificationTask):
    """What the others change."""

    def splits(self) -> Any:
        return Splits(part(30), part(20), part(10))

    def model(self, width: int = 8) -> Any:
        return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, 2))


def with_train(train: Any) -> Any:
    return Splits(train, part(20), part(10))


class Listed(Dataset[Any]):
    """A data set of given items."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield torch.zeros(5), 0


# --- statements


class NoDirections(Good):
    directions = {"loss": "min"}


class IdleText(Good):
    without_effect = "loss.label_smoothing"


class BuiltBadly(Good):
    def __init__(self) -> None:
        raise FileNotFoundError("no such file: data.csv")


class BuiltWithTypo(Good):
    def __init__(self) -> None:
        len(3)


# --- splits


class SplitsRaises(Good):
    def splits(self) -> Any:
        raise FileNotFoundError("no such file: data.csv\nlook elsewhere")


class SplitsTuple(Good):
    def splits(self) -> Any:
        return part(30), part(20), part(10)


class SplitsNone(Good):
    def splits(self) -> Any:
        pass


class TrainNone(Good):
    def splits(self) -> Any:
        return with_train(None)


class TrainGenerator(Good):
    def splits(self) -> Any:
        return with_train((torch.zeros(5), 0) for _ in range(9))


class TrainStream(Good):
    def splits(self) -> Any:
        return with_train(Stream())


class TrainTensor(Good):
    def splits(self) -> Any:
        return with_train(torch.zeros(30, 5))


class TrainPath(Good):
    def splits(self) -> Any:
        return with_train("data/train.csv")


class TrainEmpty(Good):
    def splits(self) -> Any:
        return with_train(part(0))


class ValidationEmpty(Good):
    def splits(self) -> Any:
        return Splits(part(30), part(0), part(10))


class TestEmpty(Good):
    def splits(self) -> Any:
        return Splits(part(30), part(20), part(0))


class ItemsAlone(Good):
    def splits(self) -> Any:
        return with_train(Listed([torch.zeros(5)] * 9))


class ItemsDict(Good):
    def splits(self) -> Any:
        return with_train(Listed([{"input": torch.zeros(5), "target": 0}] * 9))


class ItemsTriple(Good):
    def splits(self) -> Any:
        return with_train(Listed([(torch.zeros(5), 0, 1.0)] * 9))


class ItemsText(Good):
    def splits(self) -> Any:
        return with_train(Listed([("a sentence", 0)] * 9))


class TargetText(Good):
    def splits(self) -> Any:
        return with_train(Listed([(torch.zeros(5), "cat")] * 9))


class TargetNone(Good):
    def splits(self) -> Any:
        return with_train(Listed([(torch.zeros(5), None)] * 9))


class ItemsRagged(Good):
    def splits(self) -> Any:
        return with_train(Listed([(torch.zeros(5 + index), 0) for index in range(9)]))


class ItemsRaise(Good):
    def splits(self) -> Any:
        class Broken(Listed):
            def __getitem__(self, index: int) -> Any:
                raise KeyError(f"row {index}")

        return with_train(Broken([0] * 9))


class ItemsObject(Good):
    def splits(self) -> Any:
        return with_train(Listed([(object(), 0)] * 9))


class ValidationNarrow(Good):
    def splits(self) -> Any:
        return Splits(part(30), part(20, width=4), part(10))


# --- model


class ModelRaises(Good):
    def model(self, width: int = 8) -> Any:
        return nn.Linear(5, nope)  # noqa: F821


class ModelNone(Good):
    def model(self, width: int = 8) -> Any:
        super().model(width)


class ModelClass(Good):
    def model(self, width: int = 8) -> Any:
        return nn.Linear


class ModelFunction(Good):
    def model(self, width: int = 8) -> Any:
        return lambda inputs: inputs


class ModelBare(Good):
    def model(self, width: int = 8) -> Any:
        return nn.Sequential(nn.Flatten(), nn.ReLU())


class ModelFrozen(Good):
    def model(self, width: int = 8) -> Any:
        return super().model(width).requires_grad_(False)


class ModelLazy(Good):
    def model(self, width: int = 8) -> Any:
        return nn.LazyLinear(2)


class ModelNarrow(Good):
    def model(self, width: int = 8) -> Any:
        return nn.Linear(7, 2)


class OutputsTuple(Good):
    def model(self, width: int = 8) -> Any:
        class Two(nn.Linear):
            def forward(self, inputs: Tensor) -> Any:
                return super().forward(inputs), None

        return Two(5, 2)


class OutputsMean(Good):
    def model(self, width: int = 8) -> Any:
        class Mean(nn.Linear):
            def forward(self, inputs: Tensor) -> Tensor:
                return super().forward(inputs).mean(dim=0, keepdim=True)

        return Mean(5, 2)


# --- loss


class LossRaises(Good):
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Any:
        return nn.functional.binary_cross_entropy_with_logits(outputs, targets)


class LossWithoutSmoothing(Good):
    def loss(self, outputs: Tensor, targets: Tensor) -> Any:
        return nn.functional.cross_entropy(outputs, targets)


class LossFloat(Good):
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Any:
        return nn.functional.cross_entropy(outputs, targets).item()


class LossNone(Good):
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Any:
        nn.functional.cross_entropy(outputs, targets)


class LossEach(Good):
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Any:
        return nn.functional.cross_entropy(outputs, targets, reduction="none")


class LossWhole(Good):
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Any:
        return (outputs.argmax(dim=1) != targets).sum()


class LossDetached(Good):
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Any:
        return nn.functional.cross_entropy(outputs.detach(), targets)


# --- predictions


class PredictionsRaise(Good):
    def predictions(self, outputs: Tensor) -> Any:
        return outputs.softmax(dim=2)


class PredictionsNumpy(Good):
    def predictions(self, outputs: Tensor) -> Any:
        return outputs.numpy()


class PredictionsWhole(Good):
    def predictions(self, outputs: Tensor) -> Any:
        return outputs.argmax(dim=1)


class PredictionsMean(Good):
    def predictions(self, outputs: Tensor) -> Any:
        return outputs.double().mean()


# --- score


class ScoreRaises(Good):
    def score(self, predictions: Tensor, targets: Tensor) -> Any:
        return {"loss": 1.0, "accuracy": float((predictions == targets).mean())}


class ScoreFloat(Good):
    def score(self, predictions: Tensor, targets: Tensor) -> Any:
        return 0.5


class ScoreNone(Good):
    def score(self, predictions: Tensor, targets: Tensor) -> Any:
        pass


class Scored(Good):
    """Its loss is ``found``."""

    found: ClassVar[Any] = None

    def score(self, predictions: Tensor, targets: Tensor) -> Any:
        return {"loss": self.found, "accuracy": 0.5}


class ScoreMissing(Good):
    def score(self, predictions: Tensor, targets: Tensor) -> Any:
        return {"loss": 0.5, "acuracy": 0.5}


class ScoreOfNone(Scored):
    found = None


class ScoreOfText(Scored):
    found = "0.5"


class ScoreOfNan(Scored):
    found = float("nan")


class ScoreOfArray(Scored):
    found = np.zeros(3)


class ScoreOfVector(Scored):
    found = torch.zeros(3)


class ScoreOfList(Scored):
    found: ClassVar[Any] = [0.5]


class ScoreOfComplex(Scored):
    found = 1j


class ScoreOnMeta(Scored):
    """A tensor on a device without values."""

    found = torch.zeros((), device="meta")


# --- augment


class AugmentNone(Good):
    def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> Any:
        inputs += strength


class AugmentOne(Good):
    def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> Any:
        return inputs


class AugmentMore(Good):
    def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> Any:
        return torch.cat([inputs, inputs]), targets


class AugmentRaises(Good):
    def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> Any:
        return inputs.rotate(strength), targets


# --- right, however unusual


class Unusual(Good):
    """Scores as tensors and NumPy numbers, data as lists, one of the scores without a meaning in a small part."""

    directions: ClassVar[Any] = {"loss": Direction.MINIMIZE, "extra": Direction.MAXIMIZE}

    def model(self, width: int = 8, norm: Any = None, sizes: Any = (8, 8)) -> Any:
        return super().model(width)

    def splits(self) -> Any:
        def listed(count: int) -> list[Any]:
            return [(torch.randn(5), index % 2) for index in range(count)]

        return Splits(Listed(listed(30)), Listed(listed(2000)), Listed(listed(10)))

    def score(self, predictions: Tensor, targets: Tensor) -> Any:
        known = super().score(predictions, targets)["loss"]
        few = np.float32("nan") if len(targets) < 2000 else np.float32(1)
        return {"loss": torch.tensor([known]), "extra": few}
