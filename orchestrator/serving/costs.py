"""What predicting with a network costs here."""

from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

_PASSES = 3
"""Forward passes of which the fastest counts, after a first one (our choice)."""


@dataclass(frozen=True)
class Costs:
    """Of a network on the machine that measured it."""

    parameters: int
    megabytes: float
    """Parameters and buffers in memory, in 1e6 bytes."""
    ms_per_example: float
    """Milliseconds of a forward pass divided by the examples of its batch."""


def costs_of(network: nn.Module, inputs: Tensor) -> Costs:
    """Measure ``network`` on the batch ``inputs``, which lies on its device."""
    found = []
    for _ in range(1 + _PASSES):
        started = perf_counter()
        with torch.inference_mode():
            network(inputs)
            if inputs.is_cuda:
                torch.cuda.synchronize(inputs.device)
        found.append(perf_counter() - started)
    tensors = [*network.parameters(), *network.buffers()]
    return Costs(
        parameters=sum(value.numel() for value in network.parameters()),
        megabytes=sum(value.numel() * value.element_size() for value in tensors) / 1e6,
        ms_per_example=min(found[1:]) / len(inputs) * 1e3,
    )
