"""Prediction dynamics: one row an epoch, of the same examples, through a restart."""

import torch

from orchestrator.training.followed import EXAMPLES, Followed


def test_the_same_examples_are_followed_through_a_restart() -> None:
    targets = torch.arange(100) % 3
    first = torch.rand(100, 3).softmax(dim=1)
    followed = Followed()
    followed.add(first, targets, 1)
    later = Followed()
    later.restore(followed.state())
    second = torch.rand(100, 3).softmax(dim=1)
    later.add(second, targets, 1)
    state = later.state()
    chosen = torch.linspace(0, 99, EXAMPLES).long()
    assert torch.equal(state["targets"], targets[chosen])
    for row, predictions in enumerate((first, second)):
        some = predictions[chosen]
        assert torch.equal(state["likeliest"][row], some.argmax(dim=1).int())
        assert torch.allclose(state["values"][row], some[torch.arange(EXAMPLES), targets[chosen]].float())


def test_values_are_followed_as_they_are_and_other_shapes_are_left_alone() -> None:
    followed = Followed()
    followed.add(torch.tensor([[0.5], [1.5]]), torch.tensor([[1.0], [2.0]]), None)
    assert followed.state()["values"].tolist() == [[0.5, 1.5]]
    assert followed.state()["likeliest"] is None
    other = Followed()
    other.add(torch.rand(2, 3), torch.rand(2, 3), None)
    other.add(torch.rand(2, 3), torch.rand(2), None)
    assert other.state() == {"targets": None, "values": None, "likeliest": None}
