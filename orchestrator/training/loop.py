"""The training loop: one trial from its first batch to its last, one epoch at a time.

Everything random is seeded anew at the start of each epoch from (seed, epoch), so the state between
two epochs is what :meth:`Loop.state` returns and nothing else: a resumed trial continues bit for bit
on the CPU.
"""

import math
import random
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import InfeasibleTrialError
from orchestrator.seeds import derive_seed
from orchestrator.tasks.base import Splits, Task
from orchestrator.training.data import Batch, in_sequence, load, size, steps_per_epoch, training_order
from orchestrator.training.optimizers import make_optimizer
from orchestrator.training.parallel import ALONE, Group
from orchestrator.training.schedules import multiplier
from orchestrator.training.scores import as_scores
from orchestrator.training.tail import Tail
from orchestrator.training.teacher import open_teacher
from orchestrator.training.watch import Watch
from orchestrator.types import EpochResult, Reason, TrialSpec


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (all devices)."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def pick_device(config: TrainerConfig, rank: int = 0) -> torch.device:
    """The device of a trial: with ``auto``, the first visible GPU if there is one. Ranks take in turn those
    that they see."""
    kind = config.device
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and config.workers > 1:
        return torch.device(kind, rank % max(1, torch.cuda.device_count()))
    return torch.device(kind)


