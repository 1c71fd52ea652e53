"""Weights averaged instead of predictions: along one run, and greedy soups of what has one initialisation.

SWA: Izmailov et al. 2018, arXiv 1803.05407; soups: Wortsman et al. 2022, arXiv 2203.05482.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from orchestrator.training.data import in_sequence

State = dict[str, Tensor]
"""A model's parameters and buffers by name."""


def mean_state(states: Iterable[State]) -> State:
    """The mean of every floating-point tensor; of whole numbers (counters) the last. One at a time is in memory.

    Raises:
        ValueError: they are not of one shape.
    """
    mean: State = {}
    for count, state in enumerate(states, start=1):
        if count > 1 and {n: v.shape for n, v in state.items()} != {n: v.shape for n, v in mean.items()}:
            raise ValueError("weights of different shapes cannot be averaged")
        for name, value in state.items():
            if count == 1 or not value.is_floating_point():
                mean[name] = value.clone()
            else:
                mean[name] = torch.lerp(mean[name], value, 1 / count)
    return mean


def recompute_batch_norm(model: nn.Module, dataset: Any, batch_size: int, workers: int) -> None:
    """Make the running statistics of batch norm anew, over ``dataset`` in its order; nothing without such layers.

    Those of averaged weights belong to none of the networks that were averaged.
    """
    if not any(isinstance(layer, _BatchNorm) for layer in model.modules()):
        return
    device = next(model.parameters()).device
    with torch.inference_mode():
        update_bn(in_sequence(dataset, batch_size, workers), model, device=device)


def greedy_soup(count: int, cost: Callable[[Sequence[int]], float]) -> list[int]:
    """Which of ``count`` ingredients to average: the best, and each of the others, best first, that lowers the cost.

    Args:
        count: networks of one initialisation and shape.
        cost: on validation, of the mean of the weights of those with these indices.
    """
    singles = [cost([index]) for index in range(count)]
    order = sorted(range(count), key=lambda index: singles[index])
    chosen, least = [order[0]], singles[order[0]]
    for index in order[1:]:
        found = cost([*chosen, index])
        if found < least:
            chosen, least = [*chosen, index], found
    return chosen
