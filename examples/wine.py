"""Your own task, whole: which cultivar is a wine from? (178 wines, 3 cultivars, 4 of 13 measurements.)"""

from itertools import pairwise

import torch
from sklearn.datasets import load_wine
from torch import nn
from torch.utils.data import TensorDataset

from orchestrator import ClassificationTask, Splits


class Wine(ClassificationTask):
    """A classification task needs its data and a model; loss, scores and predictions are inherited."""

    def splits(self) -> Splits:
        """60 % training, 20 % validation, 20 % test; scaled by the training part's mean and deviation."""
        inputs, targets = (torch.tensor(values) for values in load_wine(return_X_y=True))
        parts = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)).split([107, 35, 36])
        known = inputs[parts[0], :4]
        inputs = ((inputs[:, :4] - known.mean(dim=0)) / known.std(dim=0)).float()
        return Splits(*(TensorDataset(inputs[part], targets[part]) for part in parts))

    def model(self, width: int = 32, depth: int = 1) -> nn.Module:  # type: ignore[override]
        """The arguments are the hyperparameters ``model.*``; the search knows ``width`` and ``depth``."""
        sizes = [4, *[width] * depth]
        hidden = [layer for size, next_ in pairwise(sizes) for layer in (nn.Linear(size, next_), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(sizes[-1], 3))
