"""Tasks whose splits are changed, for the checks of data."""

from collections.abc import Callable
from typing import Any

import torch
from preflight_tasks import Blobs, draw
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task

Change = Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]


def changed(base: type[Task], change: Change, **attributes: Any) -> Task:
    """The task with ``change(split, inputs, targets)`` applied to each split."""

    class Changed(base):  # type: ignore[misc,valid-type]
        def splits(self) -> Splits:
            old = super().splits()
            return Splits(
                *(
                    TensorDataset(*change(name, *getattr(old, name).tensors))
                    for name in ("train", "validation", "test")
                )
            )

    for name, value in attributes.items():
        setattr(Changed, name, value)
    return Changed()


def only(split: str, change: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Change:
    """A change of one split."""
    return lambda name, inputs, targets: change(inputs, targets) if name == split else (inputs, targets)


class Slope(RegressionTask):
    """One number from eight inputs; the inputs are standardised by training, as users do."""

    def splits(self) -> Splits:
        weights = draw(0, 8, 1)
        parts = [draw(seed, count, 8) for seed, count in ((1, 300), (2, 150), (3, 150))]
        targets = [torch.tanh(part @ weights / 3) + 0.1 * draw(seed, len(part), 1) for seed, part in enumerate(parts)]
        mean, std = parts[0].mean(0), parts[0].std(0, correction=0)
        return Splits(*(TensorDataset((part - mean) / std, y) for part, y in zip(parts, targets, strict=True)))

    def model(self, width: int = 16) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 1))


class EasyBlobs(Blobs):
    """Three classes around distant centres: a classical model is right nearly always."""

    def splits(self) -> Splits:
        centres = 2 * draw(0, 3, 8)

        def make(seed: int) -> TensorDataset:
            targets = torch.randint(0, 3, (300,), generator=torch.Generator().manual_seed(seed))
            return TensorDataset(centres[targets] + draw(seed, 300, 8), targets)

        return Splits(make(1), make(2), make(3))


class Categories(ClassificationTask):
    """Six binary columns: 64 possible inputs, so that copies are natural, within and across splits."""

    def splits(self) -> Splits:
        def make(seed: int) -> TensorDataset:
            inputs = (draw(seed, 400, 6) > 0).float()
            noise = torch.rand(400, generator=torch.Generator().manual_seed(seed)) < 0.1
            return TensorDataset(inputs, ((inputs.sum(1) > 3) ^ noise).long())

        return Splits(make(1), make(2), make(3))

    def model(self, width: int = 16) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 2))


class Noisy(Dataset[Any]):
    """Adds noise at every read: from torch's global generator, or from one of its own that workers copy."""

    def __init__(self, dataset: TensorDataset, *, own: bool, size: float = 1.0) -> None:
        self.dataset, self.size = dataset, size
        self.generator = torch.Generator().manual_seed(0) if own else None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.dataset[index]
        return inputs + self.size * torch.randn(inputs.shape, generator=self.generator), targets
