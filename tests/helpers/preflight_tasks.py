"""Small tasks and faults for the checks of code and learning."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.registry import checks
from orchestrator.preflight.report import Finding, Severity
from orchestrator.preflight.run import run_check
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task
from orchestrator.types import Direction

F = nn.functional


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def three(make: Callable[[int], tuple[Tensor, Tensor]]) -> Splits:
    return Splits(*(TensorDataset(*make(seed)) for seed in (1, 2, 3)))


class Blobs(ClassificationTask):
    """Three classes in eight dimensions, decided by a random linear map and a bend."""

    def splits(self) -> Splits:
        weights = draw(0, 8, 3)

        def make(seed: int) -> tuple[Tensor, Tensor]:
            inputs = draw(seed, 300, 8)
            return inputs, (inputs @ weights + (inputs[:, :3] ** 2)).argmax(dim=1)

        return three(make)

    def model(self, width: int = 16, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(
            nn.Linear(8, width),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, 3),
        )


class Line(RegressionTask):
    """Two values from eight inputs."""

    def splits(self) -> Splits:
        weights = draw(0, 8, 2) / 3

        def make(seed: int) -> tuple[Tensor, Tensor]:
            inputs = draw(seed, 300, 8)
            return inputs, torch.tanh(inputs @ weights) * 1.5 + 0.1 * draw(seed + 10, 300, 2)

        return three(make)

    def model(self, width: int = 16) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(nn.Linear(8, width), nn.Tanh(), nn.Linear(width, 2))


class Labels(Task):
    """Two yes-or-no labels per example; no base class of ours beside Task."""

    multi_label = True

    def splits(self) -> Splits:
        weights = draw(0, 8, 2)

        def make(seed: int) -> tuple[Tensor, Tensor]:
            inputs = draw(seed, 300, 8)
            return inputs, (inputs @ weights > 0).float()

        return three(make)

    def model(self, width: int = 16) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(nn.Linear(8, width), nn.ReLU(), nn.Linear(width, 2))

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return F.binary_cross_entropy_with_logits(outputs, targets)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().sigmoid()

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        return {"loss": float(F.binary_cross_entropy(predictions, targets.double()))}


class CausalNet(nn.Module):
    """Each position mixes its past through a masked mean of embeddings."""

    def __init__(self, ahead: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.mix = nn.Linear(32, 32)
        self.head = nn.Linear(32, 12)
        self.ahead = ahead

    def forward(self, tokens: Tensor) -> Tensor:
        state = self.embedding(tokens)
        mask = torch.ones(tokens.shape[1], tokens.shape[1], dtype=state.dtype).tril(self.ahead)
        past = (mask / mask.sum(dim=1, keepdim=True)) @ state
        result: Tensor = self.head(torch.relu(self.mix(torch.cat([state, past], dim=-1))))
        return result


class Counting(Task):
    """Next-token prediction: each token is the last one plus the step of its sequence."""

    causal = True
    ahead = 0
    shift = 1

    def splits(self) -> Splits:
        def make(seed: int) -> tuple[Tensor, Tensor]:
            generator = torch.Generator().manual_seed(seed)
            start = torch.randint(0, 12, (300, 1), generator=generator)
            step = torch.randint(1, 3, (300, 1), generator=generator)
            rows = (start + step * torch.arange(9)) % 12
            return rows[:, :8], rows[:, self.shift : 8 + self.shift]

        return three(make)

    def model(self, **hyperparameters: Any) -> nn.Module:
        return CausalNet(self.ahead)

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        return F.cross_entropy(outputs.transpose(1, 2), targets, label_smoothing=label_smoothing)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.double().softmax(dim=-1)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        likelihood = predictions.gather(-1, targets[..., None]).clamp_min(1e-300)
        return {"loss": float(-likelihood.log().mean())}


class Pairs(Task):
    """A contrastive loss over a batch of two views each."""

    mixes_batch = True

    def splits(self) -> Splits:
        def make(seed: int) -> tuple[Tensor, Tensor]:
            inputs = draw(seed, 200, 8)
            return inputs, (inputs[:, 0] > 0).long()

        return three(make)

    def model(self, **hyperparameters: Any) -> nn.Module:
        return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        unit = F.normalize(outputs, dim=1)
        nearness = unit @ unit.T * 5 - 1e4 * torch.eye(len(unit))
        same = (targets[:, None] == targets).float().fill_diagonal_(0)
        return -(nearness.log_softmax(dim=1) * same).sum() / same.sum().clamp_min(1)

    def predictions(self, outputs: Tensor) -> Tensor:
        return F.normalize(outputs.double(), dim=1)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        return {"loss": float(self.loss(predictions.float(), targets))}


class BlobsWithNorm(Blobs):
    """Blobs with batch norm and dropout."""

    def model(self, width: int = 16, dropout: float = 0.1) -> nn.Module:  # type: ignore[override]
        return nn.Sequential(
            nn.Linear(8, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout), nn.Linear(width, 3)
        )


HEALTHY: tuple[type[Task], ...] = (Blobs, BlobsWithNorm, Line, Labels, Counting, Pairs)


class Wrapped(nn.Module):
    """A network with something done to its outputs."""

    def __init__(self, body: nn.Module, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.body, self.change = body, change

    def forward(self, inputs: Tensor) -> Tensor:
        return self.change(self.body(inputs))


def with_outputs(base: type[Task], change: Callable[[Tensor], Tensor]) -> Task:
    """The task with ``change`` at the end of its network."""

    class Changed(base):  # type: ignore[misc,valid-type]
        def model(self, **hyperparameters: Any) -> nn.Module:
            return Wrapped(super().model(**hyperparameters), change)

    return Changed()


def with_model(base: type[Task], change: Callable[[nn.Module], Any]) -> Task:
    """The task whose new networks are changed in place."""

    class Changed(base):  # type: ignore[misc,valid-type]
        def model(self, **hyperparameters: Any) -> nn.Module:
            model = super().model(**hyperparameters)
            with torch.no_grad():
                change(model)
            return model

    return Changed()


def with_loss(base: type[Task], formula: Callable[[Tensor, Tensor], Tensor]) -> Task:
    """The task with another loss."""

    class Changed(base):  # type: ignore[misc,valid-type]
        def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
            return formula(outputs, targets)

    return Changed()


def with_attributes(base: type[Task], **attributes: Any) -> Task:
    """The task with other class attributes."""
    return type("Changed", (base,), attributes)()


def with_training_targets(base: type[Task], change: Callable[[Tensor], Tensor]) -> Task:
    """The task with other targets in its training split."""

    class Changed(base):  # type: ignore[misc,valid-type]
        def splits(self) -> Splits:
            splits = super().splits()
            inputs, targets = splits.train.tensors
            return Splits(TensorDataset(inputs, change(targets)), splits.validation, splits.test)

    return Changed()


def run(name: str, subject: Subject | Task, settings: CheckSettings | None = None) -> Finding:
    """The gravest finding of one check."""
    subject = subject if isinstance(subject, Subject) else Subject(subject)
    (row,) = [row for row in checks() if row.name == name]
    return max(run_check(row, subject, settings or CheckSettings()), key=lambda finding: finding.severity.rank)


def severity(name: str, subject: Subject | Task) -> Severity:
    return run(name, subject).severity


UPSIDE_DOWN = {"loss": Direction.MAXIMIZE, "accuracy": Direction.MAXIMIZE}
