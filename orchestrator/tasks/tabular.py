"""Two tables that ship with scikit-learn."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from scipy.stats import rankdata
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import Tensor, nn

from orchestrator.tasks.arrays import divide, standardised, tensor_splits
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits
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
        return tensor_splits(standardised(data.data, parts[0]), data.target, parts)

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
        data = load_diabetes(scaled=False)
        self._parts = divide(len(data.target), split_seed)
        self._inputs = standardised(data.data, self._parts[0])
        train = data.target[self._parts[0]]
        self._deviation = float(train.std())
        self._targets = ((data.target - train.mean()) / train.std()).astype(np.float32)

    def splits(self) -> Splits:
        """Inputs and target standardised over the training rows."""
        return tensor_splits(self._inputs, self._targets[:, None], self._parts)

    def model(self, width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
        """See :class:`~orchestrator.tasks.networks.MLP`."""
        return MLP(10, 1, width=width, depth=depth, dropout=dropout)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Adds the root mean squared error in the target's own unit (a score from 25 to 346)."""
        scores = super().score(predictions, targets)
        return {**scores, "rmse": self._deviation * scores["loss"] ** 0.5}
