"""Faults of inputs, labels and splits."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from benchmarks.mutations.planting import Fault, Plant, arrays, both, data, method, rebuilt, settings, tensors
from orchestrator.tasks.base import Splits, Task
from orchestrator.tasks.networks import MLP


def shuffled(share: float) -> Plant:
    """Permute the labels of ``share`` of the training and validation examples among themselves."""

    def change(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if name == "test":
            return inputs, targets
        generator = torch.Generator().manual_seed(len(targets))
        chosen = torch.randperm(len(targets), generator=generator)[: int(share * len(targets))]
        mixed = targets.clone()
        mixed[chosen] = targets[chosen[torch.randperm(len(chosen), generator=generator)]]
        return inputs, mixed

    return arrays(change)


def thinned(label: int, keep: float) -> Plant:
    """Training loses all but ``keep`` of the examples of one class."""

    def change(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        stays = (targets != label) | (torch.arange(len(targets)) % 100 < 100 * keep)
        return (inputs[stays], targets[stays]) if name == "train" else (inputs, targets)

    return arrays(change)


def spoilt(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """One input value in a thousand is missing."""
    holes = torch.rand(inputs.shape, generator=torch.Generator().manual_seed(0)) < 1e-3
    return inputs.masked_fill(holes, torch.nan), targets


def blank(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(inputs), targets


def enlarged(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Images of 0 to 255 instead of standardised ones."""
    return (inputs - inputs.min()) * 255 / (inputs.max() - inputs.min()), targets


