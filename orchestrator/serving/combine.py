"""Several networks' predictions as one."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Form = Literal["classes", "labels", "values"]
"""What the predictions are: probabilities of classes that exclude each other, of labels that do not, or values."""


def combine(
    predictions: Sequence[Tensor], shares: Sequence[float], temperature: float | None, form: Form, axis: int = 1
) -> Tensor:
    """Predictions averaged by ``shares``, then the temperature; float64.

    Args:
        predictions: what ``task.predictions`` gives, examples first; of each member.
        shares: of each member; they sum to 1.
        temperature: divides the logarithms of the averaged probabilities (of labels: their logits); None: they stay.
        form: of the predictions.
        axis: with form ``classes``: their dimension.
    """
    average = torch.zeros_like(predictions[0], dtype=torch.float64)
    for share, values in zip(shares, predictions, strict=True):
        average = average + share * values.double()
    return with_temperature(average, temperature, form, axis)


def with_temperature(probabilities: Tensor, temperature: float | None, form: Form, axis: int = 1) -> Tensor:
    """Probabilities made softer (temperature above 1) or sharper (below 1); Guo et al. 2017, arXiv 1706.04599.

    Their logits are divided by it, up to the constant that the softmax ignores. Values are left alone.
    """
    if temperature is None or form == "values":
        return probabilities
    least = torch.finfo(probabilities.dtype).tiny
    logs = probabilities.clamp_min(least).log()
    if form == "classes":
        return (logs / temperature).softmax(dim=axis)
    others = (1 - probabilities).clamp_min(least).log()
    return ((logs - others) / temperature).sigmoid()
