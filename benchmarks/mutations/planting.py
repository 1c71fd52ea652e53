"""How a fault gets into a task: methods of the task, its network or its training are replaced."""

import copy
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.preflight.procedure import Procedure
from orchestrator.tasks.base import Splits, Task


@dataclass(frozen=True)
class Cell:
    """What is checked: a task with the training that goes with it."""

    task: Task
    hyperparameters: Hyperparameters
    procedure: type[Procedure] = Procedure


Plant = Callable[[Cell], Cell]


@dataclass(frozen=True)
class Fault:
    """A mistake, the tasks it is planted in, and the checks that would be right to name it."""

    name: str
    bases: tuple[str, ...]
    plant: Plant
    expected: tuple[str, ...]
    held_out: bool = False
    """Not looked at while thresholds were set."""
    equivalent: bool = False
    """Changes nothing that matters: a FAIL or WARN is a false alarm."""
    deployed: Plant | None = None
    """The world in which its true score is measured (without the leaked column, say); None: its own test split."""


def method(name: str, make: Callable[[Any, Task], Any]) -> Plant:
    """Replace the task's method (or attribute) ``name`` by ``make(the old one, task)``."""

    def plant(cell: Cell) -> Cell:
        task = copy.copy(cell.task)
        made = make(getattr(task, name), cell.task)
        kept = staticmethod(functools.wraps(getattr(task, name))(made)) if callable(made) else made
        task.__class__ = type(type(task).__name__, (type(task),), {name: kept})
        return replace(cell, task=task)

    return plant


def network(change: Callable[[nn.Module], nn.Module]) -> Plant:
    """Change every new network."""
    return method("model", lambda old, task: lambda **hyperparameters: change(old(**hyperparameters)))


def rewired(net: nn.Module, **methods: Any) -> nn.Module:
    """Override methods of one module, as if its class had been written so."""
    net.__class__ = type(type(net).__name__, (type(net),), methods)
    return net


def outputs(change: Callable[[Tensor], Tensor]) -> Plant:
    """Change what the network returns."""

    def wrong(net: nn.Module) -> nn.Module:
        right = type(net).forward
        return rewired(net, forward=lambda self, inputs: change(right(self, inputs)))

    return network(wrong)


def inputs(change: Callable[[Tensor], Tensor]) -> Plant:
    """Change what the network reads."""

    def wrong(net: nn.Module) -> nn.Module:
        right = type(net).forward
        return rewired(net, forward=lambda self, batch: right(self, change(batch)))

    return network(wrong)


def loss(change: Callable[..., Tensor]) -> Plant:
    """Replace the loss by ``change(old, outputs, targets, label_smoothing)``."""

    def make(old: Any, task: Task) -> Any:
        def wrong(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
            return change(old, outputs, targets, label_smoothing)

        return wrong

    return method("loss", make)


def data(change: Callable[[Splits], Splits]) -> Plant:
    """Change the splits."""
    return method("splits", lambda old, task: lambda: change(old()))


def training(**methods: Any) -> Plant:
    """Override methods of the procedure that trains."""
    return lambda cell: replace(cell, procedure=type("UserProcedure", (cell.procedure,), methods))


def settings(**groups: dict[str, Any]) -> Plant:
    """Other hyperparameters, by group: ``settings(optimizer={"lr": 10.0})``."""

    def plant(cell: Cell) -> Cell:
        old = cell.hyperparameters
        changed = {group: _changed(getattr(old, group), values) for group, values in groups.items()}
        return replace(cell, hyperparameters=replace(old, **changed))

    return plant


def _changed(group: Any, values: dict[str, Any]) -> Any:
    return {**group, **values} if isinstance(group, Mapping) else replace(group, **values)


def unchanged(cell: Cell) -> Cell:
    """No fault."""
    return cell


def both(*plants: Plant) -> Plant:
    """One fault that takes several changes."""
    return lambda cell: functools.reduce(lambda done, plant: plant(done), plants, cell)


def tensors(dataset: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a data set of tensors."""
    first, second = dataset.tensors
    return first, second


def rebuilt(splits: Splits, change: Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Splits:
    """Apply ``change(split name, inputs, targets)`` to all three."""
    names = ("train", "validation", "test")
    return Splits(*(TensorDataset(*change(name, *tensors(getattr(splits, name)))) for name in names))


def arrays(change: Callable[[str, Tensor, Tensor], tuple[Tensor, Tensor]]) -> Plant:
    """Change inputs and targets of each split, by name."""
    return data(lambda splits: rebuilt(splits, change))
