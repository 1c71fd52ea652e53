"""What users write, right and wrong; named by import path in the tests."""

from typing import Any

from torch import nn

from orchestrator.tasks.digits import DigitsMLP
from orchestrator.tasks.tabular import Diabetes


class NotATask:
    pass


class UnknownObjective(DigitsMLP):
    objective = "acuracy"


class Needy(DigitsMLP):
    def model(self, heads: int, width: int = 8) -> nn.Module:  # type: ignore[override]
        return super().model(width=width)


class OpenEnded(DigitsMLP):
    def model(self, width: int = 8, **more: Any) -> nn.Module:  # type: ignore[override]
        return super().model(width=width)


class Counted(Diabetes):
    built = 0

    def __init__(self, split_seed: int = 0) -> None:
        type(self).built += 1
        super().__init__(split_seed)


CONSTANT = 3
