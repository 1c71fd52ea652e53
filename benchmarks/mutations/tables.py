"""Healthy tasks on tables: small, imbalanced, weighted, multi-label, unscaled, counts, variances."""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from sklearn.datasets import (
    load_breast_cancer,
    load_wine,
    make_classification,
    make_friedman1,
    make_multilabel_classification,
)
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from benchmarks.mutations.networks import CategoryTable, DeepMLP
from orchestrator.tasks.arrays import divide, standardised, tensor_splits
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task
from orchestrator.tasks.networks import MLP
from orchestrator.types import Direction


class Wine(ClassificationTask):
    """Very small: 106 training rows of 13 measurements, three cultivars."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        data = load_wine()
        parts = divide(len(data.target), self.seed, data.target)
        return tensor_splits(standardised(data.data, parts[0]), data.target, parts)

    def model(self, width: int = 32, depth: int = 1, dropout: float = 0.2) -> nn.Module:
        return MLP(13, 3, width=width, depth=depth, dropout=dropout)


class _Tumours(ClassificationTask):
    """569 tumours, 30 measurements."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def table(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        return standardised(values, train)

    def splits(self) -> Splits:
        data = load_breast_cancer()
        parts = divide(len(data.target), self.seed, data.target)
        return tensor_splits(self.table(data.data, parts[0]), self.targets(data.target), parts)

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return labels

    def model(self, width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:
        return MLP(30, 2, width=width, depth=depth, dropout=dropout)


class RawBehindNorm(_Tumours):
    """Unscaled columns (deviations from 0.003 to 570), normalised by the network's own first layer."""

    def table(self, values: np.ndarray, train: np.ndarray) -> np.ndarray:
        return values

    def model(self, width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:
        return nn.Sequential(nn.BatchNorm1d(30), MLP(30, 2, width=width, depth=depth, dropout=dropout))


class BinaryLogit(_Tumours):
    """One logit per tumour and float targets (examples, 1): written from Task directly."""

    def targets(self, labels: np.ndarray) -> np.ndarray:
        return labels[:, None].astype(np.float32)

    def model(self, width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:
        return MLP(30, 1, width=width, depth=depth, dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().sigmoid()

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        loss = nn.functional.binary_cross_entropy(predictions.clamp(1e-12, 1 - 1e-12), targets.double())
        return {"loss": float(loss), "accuracy": float(((predictions > 0.5) == (targets > 0.5)).double().mean())}


class Imbalanced(ClassificationTask):
    """One example in fifty is positive; judged by the average precision as well."""

    directions: ClassVar[Mapping[str, Direction]] = {
        "loss": Direction.MINIMIZE,
        "average_precision": Direction.MAXIMIZE,
    }
    weights: ClassVar[tuple[float, float]] = (1.0, 1.0)

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        inputs, targets = make_classification(
            3000,
            12,
            n_informative=8,
            n_redundant=2,
            weights=[0.98],
            flip_y=0.0,
            class_sep=1.5,
            random_state=self.seed,
        )
        parts = divide(len(targets), self.seed, targets)
        return tensor_splits(standardised(inputs, parts[0]), targets.astype(np.int64), parts)

    def model(self, width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:
        return MLP(12, 2, width=width, depth=depth, dropout=dropout)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        precision = average_precision_score(targets.numpy(), predictions[:, 1].numpy())
        return {"loss": super().score(predictions, targets)["loss"], "average_precision": float(precision)}


class ClassWeights(Imbalanced):
    """The same with the rare class weighted five times; the validation loss stays unweighted."""

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        weights = torch.tensor([1.0, 5.0], device=outputs.device)
        return nn.functional.cross_entropy(outputs, targets, weights, label_smoothing=label_smoothing)


class MultiLabel(Task):
    """Any number of five labels per example."""

    multi_label = True
    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE, "label_accuracy": Direction.MAXIMIZE}

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        inputs, targets = make_multilabel_classification(1500, 20, n_classes=5, n_labels=2, random_state=self.seed)
        parts = divide(len(targets), self.seed)
        return tensor_splits(standardised(inputs, parts[0]), targets.astype(np.float32), parts)

    def model(self, width: int = 48, depth: int = 2) -> nn.Module:
        return MLP(20, 5, width=width, depth=depth, dropout=0.0)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.binary_cross_entropy_with_logits(outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().sigmoid()

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        loss = nn.functional.binary_cross_entropy(predictions.clamp(1e-12, 1 - 1e-12), targets.double())
        right = ((predictions > 0.5) == (targets > 0.5)).double().mean()
        return {"loss": float(loss), "label_accuracy": float(right)}


class CategoryColumns(ClassificationTask):
    """Two columns are category codes that the network embeds; random numbers in them would be an error."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        random = np.random.default_rng(self.seed)
        codes = random.integers(0, 8, (1500, 2))
        numbers = random.normal(size=(1500, 6))
        effects = random.normal(size=(2, 8))
        signal = effects[0][codes[:, 0]] + effects[1][codes[:, 1]] + numbers[:, 0] * numbers[:, 1] + numbers[:, 2]
        targets = np.digitize(signal + 0.3 * random.normal(size=1500), np.quantile(signal, [1 / 3, 2 / 3]))
        parts = divide(1500, self.seed, targets)
        return tensor_splits(np.hstack([codes, numbers]), targets, parts)

    def model(self, width: int = 48) -> nn.Module:
        return CategoryTable(8, 6, 3, width)


class _Friedman(RegressionTask):
    """Friedman's first function of 10 uniform columns, five of them noise (Friedman 1991)."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        inputs, targets = make_friedman1(1200, 10, noise=1.0, random_state=seed)
        self.parts = divide(1200, seed)
        self.inputs = standardised(inputs, self.parts[0])
        self.raw = targets.astype(np.float32)[:, None]
        train = self.raw[self.parts[0]]
        self.mean, self.deviation = float(train.mean()), float(train.std())

    def scaled(self) -> np.ndarray:
        return (self.raw - self.mean) / self.deviation

    def splits(self) -> Splits:
        return tensor_splits(self.inputs, self.scaled(), self.parts)

    def model(self, width: int = 48, depth: int = 2, dropout: float = 0.0) -> nn.Module:
        return MLP(10, 1, width=width, depth=depth, dropout=dropout)


class HuberRegression(_Friedman):
    """Trained with Huber's loss, judged by the squared error."""

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.huber_loss(outputs, targets)


class DeepRegression(_Friedman):
    """Six hidden layers with PyTorch's default initialisation."""

    def model(self, width: int = 48, depth: int = 6) -> nn.Module:
        return DeepMLP(10, 1, width, depth)


class RawTargets(_Friedman):
    """Targets in their own unit (mean 14, deviation 5); loss and predictions do the scaling."""

    def splits(self) -> Splits:
        return tensor_splits(self.inputs, self.raw, self.parts)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.mse_loss(outputs, (targets - self.mean) / self.deviation)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double() * self.deviation + self.mean


class NegativeTargets(RawTargets):
    """The same for targets that are all negative: -14 on average."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.raw, self.mean = -self.raw, -self.mean


class Pinball(_Friedman):
    """The ninth decile, by the pinball loss (Koenker & Bassett 1978)."""

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        error = targets - outputs
        return torch.maximum(0.9 * error, -0.1 * error).mean()

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        return {
            "loss": float(self.loss(predictions, targets.double())),
            "r2": super().score(predictions, targets)["r2"],
        }


class MeanAndVariance(_Friedman):
    """Two outputs, mean and log variance, for one target: the Gaussian negative log-likelihood."""

    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE, "r2": Direction.MAXIMIZE}

    def model(self, width: int = 48, depth: int = 2, dropout: float = 0.0) -> nn.Module:
        return MLP(10, 2, width=width, depth=depth, dropout=dropout)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.gaussian_nll_loss(outputs[:, :1], targets, outputs[:, 1:].exp())

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double()

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        mean, variance = predictions[:, :1], predictions[:, 1:].exp()
        loss = nn.functional.gaussian_nll_loss(mean, targets.double(), variance)
        return {"loss": float(loss), "r2": super().score(mean, targets)["r2"]}


class Counts(Task):
    """Poisson counts; the network gives the log rate, and the loss may be negative."""

    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE, "absolute_error": Direction.MINIMIZE}

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        random = np.random.default_rng(self.seed)
        inputs = random.normal(size=(1500, 8))
        rate = np.exp(1.0 + 0.6 * np.tanh(inputs[:, 0]) + 0.5 * np.sin(2 * inputs[:, 1]) + 0.4 * inputs[:, 2])
        parts = divide(1500, self.seed)
        return tensor_splits(standardised(inputs, parts[0]), random.poisson(rate).astype(np.float32)[:, None], parts)

    def model(self, width: int = 48, depth: int = 2) -> nn.Module:
        return MLP(8, 1, width=width, depth=depth, dropout=0.0)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.poisson_nll_loss(outputs, targets, log_input=True)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().exp()

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        loss = nn.functional.poisson_nll_loss(predictions, targets.double(), log_input=False)
        return {"loss": float(loss), "absolute_error": float((predictions - targets).abs().mean())}


class LogitBias(Imbalanced):
    """The rare class's base rate is set as the last bias, as the recipe advises (recipe.md C2)."""

    def model(self, width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:
        network = MLP(12, 2, width=width, depth=depth, dropout=dropout)
        with torch.no_grad():
            network.head.bias.copy_(torch.tensor([0.0, math.log(0.02 / 0.98)]))
        return network