class Loop:
    """A model in training, with everything that belongs to it."""

    def __init__(
        self,
        task: Task,
        splits: Splits,
        hyperparameters: Hyperparameters,
        config: TrainerConfig,
        spec: TrialSpec,
        group: Group = ALONE,
    ) -> None:
        self.task = task
        self.group = group
        self.splits = splits
        self.hp = hyperparameters
        self.config = config
        self.spec = spec
        self.teacher = open_teacher(config, hyperparameters, size(splits.train))
        self.device = pick_device(config, group.rank)
        seed_everything(derive_seed(spec.seed, "init"))
        self.model = group.adapt(task.model(**hyperparameters.model).to(self.device))
        self.optimizer = make_optimizer(hyperparameters.optimizer, self.model)
        self.average = self._averaged_model()
        self.tail = Tail(spec.epochs, config.swa_share)
        half = torch.cuda.is_available() and not torch.cuda.is_bf16_supported()
        self.amp = config.amp and self.device.type == "cuda"
        self.amp_type = torch.float16 if half else torch.bfloat16
        self.scaler = torch.amp.GradScaler("cuda", enabled=self.amp and half)
        self.epoch = 0
        self.step = 0
        self.recent: list[EpochResult] = []
        """Of the epochs since the checkpoint before."""
        self.best: dict[str, Any] = {"epoch": 0, "value": task.direction.worst, "model": {}}
        per_epoch = steps_per_epoch(size(splits.train), hyperparameters.data.batch_size)
        self.total_steps = (spec.schedule_epochs or spec.epochs) * per_epoch
        self.watch = Watch(task, splits.train, hyperparameters, spec.epochs, config.data_workers)

    @property
    def finished(self) -> bool:
        """Whether the budget is spent, or the objective has not improved for ``patience`` epochs."""
        waited = self.epoch - int(self.best["epoch"])
        return self.epoch >= self.spec.epochs or 0 < self.config.patience <= waited

    def run_epoch(self) -> EpochResult:
        """Train for one epoch, evaluate, keep the weights if they are the best so far.

        Raises:
            InfeasibleTrialError: the training loss or a validation score is not finite, or the training diverged.
        """
        started = time.perf_counter()
        self.group.begin_epoch()
        train = self._train()
        self.epoch += 1
        self.tail.add(self.model, self.epoch)
        scores = self.evaluate()
        self.group.end_epoch()
        value = scores[self.task.objective]
        if self.task.direction.better(value, self.best["value"]):
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self._evaluated().state_dict().items()}
            self.best = {"epoch": self.epoch, "value": value, "model": weights}
        metrics = {f"train/{name}": number for name, number in train.items()}
        metrics |= {f"val/{name}": number for name, number in scores.items()}
        metrics |= self.watch.end_epoch(train["loss"])
        metrics["seconds"] = time.perf_counter() - started
        result = EpochResult(epoch=self.epoch, value=value, metrics=metrics)
        self.recent.append(result)
        return result

    def follow(self) -> None:
        """The part of another rank than the first in :meth:`run_epoch`."""
        self._train()
        self.epoch += 1
        self._predictions()

    def _train(self) -> dict[str, float]:
        """One pass over the training split; returns what was seen on the way."""
        ranks = () if self.group.rank == 0 else (self.group.rank,)
        seed_everything(derive_seed(self.spec.seed, "epoch", self.epoch, *ranks))
        self.model.train()
        order = training_order(size(self.splits.train), self.hp.data.batch_size, self.spec.seed, self.epoch)
        total_loss, total_norm, seen, clipped = 0.0, 0.0, 0, 0
        limit = self.hp.optimizer.clip_norm
        shares = [self.group.share(indices) for indices in order]
        batches = load(self.splits.train, shares, self.config.data_workers)
        for indices, share, batch in zip(order, shares, batches, strict=True):
            rate = self._set_learning_rate()
            loss = self._backward(self._to_device(batch), share, len(indices))
            norm = self._update()
            total_norm += norm
            clipped += 0 < limit < norm
            total_loss += loss * len(indices)
            seen += len(indices)
            self.step += 1
            self.watch.step(loss, self.model)
        figures = {"loss": total_loss / seen, "grad_norm": total_norm / len(order), "lr": rate}
        return figures | ({"clipped": clipped / len(order)} if limit else {})

    def _set_learning_rate(self) -> float:
        rate = self.hp.optimizer.lr * multiplier(self.hp.schedule, self.step, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _backward(self, batch: Batch, indices: Tensor, examples: int) -> float:
        """Accumulate the gradient of the mean loss of the batch of ``examples``, of which ``batch`` is this rank's
        share, the examples ``indices``; returns that loss."""
        inputs, targets = batch
        if self.hp.data.augmentation > 0:
            inputs, targets = self.task.augment(inputs, targets, self.hp.data.augmentation)
        group, alone = self.group, self.group.size == 1
        parts = group.passes(len(inputs), examples, self.config.microbatch_size or examples)
        self.optimizer.zero_grad()
        total = 0.0
        pieces = zip(*(torch.split(values, parts) for values in (inputs, targets, indices)), strict=True)
        for some_inputs, some_targets, rows in pieces:
            with self._autocast():
                outputs = self.model(some_inputs)
                loss = self.task.loss(outputs, some_targets, self.hp.loss.label_smoothing)
                if self.teacher is not None:
                    loss = self.teacher.mix(self.task, loss, outputs, rows)
            value = loss.item()
            if alone:
                self._refuse_non_finite(value)
            share = len(some_inputs) / len(inputs) * group.weight(examples)
            torch.autograd.backward(self.scaler.scale(loss * share))
            total += value * share
        total = group.reduce([p for p in self.model.parameters() if p.requires_grad], total)
        # All ranks know the same here, and end together.
        self._refuse_non_finite(total)
        return total

    def _refuse_non_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise InfeasibleTrialError(
                Reason.NON_FINITE, f"training loss {loss} in epoch {self.epoch + 1}, step {self.step}"
            )

    def _update(self) -> float:
        """Clip, step, average; returns the gradient's norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = float(get_total_norm(gradients))
        limit = self.hp.optimizer.clip_norm
        if 0 < limit < norm < math.inf:
            torch._foreach_mul_(gradients, limit / norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.average is not None:
            self.average.update_parameters(self.model)
        return norm

    def evaluate(self) -> dict[str, float]:
        """The task's scores over the whole validation split.

        Raises:
            InfeasibleTrialError: a score is not finite.
        """
        model = self._evaluated()
        with self.watch.units(model, self.epoch):
            predictions, targets = self._predictions()
        self.watch.evaluated(predictions, targets)
        scores = as_scores(self.task, self.task.score(predictions, targets))
        for name, value in scores.items():
            if not math.isfinite(value):
                raise InfeasibleTrialError(Reason.NON_FINITE, f"validation {name} {value} after epoch {self.epoch}")
        return scores

    def _predictions(self) -> tuple[Tensor, Tensor]:
        """Predictions and targets of the whole validation split: each rank predicts a part of it."""
        model, group = self._evaluated(), self.group
        if group.size > size(self.splits.validation) and group.rank >= size(self.splits.validation):
            return group.gather(None)
        own = predict(
            self.task, model, self.splits.validation, self.config, self._autocast, part=(group.rank, group.size)
        )
        return group.gather(own)

    def state(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, as tensors and plain values."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "recent": [{"epoch": r.epoch, "value": r.value, "metrics": dict(r.metrics)} for r in self.recent],
            "best": self.best,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "tail": self.tail.state(),
            "scaler": self.scaler.state_dict(),
            "watch": self.watch.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.epoch, self.step, self.best = state["epoch"], state["step"], state["best"]
        self.recent = [EpochResult(**result) for result in state["recent"]]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.tail.restore(state["tail"])
        self.scaler.load_state_dict(state["scaler"])
        self.watch.restore(state["watch"])

    def _averaged_model(self) -> AveragedModel | None:
        decay = self.hp.optimizer.ema_decay
        if decay == 0:
            return None
        return AveragedModel(self.model, multi_avg_fn=_ema(decay), use_buffers=True)

    def _evaluated(self) -> nn.Module:
        return self.model if self.average is None else self.average.module

    def _autocast(self) -> AbstractContextManager[Any]:
        if not self.amp:
            return nullcontext()
        return torch.autocast("cuda", dtype=self.amp_type)

    def _to_device(self, batch: Batch) -> Batch:
        inputs, targets = batch
        return inputs.to(self.device, non_blocking=True), targets.to(self.device, non_blocking=True)


def _ema(decay: float) -> Any:
    return get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]


@torch.inference_mode()
def predict(
    task: Task,
    model: nn.Module,
    dataset: Any,
    config: TrainerConfig,
    autocast: Any = nullcontext,
    *,
    part: tuple[int, int] = (0, 1),
) -> tuple[Tensor, Tensor]:
    """The task's predictions and the targets of every example of ``dataset``, on the CPU.

    Args:
        part: which stretch of it, counted from 0, of how many.
    """
    found = list(predict_batches(task, model, dataset, config, autocast, part=part))
    return torch.cat([predictions for predictions, _ in found]), torch.cat([targets for _, targets in found])


def predict_batches(
    task: Task,
    model: nn.Module,
    dataset: Any,
    config: TrainerConfig,
    autocast: Any = nullcontext,
    *,
    part: tuple[int, int] = (0, 1),
) -> Iterator[Batch]:
    """The same batch by batch, in the data set's order."""
    model.eval()
    device = next(model.parameters()).device
    for inputs, targets in in_sequence(dataset, config.eval_batch_size, config.data_workers, *part):
        with torch.inference_mode():
            with autocast():
                outputs = model(inputs.to(device, non_blocking=True))
            predictions = task.predictions(outputs.float()).cpu()
        yield predictions, targets.cpu()
