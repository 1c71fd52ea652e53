"""Healthy tasks on sequences: recurrent classifiers, a causal language model, padding, a causal forecast."""

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.mutations.images import Images
from benchmarks.mutations.networks import CausalConvolution, LanguageModel, MaskedAttention, RowGRU, TokenLSTM
from orchestrator.tasks.arrays import divide, tensor_splits
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task
from orchestrator.types import Direction


class Rows(Images):
    """A digit as a sequence of eight rows."""

    def splits(self) -> Splits:
        images, targets, parts = self.arrays()
        return tensor_splits(images[:, 0], targets, parts)

    def model(self, width: int = 48) -> nn.Module:
        return RowGRU(10, width)


class Tokens(ClassificationTask):
    """Which of four topics a sequence of 12 tokens is about: topics differ in how often they use a token."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        random = np.random.default_rng(self.seed)
        topics = random.dirichlet(np.full(40, 0.3), size=4)
        targets = random.integers(0, 4, 1200)
        tokens = np.stack([random.choice(40, size=12, p=topics[topic]) for topic in targets])
        parts = divide(1200, self.seed, targets)
        return token_splits(tokens, targets, parts)

    def model(self, width: int = 32) -> nn.Module:
        return TokenLSTM(40, 4, width)


class Language(Task):
    """Next token of a second-order Markov chain over 12 tokens: the last two tokens decide."""

    causal = True
    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE, "accuracy": Direction.MAXIMIZE}
    tokens, length = 12, 20

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def text(self) -> np.ndarray:
        random = np.random.default_rng(self.seed)
        chain = random.dirichlet(np.full(self.tokens, 0.1), size=(self.tokens, self.tokens)).cumsum(axis=-1)
        text = random.integers(0, self.tokens, (1200, self.length + 1))
        for place in range(2, self.length + 1):
            draws = random.random((len(text), 1))
            following = (draws > chain[text[:, place - 2], text[:, place - 1]]).sum(axis=1)
            text[:, place] = following.clip(max=self.tokens - 1)
        return text

    def splits(self) -> Splits:
        text = self.text()
        return token_splits(text[:, :-1], text[:, 1:], divide(len(text), self.seed))

    def model(self, width: int = 32) -> nn.Module:
        return LanguageModel(self.tokens, self.length, width)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        flat = outputs.reshape(-1, self.tokens)
        return nn.functional.cross_entropy(flat, targets.reshape(-1), label_smoothing=label_smoothing)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().softmax(dim=-1)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        likelihood = predictions.gather(-1, targets[..., None]).clamp_min(1e-300)
        right = (predictions.argmax(dim=-1) == targets).double().mean()
        return {"loss": float(-likelihood.log().mean()), "accuracy": float(right)}


class Padded(ClassificationTask):
    """Padded series with noise in the padding; the last of five channels says which steps are real."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        random = np.random.default_rng(self.seed)
        targets = random.integers(0, 3, 1200)
        lengths = random.integers(2, 13, 1200)
        series = random.normal(size=(1200, 12, 4))
        directions = random.normal(size=(3, 4))
        real = np.arange(12) < lengths[:, None]
        series += np.where(real[..., None], 0.8 * directions[targets][:, None], 0.0)
        series[~real] *= 3
        inputs = np.concatenate([series, real[..., None]], axis=2)
        return tensor_splits(inputs, targets, divide(1200, self.seed, targets))

    def model(self, width: int = 32) -> nn.Module:
        return MaskedAttention(4, 3, width)


class Forecast(RegressionTask):
    """The next value of a sine of unknown frequency and phase, at every step."""

    causal = True

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def splits(self) -> Splits:
        random = np.random.default_rng(self.seed)
        frequency, phase = random.uniform(0.5, 1.5, (600, 1)), random.uniform(0, 6.28, (600, 1))
        series = np.sin(frequency * np.arange(25) + phase) + 0.1 * random.normal(size=(600, 25))
        return tensor_splits(series[:, :-1, None], series[:, 1:, None], divide(600, self.seed))

    def model(self, width: int = 16) -> nn.Module:
        return CausalConvolution(width)


def token_splits(tokens: np.ndarray, targets: np.ndarray, parts: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Splits:
    """Like :func:`~orchestrator.tasks.arrays.tensor_splits`, for inputs that are token numbers."""
    splits = tensor_splits(np.zeros((len(tokens), 1)), targets.astype(np.int64), parts)
    sets = (splits.train, splits.validation, splits.test)
    for dataset, part in zip(sets, parts, strict=True):
        dataset.tensors = (_whole(tokens[part]), dataset.tensors[1])
    return splits


def _whole(values: np.ndarray) -> Tensor:
    return torch.as_tensor(values)
