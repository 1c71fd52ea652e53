"""Faults of networks and parameters are named by the right check."""

from typing import Any

import pytest
import torch
from preflight_tasks import (
    HEALTHY,
    Blobs,
    BlobsWithNorm,
    Counting,
    Line,
    Pairs,
    Wrapped,
    run,
    severity,
    with_attributes,
    with_loss,
    with_model,
    with_outputs,
)
from torch import Tensor, nn

from orchestrator.preflight.procedure import Procedure
from orchestrator.preflight.report import Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task

CHECKS = (
    "batch_dependency",
    "causality",
    "target_in_input",
    "input_dependency",
    "input_use",
    "nonlinearity",
    "eval_determinism",
    "module_modes",
    "new_model",
    "splits_determinism",
    "seed_determinism",
    "gradient_reach",
    "unused_parameters",
    "frozen_parameters",
    "optimizer_coverage",
    "symmetry",
    "dead_units",
    "gradient_flow",
)


@pytest.mark.parametrize("kind", HEALTHY)
def test_healthy_tasks_pass_or_are_skipped(kind: type[Task]) -> None:
    subject = Subject(kind())
    found = {name: severity(name, subject) for name in CHECKS}
    assert set(found.values()) <= {Severity.PASS, Severity.SKIPPED}, found


class Unused(nn.Module):
    """Two layers of which one is never called, or its result overwritten."""

    def __init__(self, *, call: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(8, 16), nn.Linear(8, 16), nn.Linear(16, 3)
        self.call = call

    def forward(self, inputs: Tensor) -> Tensor:
        state = self.first(inputs) if self.call else None
        state = torch.relu(self.second(inputs))
        result: Tensor = self.head(state)
        return result


class Cut(nn.Module):
    """The graph is cut below the head."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(torch.relu(self.body(inputs)).detach())
        return result


class NotInEval(nn.Module):
    """Functional dropout that never goes off."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        result: Tensor = self.head(nn.functional.dropout(inputs, 0.3))
        return result


class StuckNorm(nn.Sequential):
    """Batch norm stays in evaluation mode."""

    def train(self, mode: bool = True) -> "StuckNorm":
        super().train(mode)
        self[1].eval()
        return self


def network(make: Any, base: type[Task] = Blobs) -> Task:
    class Changed(base):  # type: ignore[misc,valid-type]
        def model(self, **hyperparameters: Any) -> nn.Module:
            made: nn.Module = make()
            return made

    return Changed()


def linear_stack() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3))


def half_read() -> nn.Module:
    return nn.Sequential(Wrapped(nn.Identity(), lambda x: x[:, :4]), nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


SHARED = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))


def fill(value: float) -> Any:
    return lambda model: [nn.init.constant_(p, value) for p in model.parameters()]


def deep_and_saturated() -> nn.Module:
    layers: list[nn.Module] = [nn.Linear(8, 16)]
    for _ in range(12):
        layers += [nn.Sigmoid(), nn.Linear(16, 16)]
    model = nn.Sequential(*layers, nn.Linear(16, 3))
    for module in model[:-1]:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=30.0)
    return model


FAULTS = {
    "softmax over the batch": ("batch_dependency", with_outputs(Blobs, lambda o: o.log_softmax(0))),
    "mean over the batch": ("batch_dependency", with_outputs(Line, lambda o: o - o.mean(dim=0))),
    "tokens mixed over the batch": ("batch_dependency", with_outputs(Counting, lambda o: o + o.roll(1, 0))),
    "no causal mask": ("causality", with_attributes(Counting, ahead=8)),
    "mask off by one": ("causality", with_attributes(Counting, ahead=1)),
    "targets not shifted": ("target_in_input", with_attributes(Counting, shift=0)),
    "input ignored": ("input_dependency", with_outputs(Blobs, lambda o: o * 0)),
    "half of the columns": ("input_use", network(half_read)),
    "first step only": ("input_use", with_attributes(Counting, model=lambda self: FirstOnly())),
    "no activation": ("nonlinearity", network(linear_stack)),
    "dropout at evaluation": ("eval_determinism", network(NotInEval)),
    "batch norm stuck": (
        "module_modes",
        network(lambda: StuckNorm(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))),
    ),
    "one network for all trials": ("new_model", network(lambda: SHARED)),
    "loss detached": (
        "gradient_reach",
        with_loss(Blobs, lambda o, y: torch.tensor(nn.functional.cross_entropy(o, y).item(), requires_grad=True)),
    ),
    "layer never called": ("unused_parameters", network(lambda: Unused(call=False))),
    "result overwritten": ("unused_parameters", network(lambda: Unused(call=True))),
    "graph cut": ("unused_parameters", network(Cut)),
    "all zero": ("symmetry", with_model(Blobs, fill(0.0))),
    "all equal": ("symmetry", with_model(Line, fill(0.1))),
    "dead from the start": ("dead_units", with_model(Blobs, lambda m: m[0].bias.fill_(-50.0))),
}


