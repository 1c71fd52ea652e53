"""Your own task, whole: which cultivar is a wine from? (178 wines, 3 cultivars.)

Of the 13 measurements only four cheap ones are used; with all of them the question is too easy.

    python run.py stage=all task=custom task.name=wine task._target_=examples.wine.Wine
"""

import numpy as np
import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import TensorDataset

from orchestrator import ClassificationTask, Splits


class Wine(ClassificationTask):
    """A classification task needs its data and a model; loss, scores and predictions are inherited."""

    def splits(self) -> Splits:
        """60 % training, 20 % validation, 20 % test; scaled by the training part's mean and deviation."""
        data = load_wine()
        measured = data.data[:, :4]  # alcohol, malic acid, ash, alcalinity
        order = np.random.default_rng(0).permutation(len(data.target))
        parts = np.split(order, [107, 142])
        mean, deviation = measured[parts[0]].mean(axis=0), measured[parts[0]].std(axis=0)
        inputs = torch.tensor((measured - mean) / deviation, dtype=torch.float32)
        targets = torch.tensor(data.target)
        return Splits(*(TensorDataset(inputs[part], targets[part]) for part in parts))

    def model(self, width: int = 32, depth: int = 1) -> nn.Module:  # type: ignore[override]
        """The arguments are the hyperparameters ``model.*``; the search knows ``width`` and ``depth``."""
        layers: list[nn.Module] = []
        size = 4
        for _ in range(depth):
            layers += [nn.Linear(size, width), nn.ReLU()]
            size = width
        return nn.Sequential(*layers, nn.Linear(size, 3))
