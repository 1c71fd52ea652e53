"""One training on several ranks: each takes a share of every batch, and all make the same steps.

The batch size is the global one. With n examples in a batch and n_r of them on rank r, the gradient of the batch's
mean loss is the sum over ranks of n_r / n times the gradient of the rank's mean loss; that is what is summed here, in
one message a step. PyTorch's ``DistributedDataParallel`` averages over ranks instead, which is another gradient
wherever the shares differ. Batch norm takes its statistics over all ranks.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class Group:
    """The ranks of a training; by itself, a single one, for which nothing changes."""

    rank = 0
    size = 1

    def share(self, indices: Tensor) -> Tensor:
        """This rank's part of a batch, given by index."""
        return indices

    def weight(self, examples: int) -> float:
        """How much the mean over this rank's share counts in the mean over the batch of ``examples``."""
        return 1.0

    def passes(self, own: int, examples: int, largest: int) -> list[int]:
        """Sizes of the forward passes of this rank's ``own`` examples, each of at most ``largest``."""
        return [min(largest, own - start) for start in range(0, own, largest)]

    def reduce(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """Make each gradient the sum over ranks; returns the sum of ``loss``."""
        return loss

    def gather(self, values: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """Predictions and targets of all ranks, in their order; a rank without any gives None."""
        assert values is not None
        return values

    def begin_epoch(self) -> None:
        """Let the other ranks begin, too."""

    def end_epoch(self) -> None:
        """The other ranks are at the end, too."""

    def adapt(self, model: nn.Module) -> nn.Module:
        """``model`` for training on all ranks, with the same parameters and the same names."""
        return model


ALONE = Group()


class Rank(Group):
    """One of several, in PyTorch's default process group."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank = rank
        self.size = size
        self._norms: list[GlobalBatchNorm] = []

    def share(self, indices: Tensor) -> Tensor:
        """See :class:`Group`. Shares differ by one example at most; of fewer examples than ranks each takes all."""
        return indices if len(indices) < self.size else torch.tensor_split(indices, self.size)[self.rank]

    def weight(self, examples: int) -> float:
        """See :class:`Group`."""
        if examples < self.size:
            return 1 / self.size
        return len(torch.tensor_split(torch.arange(examples), self.size)[self.rank]) / examples

    def passes(self, own: int, examples: int, largest: int) -> list[int]:
        """See :class:`Group`. As many on every rank, because batch norm waits for the others in each."""
        least = max(1, examples // self.size) if examples >= self.size else examples
        most = -(-examples // self.size) if examples >= self.size else examples
        for norm in self._norms:
            norm.copies = 1 if examples >= self.size else self.size
        count = min(-(-most // largest), least)
        return [len(part) for part in torch.tensor_split(torch.arange(own), count)]

    def reduce(self, parameters: Sequence[nn.Parameter], loss: float) -> float:
        """See :class:`Group`. A parameter that no rank's loss depends on keeps no gradient."""
        if not parameters:
            return loss
        device = parameters[0].device
        flags = [float(p.grad is not None) for p in parameters]
        told = torch.tensor([loss, *flags], dtype=torch.float64, device=device)
        dist.all_reduce(told)
        total, *used = told.tolist()
        for kind in dict.fromkeys(p.dtype for p in parameters):
            own = [p for p, ranks in zip(parameters, used, strict=True) if p.dtype is kind and ranks > 0]
            for parameter in own:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients = [p.grad for p in own if p.grad is not None]
            if not gradients:
                continue
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            dist.all_reduce(flat)
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            for gradient, part in zip(gradients, parts, strict=True):
                gradient.copy_(part.view_as(gradient))
        return float(total)

    def gather(self, values: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
        """See :class:`Group`."""
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, values)
        known = [pair for pair in found if pair is not None]
        return torch.cat([predictions for predictions, _ in known]), torch.cat([targets for _, targets in known])

    def adapt(self, model: nn.Module) -> nn.Module:
        """See :class:`Group`. Every rank begins with the parameters of rank 0."""
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, 0)
        model = _with_global_norms(model)
        self._norms = [module for module in model.modules() if isinstance(module, GlobalBatchNorm)]
        return model


def _with_global_norms(module: nn.Module) -> nn.Module:
    if isinstance(module, _BatchNorm) and not isinstance(module, GlobalBatchNorm):
        return GlobalBatchNorm.of(module)
    for name, child in module.named_children():
        setattr(module, name, _with_global_norms(child))
    return module


class _Sum(torch.autograd.Function):
    """The sum over ranks, in which every rank's part counts alike: so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        """Give the sum."""
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Give the gradient of the part."""
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum(values: Tensor) -> Tensor:
    return cast(Tensor, _Sum.apply(values))  # type: ignore[no-untyped-call]


class GlobalBatchNorm(_BatchNorm):
    """Batch norm whose statistics are those of the whole batch, over all ranks.

    PyTorch's own ``SyncBatchNorm`` does the same, on GPUs only. Names and shapes of parameters and buffers are those
    of the layer that it stands for, so that checkpoints fit either.
    """

    copies = 1
    """How many ranks see each example of this batch."""

    @classmethod
    def of(cls, layer: _BatchNorm) -> "GlobalBatchNorm":
        """What stands for ``layer``, with the same parameters and buffers."""
        made = cls(layer.num_features, layer.eps, layer.momentum, affine=False, track_running_stats=False)
        made.affine, made.track_running_stats, made.training = layer.affine, layer.track_running_stats, layer.training
        made.weight, made.bias = layer.weight, layer.bias
        made.running_mean, made.running_var = layer.running_mean, layer.running_var
        made.num_batches_tracked = layer.num_batches_tracked
        return made

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(f"expected at least 2 dimensions, got {input.dim()}")

    def forward(self, input: Tensor) -> Tensor:
        """Normalise ``input`` of shape (examples, features, ...)."""
        if not self.training:
            return super().forward(input)
        self._check_input_dim(input)
        over = [dimension for dimension in range(input.dim()) if dimension != 1]
        shape = [1, -1, *[1] * (input.dim() - 2)]
        # In single precision, as PyTorch does under automatic mixed precision.
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        count = values.new_tensor([values.numel() / values.shape[1]])
        total = _sum(torch.cat([values.sum(over), count]))
        number = total[-1].detach()
        mean = total[:-1] / number
        centred = values - mean.view(shape)
        variance = _sum(centred.square().sum(over)) / number
        self._track(mean.detach(), variance.detach(), float(number))
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape)
        if self.bias is not None:
            normal = normal + self.bias.view(shape)
        return normal.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, number: float) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
        examples = number / self.copies
        unbiased = variance * (examples / max(1.0, examples - 1))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
