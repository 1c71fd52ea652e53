"""Order of training, randomness of reading, worker seeds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from data_faults import Categories, EasyBlobs, Noisy, Slope, changed
from preflight_tasks import HEALTHY, Blobs, run
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, TensorDataset, WeightedRandomSampler

from orchestrator.preflight.data_order import neighbour_likeness
from orchestrator.preflight.procedure import Procedure
from orchestrator.preflight.report import Finding, Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Splits, Task


def found(name: str, task: Task, procedure: type[Procedure] = Procedure) -> Finding:
    return run(name, Subject(task, procedure=procedure))


@pytest.mark.parametrize("name", ["training_order", "validation_random", "worker_seeds"])
@pytest.mark.parametrize("kind", [*HEALTHY, Slope, EasyBlobs, Categories])
def test_healthy_tasks_pass_or_are_skipped(kind: type[Task], name: str) -> None:
    assert found(name, kind()).severity in (Severity.PASS, Severity.SKIPPED)


def loading(**options: Any) -> type[Procedure]:
    """Training batches from PyTorch's own loader."""

    class Loads(Procedure):
        def loader(self, dataset: Dataset[Any], train: bool, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            yield from DataLoader(dataset, batch_size=32, **options)

    return Loads


def by_target(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    order = y.flatten().argsort()
    return x[order], y[order]


def test_sorted_and_unshuffled_classes_block_values_warn() -> None:
    assert found("training_order", changed(Blobs, by_target), loading(shuffle=False)).severity is Severity.FAIL
    assert found("training_order", changed(Slope, by_target), loading(shuffle=False)).severity is Severity.WARN


def test_sorted_but_shuffled_is_fine() -> None:
    assert found("training_order", changed(Blobs, by_target), loading(shuffle=True)).severity is Severity.PASS
    assert found("training_order", changed(Blobs, by_target)).severity is Severity.PASS


def test_the_same_order_every_epoch_warns() -> None:
    stored = found("training_order", Blobs(), loading(shuffle=False))
    assert (stored.severity, stored.statistic) == (Severity.WARN, "the order of two epochs is the stored one")

    class Seeded(Procedure):
        def training_order(self, examples: int, epoch: int) -> list[Tensor]:
            return super().training_order(examples, 0)

    assert found("training_order", Blobs(), Seeded).severity is Severity.WARN


def test_sampling_with_replacement_is_an_order_too() -> None:
    weighted = loading(sampler=WeightedRandomSampler([1.0] * 300, 300))
    assert found("training_order", Blobs(), weighted).severity is Severity.PASS


def test_a_loader_of_other_data_is_skipped() -> None:
    class Own(Procedure):
        def loader(self, dataset: Dataset[Any], train: bool, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            yield from super().loader(Blobs().splits().train, train, epoch)

    assert found("training_order", Blobs(), Own).severity is Severity.SKIPPED


def test_likeness_of_neighbours() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 2000)
    assert abs(neighbour_likeness(labels, True)) < 0.1
    assert neighbour_likeness(np.sort(labels), True) > 0.99
    assert neighbour_likeness(np.sort(labels.astype(float)), False) > 0.99
    assert neighbour_likeness(np.zeros(50), False) == 0


class NoisySplits(Blobs):
    which = "validation"
    own = False
    size = 1.0

    def splits(self) -> Splits:
        old = super().splits()
        parts = {name: getattr(old, name) for name in ("train", "validation", "test")}
        parts[self.which] = Noisy(parts[self.which], own=self.own, size=self.size)
        return Splits(**parts)


def noisy(**attributes: Any) -> Task:
    return type("Changed", (NoisySplits,), attributes)()


def test_augmented_validation_blocks_slight_noise_warns_augmented_training_is_fine() -> None:
    assert found("validation_random", noisy()).severity is Severity.FAIL
    assert found("validation_random", noisy(size=0.05)).severity is Severity.WARN
    assert found("validation_random", noisy(which="train")).severity is Severity.PASS


def test_denoising_is_random_on_purpose() -> None:
    class Denoising(NoisySplits):
        def splits(self) -> Splits:
            old = super().splits()
            inputs = old.train.tensors[0]
            return Splits(old.train, Noisy(TensorDataset(inputs, inputs), own=False), old.test)

    assert found("validation_random", Denoising()).severity is Severity.WARN


def test_a_generator_that_workers_copy_blocks() -> None:
    assert found("worker_seeds", noisy(which="train", own=True)).severity is Severity.FAIL
    assert found("worker_seeds", noisy(which="train")).severity is Severity.PASS


def test_epochs_that_repeat_the_same_noise_warn() -> None:
    class Constant(Procedure):
        def loader(self, dataset: Dataset[Any], train: bool, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
            seeds = torch.Generator().manual_seed(0)
            yield from DataLoader(dataset, batch_size=32, num_workers=2, generator=seeds)

    assert found("worker_seeds", noisy(which="train"), Constant).severity is Severity.WARN
