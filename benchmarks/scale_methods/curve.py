"""What a sleeping trial reports."""

import math

from orchestrator.types import Configuration


def value_of(configuration: Configuration, seed: int, epoch: int) -> float:
    """A smooth loss with its best learning rate at 0.01 and batch size at 64, and some seed noise."""
    rate, batch = float(configuration["optimizer.lr"]), float(configuration["data.batch_size"])
    gap = abs(math.log10(rate / 0.01)) + 0.3 * abs(math.log10(batch / 64))
    return 1.0 + gap + 2.0 / epoch + (seed % 97) / 5000


def metrics(seconds: float) -> dict[str, float]:
    """As many as a training has."""
    return {"seconds": seconds, **{f"train/m{number}": 0.5 for number in range(7)}}