class FirstOnly(nn.Module):
    """Reads the first token of a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(12, 16), nn.Linear(16, 12)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.embedding(tokens[:, :1])).expand(-1, tokens.shape[1], -1)
        return result


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_blocked_by_the_check_that_names_it(fault: str) -> None:
    name, task = FAULTS[fault]
    finding = run(name, task)
    assert finding.severity is Severity.FAIL, finding
    assert finding.meaning
    assert finding.causes
    assert finding.advice


def test_vanishing_gradients_are_reported() -> None:
    assert severity("gradient_flow", network(deep_and_saturated)) in (Severity.WARN, Severity.FAIL)


def test_max_pooling_is_no_activation() -> None:
    class Images(Blobs):
        def model(self, **hyperparameters: Any) -> nn.Module:
            return nn.Sequential(
                nn.Unflatten(1, (1, 8, 1)),
                nn.Conv2d(1, 8, 1),
                self.between,
                nn.MaxPool2d((2, 1)),
                nn.Conv2d(8, 8, 1),
                nn.Flatten(),
                nn.Linear(32, 3),
            )

    assert severity("nonlinearity", with_attributes(Images, between=nn.Identity())) is Severity.FAIL
    assert severity("nonlinearity", with_attributes(Images, between=nn.ReLU())) is Severity.PASS


def test_a_linear_function_of_tokens_is_found_in_the_graph() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 12))

    assert severity("nonlinearity", network(make, Counting)) is Severity.FAIL
    assert severity("nonlinearity", Counting()) is Severity.PASS


def test_a_branch_that_starts_at_zero_is_healthy() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.one, self.two = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 16)
            self.head = nn.Linear(16, 3)
            nn.init.zeros_(self.two.weight)

        def forward(self, inputs: Tensor) -> Tensor:
            state = torch.relu(self.stem(inputs))
            result: Tensor = self.head(state + self.two(torch.relu(self.one(state))))
            return result

    subject = Subject(network(Residual))
    found = {name: severity(name, subject) for name in CHECKS}
    assert set(found.values()) <= {Severity.PASS, Severity.SKIPPED}, found


def test_frozen_layers_must_be_declared() -> None:
    task = with_model(Blobs, lambda m: m[0].requires_grad_(False))
    finding = run("frozen_parameters", task)
    assert finding.severity is Severity.WARN
    assert "0.weight" in finding.statistic
    assert severity("frozen_parameters", with_attributes(type(task), frozen=("0.*",))) is Severity.PASS
    for patterns in (("0.*", "backbone.*"), ("0.*", "3.weight")):
        assert severity("frozen_parameters", with_attributes(type(task), frozen=patterns)) is Severity.WARN


def test_parameters_missing_from_the_optimizer_are_named() -> None:
    class Forgetful(Procedure):
        def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.Adam(list(model.parameters())[:-2])

    finding = run("optimizer_coverage", Subject(Blobs(), procedure=Forgetful))
    assert finding.severity is Severity.FAIL
    assert "5.weight, 5.bias" in finding.statistic


def test_declared_mixing_of_the_batch_is_respected() -> None:
    mixing = with_outputs(Line, lambda o: o - o.mean(dim=0))
    assert severity("batch_dependency", with_attributes(type(mixing), mixes_batch=True)) is Severity.SKIPPED
    assert severity("batch_dependency", Pairs()) is Severity.SKIPPED


def test_category_numbers_among_the_columns_are_never_made_up() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.body = nn.Embedding(4, 4), nn.Sequential(nn.Linear(11, 16), nn.ReLU(), nn.Linear(16, 3))

        def forward(self, inputs: Tensor) -> Tensor:
            result: Tensor = self.body(torch.cat([inputs[:, 1:], self.table(inputs[:, 0].long())], dim=1))
            return result

    class Categories(Blobs):
        def splits(self):  # type: ignore[no-untyped-def]
            splits = super().splits()
            for part in (splits.train, splits.validation, splits.test):
                part.tensors[0][:, 0] = torch.arange(len(part)) % 4
            return splits

        def model(self, **hyperparameters: Any) -> nn.Module:
            return Mixed()

    subject = Subject(Categories())
    found = {name: severity(name, subject) for name in CHECKS}
    assert set(found.values()) <= {Severity.PASS, Severity.SKIPPED}, found


def test_noise_in_evaluation_is_not_taken_for_mixing() -> None:
    assert severity("batch_dependency", network(NotInEval)) is Severity.PASS


def test_splits_drawn_anew_are_blocked() -> None:
    class Redrawn(Blobs):
        def splits(self):  # type: ignore[no-untyped-def]
            splits = super().splits()
            order = torch.randperm(300)
            splits.train.tensors = tuple(tensor[order] for tensor in splits.train.tensors)
            return splits

    assert severity("splits_determinism", Redrawn()) is Severity.FAIL


def test_a_generator_out_of_the_seeds_reach_is_blocked() -> None:
    generator = torch.Generator().manual_seed(0)

    def noisy(outputs: Tensor) -> Tensor:
        return outputs + torch.randn(outputs.shape, generator=generator)

    assert severity("seed_determinism", with_outputs(Blobs, noisy)) is Severity.FAIL


def test_norm_and_dropout_follow_their_model() -> None:
    assert severity("module_modes", BlobsWithNorm()) is Severity.PASS
