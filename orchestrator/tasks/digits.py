"""Handwritten digits (scikit-learn's, 1,797 images of 8x8 pixels; Alpaydin & Kaynak 1998)."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from orchestrator.tasks.arrays import divide, standardised_by, tensor_splits
from orchestrator.tasks.base import ClassificationTask, Interface, Splits
from orchestrator.tasks.networks import MLP, ConvNet


class _Digits(ClassificationTask):
    def __init__(self, split_seed: int = 0) -> None:
        self.split_seed = split_seed

    def splits(self) -> Splits:
        """Images (1, 8, 8), scaled by the mean and deviation of all training pixels."""
        data = load_digits()
        parts = divide(len(data.target), self.split_seed, data.target)
        scaled = self.prepare(torch.as_tensor(data.images), _statistics(data.images[parts[0]]))
        return tensor_splits(scaled, data.target, parts)

    def interface(self) -> Interface:
        """Images (8, 8) of brightness 0 to 16, to the digits' probabilities."""
        data = load_digits()
        images = data.images[divide(len(data.target), self.split_seed, data.target)[0]]
        names = tuple(str(digit) for digit in range(10))
        return Interface(torch.as_tensor(images[:5]), outputs=names, statistics=_statistics(images))

    def prepare(self, raw: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """A channel for each image; scaled."""
        return standardised_by(statistics, raw[:, None])

    def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Shift the share ``strength`` of the images by one pixel in one of eight directions."""
        down, right = (int(step) for step in torch.randint(-1, 2, (2,)))
        chosen = torch.rand(len(inputs), device=inputs.device) < strength
        moved = torch.roll(inputs, (down, right), dims=(2, 3))
        return torch.where(chosen[:, None, None, None], moved, inputs), targets


def _statistics(images: np.ndarray) -> Mapping[str, Tensor]:
    return {"mean": torch.tensor(images.mean()), "deviation": torch.tensor(images.std())}


class DigitsMLP(_Digits):
    """Digits with a multilayer perceptron."""

    def model(self, width: int = 64, depth: int = 2, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
        """See :class:`~orchestrator.tasks.networks.MLP`."""
        return MLP(64, 10, width=width, depth=depth, dropout=dropout)


class DigitsCNN(_Digits):
    """Digits with a small convolutional network."""

    def model(self, width: int = 16, depth: int = 2, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
        """See :class:`~orchestrator.tasks.networks.ConvNet`."""
        return ConvNet(1, 10, width=width, depth=depth, dropout=dropout)
