"""Healthy tasks on scikit-learn's digits: convolutions, residuals, attention, pairs, segments, frozen features."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.mutations.networks import (
    DeepMLP,
    FrozenFeatures,
    PairEncoder,
    PatchAttention,
    PlainCNN,
    ResidualNet,
    Segmenter,
    TiedAutoencoder,
)
from orchestrator.tasks.arrays import divide, tensor_splits
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task
from orchestrator.types import Direction


class Images(ClassificationTask):
    """Digits as images (1, 8, 8), scaled by the mean and deviation of the training pixels."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def arrays(self) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        data = load_digits()
        parts = divide(len(data.target), self.seed, data.target)
        images = data.images[:, None]
        scaled = (images - images[parts[0]].mean()) / images[parts[0]].std()
        return scaled.astype(np.float32), data.target, parts

    def splits(self) -> Splits:
        return tensor_splits(*self.arrays())

    def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """Shift the share ``strength`` of the images by up to one pixel."""
        down, right = (int(step) for step in torch.randint(-1, 2, (2,)))
        chosen = torch.rand(len(inputs)) < strength
        moved = torch.roll(inputs, (down, right), dims=(2, 3))
        return torch.where(chosen[:, None, None, None], moved, inputs), targets

    def model(self, width: int = 16) -> nn.Module:
        return PlainCNN(10, width)


class Residual(Images):
    """Batch norm and residual branches that start at zero."""

    def model(self, width: int = 16) -> nn.Module:
        return ResidualNet(10, width)


class Attention(Images):
    """A vision transformer with dropout."""

    def model(self, width: int = 32, dropout: float = 0.1) -> nn.Module:
        return PatchAttention(10, width, dropout)


class Deep(Images):
    """Six hidden layers; at initialisation up to half of a layer's ReLUs are silent."""

    def model(self, width: int = 64, depth: int = 6) -> nn.Module:
        return DeepMLP(64, 10, width, depth)


class Frozen(Images):
    """A backbone of principal components that is frozen on purpose."""

    frozen = ("backbone.*",)

    def model(self, width: int = 32) -> nn.Module:
        images, _, parts = self.arrays()
        found = PCA(24, random_state=0, whiten=True).fit(images[parts[0]].reshape(-1, 64))
        directions = found.components_ / np.sqrt(found.explained_variance_)[:, None]
        return FrozenFeatures(torch.as_tensor(directions, dtype=torch.float32), 10, width)


class ItemImages(Dataset[Any]):
    """A data set that is not tensors in memory: items are read one by one."""

    def __init__(self, images: np.ndarray, targets: np.ndarray) -> None:
        self.images, self.targets = images, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.as_tensor(self.images[index]), int(self.targets[index])


class Items(Images):
    """The plain network fed item by item."""

    def splits(self) -> Splits:
        images, targets, parts = self.arrays()
        return Splits(*(ItemImages(images[part], targets[part]) for part in parts))


class Autoencoder(RegressionTask):
    """Reconstructs its own input through 32 units with tied weights; the target is the input on purpose."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        images, _, parts = Images(self.seed).arrays()
        return tensor_splits(images, images.reshape(len(images), -1), parts)

    def model(self, width: int = 32) -> nn.Module:
        return TiedAutoencoder(64, width)


class Segmentation(Task):
    """For each pixel of a noisy digit whether there is ink: outputs (n, 2, 8, 8), targets (n, 8, 8)."""

    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE, "pixel_accuracy": Direction.MAXIMIZE}

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        images = load_digits().images[:800, None]
        parts = divide(len(images), self.seed)
        noisy = images + 5 * np.random.default_rng(self.seed).normal(size=images.shape)
        scaled = (noisy - noisy[parts[0]].mean()) / noisy[parts[0]].std()
        return tensor_splits(scaled, (images[:, 0] > 7).astype(np.int64), parts)

    def model(self, width: int = 16) -> nn.Module:
        return Segmenter(width)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().softmax(dim=1)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        loss = nn.functional.nll_loss(predictions.clamp_min(1e-300).log(), targets)
        return {"loss": float(loss), "pixel_accuracy": float((predictions.argmax(1) == targets).double().mean())}


class Contrastive(Task):
    """Two noisy views of a digit must find each other in the batch (InfoNCE; van den Oord et al. 2018).

    The loss mixes the batch on purpose and never reads the targets, which are the digits' numbers.
    """

    mixes_batch = True
    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE, "pairs_found": Direction.MAXIMIZE}

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        images, targets, parts = Images(self.seed).arrays()
        random = np.random.default_rng(self.seed)
        flat = images.reshape(len(images), 1, 64)
        views = flat + 0.3 * random.normal(size=(len(flat), 2, 64))
        return tensor_splits(views, targets, parts)

    def model(self, width: int = 16) -> nn.Module:
        return PairEncoder(64, width)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        similarity = outputs[:, 0] @ outputs[:, 1].T / 0.2
        return nn.functional.cross_entropy(similarity, torch.arange(len(outputs), device=outputs.device))

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double()

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        found = [self._one(part) for part in predictions.split(64)]
        return {name: float(np.mean([one[name] for one in found])) for name in self.directions}

    def _one(self, part: Tensor) -> dict[str, float]:
        similarity = part[:, 0] @ part[:, 1].T / 0.2
        own = torch.arange(len(part))
        loss = nn.functional.cross_entropy(similarity, own)
        return {"loss": float(loss), "pairs_found": float((similarity.argmax(1) == own).double().mean())}
