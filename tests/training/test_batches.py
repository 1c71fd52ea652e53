from typing import Any

import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from orchestrator.training.data import in_sequence, load, steps_per_epoch, training_order


class Squares(Dataset[Any]):
    """A data set that is not tensors in memory."""

    def __init__(self, examples: int) -> None:
        self.examples = examples

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < self.examples:
            raise IndexError(index)
        value = torch.tensor([float(index), float(index) ** 2])
        return value, torch.tensor(index % 3)


def as_tensors(dataset: Squares) -> TensorDataset:
    rows = [dataset[index] for index in range(len(dataset))]
    return TensorDataset(torch.stack([row[0] for row in rows]), torch.stack([row[1] for row in rows]))


@pytest.mark.parametrize(("examples", "batch_size"), [(10, 4), (12, 4), (3, 8), (1, 4), (7, 1), (2, 1), (64, 64)])
def test_an_epoch_covers_every_example_once(examples: int, batch_size: int) -> None:
    order = training_order(examples, batch_size, seed=0, epoch=0)
    assert torch.equal(torch.cat(order).sort().values, torch.arange(examples))
    assert all(len(batch) <= batch_size for batch in order)


def test_a_last_batch_of_one_example_is_left_out() -> None:
    order = training_order(9, 4, seed=0, epoch=0)
    assert [len(batch) for batch in order] == [4, 4]
    assert len(torch.cat(order).unique()) == 8
    left = {int(*set(range(9)) - set(torch.cat(training_order(9, 4, 0, epoch)).tolist())) for epoch in range(30)}
    assert len(left) > 5, "always the same example is left out"


@pytest.mark.parametrize("batch_size", [1, 2, 3, 4, 7, 50])
@pytest.mark.parametrize("examples", [1, 2, 3, 8, 9, 49, 50, 51])
def test_the_number_of_steps_is_the_number_of_batches(examples: int, batch_size: int) -> None:
    assert steps_per_epoch(examples, batch_size) == len(training_order(examples, batch_size, 0, 0))


def test_the_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    def flat(seed: int, epoch: int, batch_size: int = 8) -> list[int]:
        return torch.cat(training_order(40, batch_size, seed, epoch)).tolist()

    orders = {(seed, epoch): flat(seed, epoch) for seed in (0, 1) for epoch in range(5)}
    assert len({tuple(order) for order in orders.values()}) == 10
    torch.manual_seed(5)
    assert all(flat(*key) == order for key, order in orders.items())
    assert flat(0, 0, batch_size=4) == flat(0, 0)
    before = torch.get_rng_state()
    flat(0, 0)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_data_set_of_any_kind_gives_what_tensors_give(workers: int) -> None:
    dataset = Squares(11)
    order = training_order(11, 4, seed=1, epoch=2)
    wanted = list(load(as_tensors(dataset), order, workers=0))
    before = torch.get_rng_state()
    found = list(load(dataset, order, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)
    assert len(found) == len(wanted) == 3
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one[0], other[0])
        assert torch.equal(one[1], other[1])
    first = torch.cat([inputs[:, 0] for inputs, _ in found]).long()
    assert torch.equal(first, torch.cat(order))


@pytest.mark.parametrize("batch_size", [1, 4, 11, 1000])
def test_in_sequence_gives_all_in_their_own_order(batch_size: int) -> None:
    for dataset in (Squares(11), as_tensors(Squares(11))):
        batches = list(in_sequence(dataset, batch_size, 0))
        assert torch.cat([inputs[:, 0] for inputs, _ in batches]).tolist() == list(range(11))
        assert all(len(inputs) <= batch_size for inputs, _ in batches)
