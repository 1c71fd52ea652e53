"""Two tables that ship with scikit-learn."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from scipy.stats import rankdata
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import Tensor, nn

from orchestrator.tasks.arrays import column_statistics, divide, standardised_by, tensor_splits
from orchestrator.tasks.base import ClassificationTask, Interface, RegressionTask, Splits
from orchestrator.tasks.networks import MLP
from orchestrator.types import Direction


class BreastCancer(ClassificationTask):
    """Malignant or benign from 30 measurements of 569 tumours (Wolberg et al. 1995); 37 % malignant."""

    directions: ClassVar[Mapping[str, Direction]] = {
        **ClassificationTask.directions,
        "balanced_accuracy": Direction.MAXIMIZE,
        "roc_auc": Direction.MAXIMIZE,
    }

    def __init__(self, split_seed: int = 0) -> None:
        self.split_seed = split_seed

    def splits(self) -> Splits:
        """Columns standardised over the training rows."""
        data = load_breast_cancer()
        parts = divide(len(data.target), self.split_seed, data.target)
        inputs = self.prepare(torch.as_tensor(data.data), column_statistics(data.data, parts[0]))
        return tensor_splits(inputs, data.target, parts)

    def interface(self) -> Interface:
        """The measurements in their own units, to the probabilities of both."""
        data = load_breast_cancer()
        train = divide(len(data.target), self.split_seed, data.target)[0]
        names = tuple(map(str, data.target_names))
        return Interface(
            torch.as_tensor(data.data[train[:5]]),
            tuple(map(str, data.feature_names)),
            names,
            column_statistics(data.data, train),
        )

    def prepare(self, raw: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """Columns standardised."""
        return standardised_by(statistics, raw)

    def model(self, width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
        """See :class:`~orchestrator.tasks.networks.MLP`."""
        return MLP(30, 2, width=width, depth=depth, dropout=dropout)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Adds what imbalance calls for: the mean recall of the classes, and the area under the ROC curve."""
        predicted = predictions.argmax(dim=1)
        recalls = [float((predicted[targets == label] == label).double().mean()) for label in (0, 1)]
        area = _roc_auc(targets.numpy() == 1, predictions[:, 1].numpy())
        return {
            **super().score(predictions, targets),
            "balanced_accuracy": sum(recalls) / 2,
            "roc_auc": area,
        }


def _roc_auc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve as the Mann-Whitney statistic (scikit-learn's takes 5 ms, an epoch 10)."""
    count = int(positive.sum())
    ranks = float(rankdata(scores)[positive].sum())
    return (ranks - count * (count + 1) / 2) / (count * (len(positive) - count))


class Diabetes(RegressionTask):
    """Disease progression after one year from 10 measurements of 442 patients (Efron et al. 2004)."""

    directions: ClassVar[Mapping[str, Direction]] = {**RegressionTask.directions, "rmse": Direction.MINIMIZE}

    def __init__(self, split_seed: int = 0) -> None:
        self.split_seed = split_seed

    @cached_property
    def _table(self) -> tuple[Any, tuple[np.ndarray, np.ndarray, np.ndarray], Mapping[str, Tensor]]:
        """The data in its own units, its parts, and statistics of inputs and target."""
        data = load_diabetes(scaled=False)
        parts = divide(len(data.target), self.split_seed)
        target = data.target[parts[0]]
        statistics = {
            **column_statistics(data.data, parts[0]),
            "target_mean": torch.tensor(target.mean()),
            "target_deviation": torch.tensor(target.std()),
        }
        return data, parts, statistics

    def splits(self) -> Splits:
        """Inputs and target standardised over the training rows."""
        data, parts, statistics = self._table
        mean, deviation = float(statistics["target_mean"]), float(statistics["target_deviation"])
        inputs = self.prepare(torch.as_tensor(data.data), statistics)
        return tensor_splits(inputs, ((data.target - mean) / deviation)[:, None], parts)

    def interface(self) -> Interface:
        """The measurements in their own units, to the progression in its own."""
        data, parts, statistics = self._table
        example = torch.as_tensor(data.data[parts[0][:5]])
        return Interface(example, tuple(data.feature_names), ("progression",), statistics)

    def prepare(self, raw: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """Columns standardised."""
        return standardised_by(statistics, raw)

    def restore(self, predictions: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """The progression in its own unit."""
        return predictions * statistics["target_deviation"] + statistics["target_mean"]

    def model(self, width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
        """See :class:`~orchestrator.tasks.networks.MLP`."""
        return MLP(10, 1, width=width, depth=depth, dropout=dropout)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Adds the root mean squared error in the target's own unit (a score from 25 to 346)."""
        scores = super().score(predictions, targets)
        return {**scores, "rmse": float(self._table[2]["target_deviation"]) * scores["loss"] ** 0.5}
