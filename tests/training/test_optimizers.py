import pytest
import torch
from torch import nn, optim

from orchestrator.config.hyperparameters import OptimizerConfig
from orchestrator.training.optimizers import make_optimizer


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)
        self.head = nn.Linear(2, 3)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_spares_biases_and_norms(name: str) -> None:
    model = Mixed()
    before = {key: value.detach().clone() for key, value in model.named_parameters()}
    optimizer = make_optimizer(OptimizerConfig(name=name, lr=0.1, weight_decay=0.5), model)  # type: ignore[arg-type]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert changed == {"conv.weight", "head.weight"}
    for key in changed:
        now, then = dict(model.named_parameters())[key], before[key]
        assert now.norm() < then.norm()


def test_every_trainable_parameter_is_trained_once() -> None:
    model = Mixed()
    groups = make_optimizer(OptimizerConfig(), model).param_groups
    held = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


def test_settings_reach_the_optimizer() -> None:
    model = nn.Linear(2, 2)
    sgd = make_optimizer(OptimizerConfig(name="sgd", lr=0.3, momentum=0.8, nesterov=True), model)
    assert isinstance(sgd, optim.SGD)
    assert [(group["lr"], group["momentum"], group["nesterov"]) for group in sgd.param_groups] == [
        (0.3, 0.8, True)
    ] * 2
    plain = make_optimizer(OptimizerConfig(name="sgd", momentum=0.0, nesterov=True), model)
    assert not plain.param_groups[0]["nesterov"]
    settings = {"lr": 0.2, "beta1": 0.5, "beta2": 0.6, "eps": 1e-3}
    for name, kind in (("adam", optim.Adam), ("adamw", optim.AdamW)):
        adam = make_optimizer(OptimizerConfig(name=name, **settings), model)  # type: ignore[arg-type]
        assert type(adam) is kind
        for group in adam.param_groups:
            assert (group["lr"], group["betas"], group["eps"]) == (0.2, (0.5, 0.6), 1e-3)
