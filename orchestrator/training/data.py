"""Batches, in an order that depends on (seed, epoch) only."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset

from orchestrator.seeds import derive_seed

Batch = tuple[Tensor, Tensor]


def training_order(examples: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Index batches of one epoch: a random permutation, cut up; a last batch of one example is left out.

    (Batch norm cannot train on a single example, and its gradient would be the noisiest of the epoch.)
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "order", epoch))
    batches = list(torch.split(torch.randperm(examples, generator=generator), batch_size))
    return batches[: steps_per_epoch(examples, batch_size)]


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Number of batches of :func:`training_order`."""
    whole, rest = divmod(examples, batch_size)
    return whole + (1 if rest > 1 or whole == 0 else 0)


def size(dataset: Dataset[Any]) -> int:
    """Number of examples."""
    return len(dataset)  # type: ignore[arg-type]


def load(dataset: Dataset[Any], order: list[Tensor], workers: int) -> Iterator[Batch]:
    """The batches of ``dataset`` given by index; tensors in memory are sliced without a loader."""
    if isinstance(dataset, TensorDataset):
        for indices in order:
            inputs, targets = dataset[indices]
            yield inputs, targets
        return
    generator = torch.Generator().manual_seed(int(order[0][0]) if order else 0)
    loader: DataLoader[Batch] = DataLoader(
        dataset,
        batch_sampler=[indices.tolist() for indices in order],
        num_workers=workers,
        generator=generator,
    )
    for inputs, targets in loader:
        yield inputs, targets


def in_sequence(
    dataset: Dataset[Any], batch_size: int, workers: int, rank: int = 0, ranks: int = 1
) -> Iterator[Batch]:
    """All of ``dataset`` once, in its own order: of several ranks each takes one stretch."""
    own = torch.tensor_split(torch.arange(size(dataset)), ranks)[rank]
    return load(dataset, [part for part in torch.split(own, batch_size) if len(part)], workers)
