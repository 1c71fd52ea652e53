"""A task in whose worker processes memory is short. They import this module, so it holds no tests."""

import resource
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from orchestrator import ClassificationTask, Splits

ROOM = 300 * 1024**2
"""Bytes of address space that a worker may take beside what it has when it makes its first model."""
UNITS = 100_000
"""Of the hidden layer: 0.4 MB an example, and as much again for each step on the way."""


class Limited(ClassificationTask):
    """400 examples of 4 inputs. ``main``: the process that is not limited, the test's own."""

    def __init__(self, main: int = 0) -> None:
        self.main = main

    def splits(self) -> Splits:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(500, 4, generator=generator)
        targets = (inputs[:, 0] > 0).long()
        return Splits(*(TensorDataset(inputs[a:b], targets[a:b]) for a, b in ((0, 400), (400, 450), (450, 500))))

    def model(self, width: int = 8) -> nn.Module:
        import os

        if os.getpid() != self.main and resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
            held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (held + ROOM, resource.RLIM_INFINITY))
        return nn.Sequential(nn.Linear(4, UNITS), nn.Tanh(), nn.Linear(UNITS, 2))
