"""What a user brings: the task protocol, and bases for the two common kinds.

A task is a class with five methods. :class:`ClassificationTask` and :class:`RegressionTask` leave two
of them to write: ``splits`` and ``model``. Workers build the task anew from its import path and
arguments, so it must not depend on anything else.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from orchestrator.types import Direction


@dataclass(frozen=True)
class Splits:
    """The data. Each item of a data set is a pair (input, target); statistics come from ``train`` only."""

    train: Dataset[Any]
    validation: Dataset[Any]
    test: Dataset[Any]
    """Read once, by the ensemble stage."""


@dataclass(frozen=True)
class Interface:
    """What a shipped model takes and gives, where that is not what the splits hold; kept with the model."""

    example: Tensor
    """A few inputs as users have them, before any preparation; first axis examples."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a table, in order; empty: the inputs are no table."""
    outputs: tuple[str, ...] = ()
    """Names of what is predicted, in order: the classes, or the values; empty: they have none."""
    statistics: Mapping[str, Tensor] = field(default_factory=dict)
    """What :meth:`Task.prepare` and :meth:`Task.restore` need to know of the training split."""


class Task(ABC):
    """Data, model, loss and metrics of one problem.

    It is also built where a shipped model predicts, and the data is not there: so its constructor must not need
    the data, and ``model``, ``predictions``, ``prepare`` and ``restore`` must not either.
    """

    objective: ClassVar[str] = "loss"
    """Which of the scores is optimised."""
    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE}
    """Every score and which way it is better."""

    without_effect: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that this kind of task ignores: no stage searches them."""

    # What preflight must know and cannot see. Class or instance attributes; each changes which checks apply.
    causal: bool = False
    """The output at a position may depend on inputs up to that position only (axis 1 is the position)."""
    mixes_batch: bool = False
    """An example's output or loss depends on purpose on the other examples of its batch (contrastive losses)."""
    frozen: tuple[str, ...] = ()
    """Parameters that are not trained on purpose: shell patterns of their names (``backbone.*``)."""
    pretrained: bool = False
    """The new model already holds trained weights, so that its first loss says nothing."""
    multi_label: bool = False
    """Targets (examples, labels) of 0 and 1, where an example may carry any number of labels."""

    @abstractmethod
    def splits(self) -> Splits:
        """The three data sets, the same at every call."""

    @abstractmethod
    def model(self, **hyperparameters: Any) -> nn.Module:
        """A new network with random weights.

        Its keyword arguments are the hyperparameters ``model.*``; their defaults are the defaults of
        the search. ``model(inputs)`` takes a batch of inputs and gives the outputs.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """The training loss: a scalar, the mean over the batch."""

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """How far ``outputs`` are from a teacher's predictions of the same examples: a scalar, the mean.

        Args:
            outputs: of the network.
            teacher: what ``predictions`` gives, of the teacher.
            temperature: see :class:`~orchestrator.config.hyperparameters.DistillConfig`.
        """
        raise NotImplementedError

    @abstractmethod
    def predictions(self, outputs: Tensor) -> Tensor:
        """What an ensemble averages: probabilities, or predicted values; float64, first axis examples."""

    @abstractmethod
    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """The scores named in ``directions`` over all examples of a split at once."""

    def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        """A randomly changed training batch; called only where ``data.augmentation`` is above 0."""
        raise NotImplementedError(f"{type(self).__name__} has no augmentation, so data.augmentation must be 0")

    def groups(self, split: str) -> Tensor | None:
        """The group of every example of ``split`` (train, validation, test), where examples belong together.

        Patients, speakers, sites: groups must not be shared between splits. Shape (examples,), whole
        numbers; None: there are no groups.
        """
        return None

    def shuffled(self, seed: int) -> "Task | None":
        """The same task, its targets shuffled over all examples before any of its preprocessing.

        Preflight trains on it: whatever can be learned there has leaked from the targets into the inputs.
        None: not offered, and the check is skipped.
        """
        return None

    def decode(self, inputs: Tensor) -> Any:
        """What a human would look at, for a batch of inputs; the inputs themselves unless overridden.

        Images as (examples, channels, height, width) or (examples, height, width) in any scale, tokens as
        a list of strings, tables as they are in their own units.
        """
        return inputs

    def interface(self) -> Interface | None:
        """What a shipped model takes and gives; asked once, where the data is.

        None: it takes inputs as the splits hold them.
        """
        return None

    def prepare(self, raw: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """The network's inputs for inputs as users have them: the same preparation that the splits had.

        Args:
            raw: shaped and typed like ``Interface.example``; any number of examples.
            statistics: those of :meth:`interface`.
        """
        return raw

    def restore(self, predictions: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        """``predictions`` in the units of the user's targets: undoes a scaling of the targets."""
        return predictions

    def ceiling(self) -> Mapping[str, float]:
        """Scores of a human, or of one annotator against another, by name of the score; empty: unknown."""
        return {}

    @property
    def direction(self) -> Direction:
        """Which way the objective is better."""
        return self.directions[self.objective]


class ClassificationTask(Task):
    """Outputs are logits (examples, classes), targets are class numbers.

    The objective is the mean cross-entropy on validation (nats): it sees what accuracy is too coarse for.
    """

    directions: ClassVar[Mapping[str, Direction]] = {
        "loss": Direction.MINIMIZE,
        "accuracy": Direction.MAXIMIZE,
    }

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy."""
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=label_smoothing)

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Kullback-Leibler divergence of the softened probabilities, times the temperature squared.

        (Its gradient would shrink with that square: Hinton et al. 2015, arXiv 1503.02531, section 2.)
        """
        softened = (teacher.clamp_min(torch.finfo(teacher.dtype).tiny).log() / temperature).softmax(dim=1)
        student = (outputs / temperature).log_softmax(dim=1)
        return nn.functional.kl_div(student, softened, reduction="batchmean") * temperature**2

    def predictions(self, outputs: Tensor) -> Tensor:
        """Class probabilities."""
        return outputs.double().softmax(dim=1)

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Cross-entropy of the probabilities and share of examples whose likeliest class is right."""
        # The smallest positive float64 keeps the logarithm finite where a probability underflowed.
        likelihood = predictions.gather(1, targets[:, None]).clamp_min(torch.finfo(torch.float64).tiny)
        correct = predictions.argmax(dim=1) == targets
        return {"loss": float(likelihood.log().mean().neg() + 0.0), "accuracy": float(correct.double().mean())}


class RegressionTask(Task):
    """Outputs and targets have shape (examples,) or (examples, values); the loss is the squared error."""

    directions: ClassVar[Mapping[str, Direction]] = {"loss": Direction.MINIMIZE, "r2": Direction.MAXIMIZE}
    without_effect: ClassVar[tuple[str, ...]] = ("loss.label_smoothing", "distill.temperature")

    def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Mean squared error; ``label_smoothing`` has no meaning here and is ignored."""
        return nn.functional.mse_loss(outputs, targets)

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """Mean squared distance; ``temperature`` has no meaning here and is ignored."""
        return nn.functional.mse_loss(outputs, teacher)

    def predictions(self, outputs: Tensor) -> Tensor:
        """The outputs."""
        return outputs.double()

    def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
        """Mean squared error, and the share of the split's variance explained."""
        targets = targets.double()
        error = (predictions - targets).square().mean()
        variance = (targets - targets.mean(dim=0)).square().mean()
        return {"loss": float(error), "r2": float(1 - error / variance)}
