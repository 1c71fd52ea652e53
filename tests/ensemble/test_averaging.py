"""Averages of weights: along a run, batch norm's statistics after it, and greedy soups."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from orchestrator.ensemble.averaging import greedy_soup, mean_state, recompute_batch_norm
from orchestrator.training.tail import Tail


def test_a_tail_averages_the_last_epochs_also_across_a_restart() -> None:
    model = nn.BatchNorm1d(1)
    whole, begun = Tail(8, 0.25), Tail(8, 0.25)
    for epoch in range(1, 9):
        with torch.no_grad():
            model.weight.fill_(float(epoch))
            model.num_batches_tracked.fill_(epoch)
        whole.add(model, epoch)
        if epoch == 7:
            begun.add(model, epoch)
    assert (whole.first, whole.count) == (7, 2)
    assert float(whole.mean["weight"]) == 7.5
    assert int(whole.mean["num_batches_tracked"]) == 8
    resumed = Tail(8, 0.25)
    resumed.restore(begun.state())
    resumed.add(model, 8)
    assert torch.equal(resumed.mean["weight"], whole.mean["weight"])


def test_a_tail_of_another_budget_begins_anew() -> None:
    model = nn.Linear(1, 1)
    short, longer = Tail(4, 0.25), Tail(40, 0.25)
    short.add(model, 4)
    longer.restore(short.state())
    assert longer.count == 0
    assert Tail(4, 0.0).first == 5, "no epoch is averaged"


def test_the_mean_of_states_is_that_of_each_tensor() -> None:
    states = [{"w": torch.tensor([value, 2 * value]), "n": torch.tensor(int(value))} for value in (1.0, 2.0, 6.0)]
    found = mean_state(iter(states))
    assert torch.allclose(found["w"], torch.tensor([3.0, 6.0]))
    assert states[0]["w"].tolist() == [1.0, 2.0], "the ingredients are as they were"
    with pytest.raises(ValueError, match="different shapes"):
        mean_state([{"w": torch.zeros(2)}, {"w": torch.zeros(3)}])


def test_batch_norm_gets_the_statistics_of_the_training_data() -> None:
    inputs = 3 + 2 * torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    data = TensorDataset(inputs, torch.zeros(400))
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1)).eval()
    recompute_batch_norm(model, data, 100, 0)
    assert torch.allclose(model[0].running_mean, inputs.mean(dim=0), atol=1e-4)
    assert not model.training
    plain = nn.Linear(5, 1)
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    recompute_batch_norm(plain, data, 100, 0)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())


def test_a_soup_takes_what_lowers_the_cost_and_nothing_else() -> None:
    values = [3.0, -2.0, 9.0, -1.0]  # the cost of a mix: how far its mean is from 0.2

    def cost(chosen: list[int]) -> float:
        return abs(sum(values[index] for index in chosen) / len(chosen) - 0.2)

    # Best alone is -1 (1.2); -2 makes it worse; 3 brings the mean to 1 (0.8); 9 makes it worse.
    assert greedy_soup(4, cost) == [3, 0]
    assert greedy_soup(1, cost) == [0]
