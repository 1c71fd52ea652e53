"""What a network predicts for a few fixed validation examples, epoch by epoch: its prediction dynamics.

How predictions move says what the loss alone hides (recipe.md K2, K3): classes that change to the end mean a rate
that is too large, predictions that hardly move mean one that is too small.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

EXAMPLES = 40
"""How many are followed, evenly over those watched: rows that a picture can show (our choice)."""


@dataclass
class Followed:
    """Grows by one row an epoch. Part of the loop state, so that a promoted trial has its parent's rows."""

    targets: Tensor | None = None
    """Shape (examples,): class numbers, or values."""
    values: list[Tensor] = field(default_factory=list)
    """Per epoch, shape (examples,), float32: probability of the right class, or the predicted value."""
    likeliest: list[Tensor] = field(default_factory=list)
    """Per epoch, shape (examples,), int32: the likeliest class; empty for values."""

    def add(self, predictions: Tensor, targets: Tensor, classes: int | None) -> None:
        """The predictions after one more epoch; ignored where an example has more than one target.

        Args:
            predictions: of the watched examples, in the split's order.
            targets: shape (examples,) or (examples, 1).
            classes: dimension of the classes in ``predictions``; None where values are predicted.
        """
        if targets.numel() != len(targets) or (classes is None and predictions.shape != targets.shape):
            return
        chosen = torch.linspace(0, len(targets) - 1, min(len(targets), EXAMPLES)).long()
        some, right = predictions[chosen], targets[chosen]
        self.targets = right.flatten().clone()
        if classes is None:
            self.values.append(some.flatten().float())
            return
        likely = some.movedim(classes, -1).reshape(len(chosen), -1)
        self.values.append(likely.gather(1, self.targets[:, None]).flatten().float())
        self.likeliest.append(likely.argmax(dim=1).int())

    def state(self) -> dict[str, Any]:
        """As tensors, shapes (epochs, examples)."""
        return {
            "targets": self.targets,
            "values": torch.stack(self.values) if self.values else None,
            "likeliest": torch.stack(self.likeliest) if self.likeliest else None,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.targets = state["targets"]
        self.values = list(state["values"]) if state["values"] is not None else []
        self.likeliest = list(state["likeliest"]) if state["likeliest"] is not None else []