def in_raw_units(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Columns in units of their own, deviations from 0.003 to 500."""
    units = torch.logspace(-2.5, 2.7, inputs.shape[1])
    return inputs * units + 3 * units, targets


def own_statistics(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Every split scaled by itself."""
    return (inputs - inputs.mean(0)) / inputs.std(0, unbiased=False).clamp_min(1e-6), targets


def shifted_validation(splits: Splits) -> Splits:
    """The validation split comes from the examples with the largest first columns, and is scaled by itself."""
    inputs, targets = (
        torch.cat(parts) for parts in zip(tensors(splits.train), tensors(splits.validation), strict=True)
    )
    order = inputs[:, :5].sum(1).argsort()
    cut = len(tensors(splits.train)[0])
    moved = {
        "train": (inputs[order[:cut]], targets[order[:cut]]),
        "validation": (inputs[order[cut:]], targets[order[cut:]]),
        "test": tensors(splits.test),
    }
    return rebuilt(splits, lambda name, i, t: own_statistics(name, *moved[name]))


def unscaled_validation(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Validation and test never went through the scaler."""
    return (inputs, targets) if name == "train" else (inputs * 6 + 30, targets)


def repeated(share: float) -> Plant:
    """The first ``share`` of validation are training rows; 1: validation is a part of training."""

    def change(splits: Splits) -> Splits:
        inputs, targets = tensors(splits.train)
        own_inputs, own_targets = (part.clone() for part in tensors(splits.validation))
        count = int(share * len(own_targets))
        own_inputs[:count], own_targets[:count] = inputs[:count], targets[:count]
        validation = torch.utils.data.TensorDataset(own_inputs, own_targets)
        return Splits(splits.train, validation, splits.test)

    return data(change)


def nearly_repeated(splits: Splits) -> Splits:
    """Half of validation are training rows with a little noise."""
    inputs, targets = tensors(splits.train)
    own_inputs, own_targets = (part.clone() for part in tensors(splits.validation))
    count = len(own_targets) // 2
    noise = 0.01 * torch.randn(inputs[:count].shape, generator=torch.Generator().manual_seed(0))
    own_inputs[:count], own_targets[:count] = inputs[:count] + noise, targets[:count]
    return Splits(splits.train, torch.utils.data.TensorDataset(own_inputs, own_targets), splits.test)


def leaked(everywhere: bool) -> Plant:
    """One more column that is the label; ``everywhere`` False: as in use, where nobody knows it (0)."""

    def change(name: str, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        column = targets.float().reshape(len(targets), -1)[:, :1] if everywhere else torch.zeros(len(targets), 1)
        return torch.cat([inputs, column], dim=1), targets

    def wider(old: Any, task: Task) -> Any:
        columns = tensors(task.splits().train)[0].shape[1]
        outputs = list(old().parameters())[-1].numel()

        def model(width: int = 32, depth: int = 2, dropout: float = 0.0) -> nn.Module:
            return MLP(columns, outputs, width=width, depth=depth, dropout=dropout)

        return model

    return both(arrays(change), method("model", wider))


class OneGenerator(Dataset[Any]):
    """Adds noise from a generator that every worker process copies."""

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs, self.targets = inputs, targets
        self.random = np.random.default_rng(0)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        noise = self.random.normal(size=self.inputs[index].shape).astype(np.float32)
        return self.inputs[index] + 0.1 * torch.as_tensor(noise), self.targets[index]


def noisy_items(splits: Splits) -> Splits:
    return Splits(OneGenerator(*tensors(splits.train)), splits.validation, splits.test)


def turned_over(old: Any, task: Task) -> Any:
    """Images on their heads: a 6 becomes a 9."""

    def augment(inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        chosen = torch.rand(len(inputs)) < strength
        return torch.where(chosen[:, None, None, None], inputs.flip(2, 3), inputs), targets

    return augment


def unrelated(old: Any, task: Task) -> Any:
    """The augmentation shuffles the inputs of the batch and forgets the targets."""

    def augment(inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        chosen = torch.rand(len(inputs)) < strength
        return torch.where(chosen[:, None, None, None], inputs[torch.randperm(len(inputs))], inputs), targets

    return augment


def augmented_splits(splits: Splits) -> Splits:
    """Training augmentation (random noise on every read) on validation as well."""
    return Splits(splits.train, OneGenerator(*tensors(splits.validation)), splits.test)


AUGMENTED = settings(data={"augmentation": 0.5})
FAULTS = (
    Fault("labels shuffled", ("digits_mlp", "breast_cancer", "huber", "rows"), shuffled(1.0), ("skill",)),
    Fault("40 % of labels wrong", ("digits_mlp", "breast_cancer"), shuffled(0.4), ("label_noise",)),
    Fault(
        "class missing in training",
        ("digits_mlp", "wine"),
        thinned(1, 0.0),
        ("label_sets", "label_range", "class_balance"),
    ),
    Fault("95 % of a class lost", ("digits_mlp",), thinned(3, 0.05), ("class_balance", "label_sets")),
    Fault("missing values in inputs", ("digits_mlp", "diabetes"), arrays(spoilt), ("finite_data",)),
    Fault("inputs of 0 to 255", ("digits_mlp", "plain_cnn"), arrays(enlarged), ("input_scale",)),
    Fault("raw units", ("huber", "multi_label"), arrays(in_raw_units), ("input_scale",)),
    Fault("constant inputs", ("digits_mlp", "huber"), arrays(blank), ("constant_features", "input_dependency")),
    Fault("validation scaled by itself", ("huber",), data(shifted_validation), ("own_scaling",)),
    Fault("validation not scaled", ("breast_cancer", "plain_cnn"), arrays(unscaled_validation), ("split_gap",)),
    Fault("validation is training", ("digits_mlp", "diabetes"), repeated(1.0), ("split_overlap",)),
    Fault("20 % of validation is training", ("deep_regression", "wine"), repeated(0.2), ("split_overlap",)),
    Fault(
        "near duplicates across splits", ("deep_regression", "diabetes"), data(nearly_repeated), ("near_duplicates",)
    ),
    Fault(
        "label leaks into a column",
        ("breast_cancer", "huber"),
        leaked(True),
        ("feature_leak", "target_leak"),
        deployed=leaked(False),
    ),
    Fault("workers draw the same noise", ("digits_mlp",), data(noisy_items), ("worker_seeds",)),
    Fault(
        "augmentation turns 6 into 9",
        ("plain_cnn",),
        both(AUGMENTED, method("augment", turned_over)),
        ("augmented_labels", "augmentation"),
    ),
    Fault(
        "augmentation separates inputs from labels",
        ("plain_cnn",),
        both(AUGMENTED, method("augment", unrelated)),
        ("augmented_labels", "augmentation"),
    ),
    Fault("augmentation on validation", ("digits_mlp",), data(augmented_splits), ("validation_random",)),
)
