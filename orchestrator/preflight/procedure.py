"""How the user trains: the seam through which faults of the loop can be seen.

The sweep trains with our own loop (``orchestrator/training``), and so does :class:`Procedure` as it
stands. Who trains with code of their own overrides the methods that differ and passes the class to
``run_preflight``; every check of the loop then looks at that code.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn.utils import get_total_norm
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import Dataset

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.config.schema import TrainerConfig
from orchestrator.tasks.base import Task
from orchestrator.training.data import Batch, in_sequence, load, size, training_order
from orchestrator.training.loop import predict
from orchestrator.training.optimizers import make_optimizer
from orchestrator.training.schedules import multiplier


@dataclass
class Procedure:
    """Training of ``task`` with ``hyperparameters``; override what your own loop does differently."""

    task: Task
    hyperparameters: Hyperparameters
    trainer: TrainerConfig
    seed: int

    def optimizer(self, model: nn.Module) -> optim.Optimizer:
        """The optimizer of a trial, at its peak learning rate."""
        return make_optimizer(self.hyperparameters.optimizer, model)

    def scheduler(self, optimizer: optim.Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
        """What sets the learning rate; a trial has ``total_steps`` optimizer steps."""
        return LambdaLR(optimizer, lambda step: multiplier(self.hyperparameters.schedule, step, total_steps))

    def after_step(self, scheduler: LRScheduler) -> None:
        """Called after every optimizer step."""
        scheduler.step()

    def after_epoch(self, scheduler: LRScheduler) -> None:
        """Called after every epoch; put ``scheduler.step()`` here if yours counts epochs."""

    def training_order(self, examples: int, epoch: int) -> list[Tensor]:
        """The batches of an epoch, as indices into the training split."""
        return training_order(examples, self.hyperparameters.data.batch_size, self.seed, epoch)

    def loader(self, dataset: Dataset[Any], train: bool, epoch: int = 0) -> Iterator[Batch]:
        """Batches of ``dataset``: in training order, or all of it in its own order."""
        if train:
            return load(dataset, self.training_order(size(dataset), epoch), self.trainer.data_workers)
        return in_sequence(dataset, self.trainer.eval_batch_size, self.trainer.data_workers)

    def step(self, model: nn.Module, optimizer: optim.Optimizer, inputs: Tensor, targets: Tensor) -> Tensor:
        """One optimizer step on one batch; returns the batch's loss. The model's mode is left alone."""
        strength = self.hyperparameters.data.augmentation
        if strength > 0:
            inputs, targets = self.task.augment(inputs, targets, strength)
        optimizer.zero_grad()
        loss = self.task.loss(model(inputs), targets, self.hyperparameters.loss.label_smoothing)
        torch.autograd.backward(loss)
        self._clip(model)
        optimizer.step()
        return loss.detach()

    def _clip(self, model: nn.Module) -> None:
        limit = self.hyperparameters.optimizer.clip_norm
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = float(get_total_norm(gradients)) if limit > 0 else 0.0
        if 0 < limit < norm:
            torch._foreach_mul_(gradients, limit / norm)

    def train_epoch(
        self, model: nn.Module, optimizer: optim.Optimizer, scheduler: LRScheduler, dataset: Dataset[Any], epoch: int
    ) -> float:
        """One pass over ``dataset``; returns the mean loss over its examples."""
        model.train()
        device = next(model.parameters()).device
        total, seen = 0.0, 0
        for inputs, targets in self.loader(dataset, train=True, epoch=epoch):
            loss = self.step(model, optimizer, inputs.to(device), targets.to(device))
            self.after_step(scheduler)
            total += float(loss) * len(inputs)
            seen += len(inputs)
        self.after_epoch(scheduler)
        return total / seen

    def evaluate(self, model: nn.Module, dataset: Dataset[Any]) -> dict[str, float]:
        """The task's scores of ``model`` over all of ``dataset``; sets the evaluation mode itself."""
        predictions, targets = predict(self.task, model, dataset, self.trainer)
        return {name: float(value) for name, value in self.task.score(predictions, targets).items()}
