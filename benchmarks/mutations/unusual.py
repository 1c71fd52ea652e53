"""Healthy tasks and trainings that are unusual but right: where checks built on habits raise false alarms."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from sklearn.datasets import load_iris
from torch import Tensor, nn, optim
from torch.optim.lr_scheduler import CosineAnnealingWarmRestarts, LRScheduler

from benchmarks.mutations.networks import LanguageModel
from benchmarks.mutations.sequences import Language, token_splits
from benchmarks.mutations.tables import Imbalanced
from orchestrator.preflight.procedure import Procedure
from orchestrator.tasks.arrays import divide, standardised, tensor_splits
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task
from orchestrator.tasks.networks import MLP
from orchestrator.types import Direction


class Iris(ClassificationTask):
    """90 flowers of which one measurement nearly tells the kind, and two are equal."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        data = load_iris()
        parts = divide(len(data.target), self.seed, data.target)
        return tensor_splits(standardised(data.data, parts[0]), data.target, parts)

    def model(self, width: int = 16) -> nn.Module:
        return MLP(4, 3, width=width, depth=1, dropout=0.0)


class SoftLabels(Task):
    """Targets are distributions over four classes: votes of ten annotators."""

    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE, "agreement": Direction.MAXIMIZE}

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        random = np.random.default_rng(self.seed)
        inputs = random.normal(size=(1200, 6))
        logits = 2 * np.tanh(inputs @ random.normal(size=(6, 8))) @ random.normal(size=(8, 4))
        chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        votes = np.stack([random.multinomial(10, chance) / 10 for chance in chances])
        return tensor_splits(inputs, votes.astype(np.float32), divide(1200, self.seed))

    def model(self, width: int = 48) -> nn.Module:
        return MLP(6, 4, width=width, depth=2, dropout=0.0)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().softmax(dim=1)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        loss = -(targets * predictions.clamp_min(1e-300).log()).sum(dim=1).mean()
        same = predictions.argmax(dim=1) == targets.argmax(dim=1)
        return {"loss": float(loss), "agreement": float(same.double().mean())}


class Focal(Imbalanced):
    """Focal down-weighting of easy examples (Lin et al. 2017)."""

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        cost = nn.functional.cross_entropy(outputs, targets, reduction="none")
        return ((1 - torch.exp(-cost)) ** 2 * cost).mean()


class Shares(RegressionTask):
    """Targets between 0 and 1 from a sigmoid output, by the absolute error."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        random = np.random.default_rng(self.seed)
        inputs = random.normal(size=(1200, 8))
        signal = np.sin(2 * inputs[:, 0]) + inputs[:, 1] * inputs[:, 2] + 0.2 * random.normal(size=1200)
        return tensor_splits(inputs, (1 / (1 + np.exp(-signal)))[:, None].astype(np.float32), divide(1200, self.seed))

    def model(self, width: int = 48) -> nn.Module:
        return nn.Sequential(MLP(8, 1, width=width, depth=2, dropout=0.0), nn.Sigmoid())

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return nn.functional.l1_loss(outputs, targets)


class PaddedLanguage(Language):
    """Texts of different lengths; padded targets are ignored by convention (-100)."""

    def splits(self) -> Splits:
        text = self.text()
        lengths = np.random.default_rng(self.seed + 1).integers(8, self.length + 1, len(text))
        inputs, targets = text[:, :-1].copy(), text[:, 1:].copy()
        padding = np.arange(self.length) >= lengths[:, None]
        inputs[padding], targets[padding] = self.tokens, -100
        return token_splits(inputs, targets, divide(len(text), self.seed))

    def model(self, width: int = 32) -> nn.Module:
        return LanguageModel(self.tokens + 1, self.length, width)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        flat = outputs.reshape(-1, self.tokens + 1)
        return nn.functional.cross_entropy(flat, targets.reshape(-1), label_smoothing=label_smoothing)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        real = targets >= 0
        return super().score(predictions[real], targets[real])


class Accumulating(Procedure):
    """Steps once per four batches, with the sum of their gradients."""

    def step(self, model: nn.Module, optimizer: optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
        count = getattr(self, "count", 0)
        if count % 4 == 0:
            optimizer.zero_grad()
        loss = self.task.loss(model(inputs), targets)
        torch.autograd.backward(loss / 4)
        self.count = count + 1
        if self.count % 4 == 0:
            optimizer.step()
        return loss.detach()

    def after_step(self, scheduler: LRScheduler) -> None:
        if getattr(self, "count", 0) % 4 == 0:
            scheduler.step()


class Balanced(Procedure):
    """Draws examples with replacement, rare classes as often as common ones."""

    def training_order(self, examples: int, epoch: int) -> list[Tensor]:
        targets = torch.stack([torch.as_tensor(target) for _, target in self.task.splits().train])
        weights = 1.0 / torch.bincount(targets)[targets].double()
        generator = torch.Generator().manual_seed(1000 * self.seed + epoch)
        drawn = torch.multinomial(weights, examples, replacement=True, generator=generator)
        return list(drawn.split(self.hyperparameters.data.batch_size))


class Restarts(Procedure):
    """Cosine schedule with warm restarts (Loshchilov & Hutter 2017), stepped after every batch."""

    def scheduler(self, optimizer: optim.Optimizer, total_steps: int, steps_per_epoch: int) -> Any:
        return CosineAnnealingWarmRestarts(optimizer, T_0=max(1, total_steps // 4))


class NoisyInputs(Procedure):
    """Adds noise to training inputs and averages the loss of two passes."""

    def step(self, model: nn.Module, optimizer: optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
        optimizer.zero_grad()
        losses = [self.task.loss(model(inputs + 0.1 * torch.randn_like(inputs)), targets) for _ in range(2)]
        loss = torch.stack(losses).mean()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.detach()
