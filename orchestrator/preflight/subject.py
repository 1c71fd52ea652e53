"""What is checked: a task with its data and its training, and cheap access to both."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.utils.data import Dataset, TensorDataset, default_collate

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.config.schema import TrainerConfig
from orchestrator.preflight.forms import Form, Kind, infer_form
from orchestrator.preflight.procedure import Procedure
from orchestrator.preflight.report import Baseline
from orchestrator.preflight.state import untouched_globals, untouched_model
from orchestrator.seeds import derive_seed
from orchestrator.tasks.base import Splits, Task
from orchestrator.tasks.loading import model_defaults
from orchestrator.training.data import Batch, size
from orchestrator.training.loop import pick_device, seed_everything

FORM_EXAMPLES = 64
"""Examples from which the form of the task is inferred (our choice)."""


class Subject:
    """One task under check. Examples are drawn once, with a generator of their own."""

    def __init__(
        self,
        task: Task,
        hyperparameters: Hyperparameters | None = None,
        procedure: type[Procedure] | None = None,
        *,
        trainer: TrainerConfig | None = None,
        seed: int = 0,
        folder: Path | None = None,
    ) -> None:
        self.task = task
        self.hyperparameters = hyperparameters or Hyperparameters()
        self.trainer = trainer or TrainerConfig()
        self.seed = seed
        self.device = pick_device(self.trainer)
        self.folder = folder
        """Where pictures and lists are written; None: nowhere."""
        self.procedure = (procedure or Procedure)(task, self.hyperparameters, self.trainer, seed)
        self.baselines: list[Baseline] = []
        """Filled by the check of classical baselines."""
        self.pictures: list[Path] = []
        """Files written to ``folder``."""
        self.kept: dict[str, Any] = {}
        """What several checks share, by name; each entry is computed once and never changed."""
        self._drawn: dict[tuple[str, int], Batch] = {}

    @cached_property
    def splits(self) -> Splits:
        """The task's data."""
        with untouched_globals():
            return self.task.splits()

    @property
    def has_data(self) -> bool:
        """Whether ``task.splits()`` has been called and did not raise."""
        return "splits" in self.__dict__

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the task's ``model``: its defaults, changed by the hyperparameters."""
        return dict(model_defaults(self.task, self.hyperparameters.model))

    def new_model(self, repeat: int = 0, **changes: Any) -> nn.Module:
        """A new network, the same at every call with the same ``repeat``; ``changes`` to its arguments.

        The generators of the caller are left alone.
        """
        with untouched_globals():
            seed_everything(derive_seed(self.seed, "init", repeat))
            return self.task.model(**{**self.arguments, **changes}).to(self.device)

    @cached_property
    def model(self) -> nn.Module:
        """The network that one-batch checks share; it is restored after each of them."""
        return self.new_model()

    @cached_property
    def optimizer(self) -> optim.Optimizer:
        """The user's optimizer of :attr:`model`."""
        with untouched_globals():
            return self.procedure.optimizer(self.model)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """When the block ends, generators, :attr:`model`, :attr:`optimizer` and the procedure are as before."""
        built = "optimizer" in self.__dict__
        shared = self.__dict__.get("model")
        with untouched_globals(), self._untouched_procedure():
            if shared is None:
                yield
                return
            with untouched_model(shared, self.optimizer if built else None):
                yield

    @contextmanager
    def _untouched_procedure(self) -> Iterator[None]:
        """What the user's procedure counts (batches until the next step, say) is as before afterwards."""
        before = dict(vars(self.procedure))
        try:
            yield
        finally:
            vars(self.procedure).clear()
            vars(self.procedure).update(before)

    def train_size(self) -> int:
        """Number of training examples."""
        return size(self.splits.train)

    def train_examples(self, count: int) -> Batch:
        """At most ``count`` training examples, drawn at random without replacement, on the device.

        The same ones at every call; a smaller ``count`` gives the first of a larger one.
        """
        return self._examples("train", count)

    def validation_examples(self, count: int) -> Batch:
        """Like :meth:`train_examples`, of the validation split."""
        return self._examples("validation", count)

    def _examples(self, split: str, count: int) -> Batch:
        dataset: Dataset[Any] = getattr(self.splits, split)
        count = min(count, size(dataset))
        if (split, count) not in self._drawn:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, "examples", split))
            indices = torch.randperm(size(dataset), generator=generator)[:count]
            with untouched_globals():
                self._drawn[split, count] = collate(dataset, indices)
        inputs, targets = self._drawn[split, count]
        # Copies: a model or a loss of the user's might write into them.
        return inputs.to(self.device, copy=True), targets.to(self.device, copy=True)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The task's loss, without the label smoothing of the hyperparameters."""
        return self.task.loss(outputs, targets, 0.0)

    def outputs(self, model: nn.Module, inputs: Tensor, *, train: bool = False) -> Tensor:
        """Outputs without gradients; the mode of ``model`` is as before afterwards."""
        modes = {module: module.training for module in model.modules()}
        model.train(train)
        try:
            with torch.no_grad():
                result: Tensor = model(inputs)
                return result
        finally:
            for module, mode in modes.items():
                module.training = mode

    @cached_property
    def form(self) -> Form:
        """Kind and layout of the task; OTHER for a loss that is declared to mix the batch."""
        if self.task.mixes_batch:
            return Form(Kind.OTHER)
        inputs, targets = self.train_examples(FORM_EXAMPLES)
        with self.untouched():
            outputs = self.outputs(self.model, inputs)
            return infer_form(outputs, targets, self.loss)

    @property
    def is_classification(self) -> bool:
        """Whether targets are classes or labels."""
        return self.form.kind in (Kind.CLASSES, Kind.BINARY)

    @property
    def is_regression(self) -> bool:
        """Whether targets are numbers."""
        return self.form.kind is Kind.VALUES


def collate(dataset: Dataset[Any], indices: Tensor) -> Batch:
    """The examples ``indices`` of ``dataset`` as one batch."""
    if isinstance(dataset, TensorDataset):
        inputs, targets = dataset[indices]
        return inputs, targets
    inputs, targets = default_collate([dataset[int(index)] for index in indices])
    return inputs, targets
