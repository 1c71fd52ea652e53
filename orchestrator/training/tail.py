"""The mean of the weights over the last epochs of a run: stochastic weight averaging (SWA).

Izmailov et al. 2018, arXiv 1803.05407. It is kept beside the weights that are trained and changes nothing of the
training; the ensemble stage makes a candidate of it.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


class Tail:
    """Averages a model's state after each of the last epochs. Part of the loop state."""

    def __init__(self, epochs: int, share: float) -> None:
        """``epochs``: budget of the trial; ``share``: of them that are averaged, the last ones; 0: none."""
        self.first = epochs - math.ceil(share * epochs) + 1
        """The first epoch (from 1) that is averaged."""
        self.count = 0
        self.mean: dict[str, Tensor] = {}

    def add(self, model: nn.Module, epoch: int) -> None:
        """``model`` has just been trained for ``epoch`` epochs (from 1)."""
        if epoch < self.first:
            return
        self.count += 1
        for name, value in model.state_dict().items():
            now = value.detach().cpu()
            if self.count == 1 or not now.is_floating_point():
                self.mean[name] = now.clone()
            else:
                self.mean[name] = torch.lerp(self.mean[name], now, 1 / self.count)

    def state(self) -> dict[str, Any]:
        """As tensors and plain values."""
        return {"first": self.first, "count": self.count, "mean": self.mean}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`, unless it began to average for another budget."""
        if state["first"] == self.first:
            self.count, self.mean = state["count"], dict(state["mean"])
