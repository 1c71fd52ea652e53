"""A staged hyperparameter-search orchestrator for neural networks.

What a user's own task needs is here: :class:`Task`, :class:`ClassificationTask`,
:class:`RegressionTask`, :class:`Splits`, :class:`Direction`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits, Task
    from orchestrator.types import Direction

__version__ = "0.1.0"
__all__ = ["ClassificationTask", "Direction", "RegressionTask", "Splits", "Task"]


def __getattr__(name: str) -> Any:
    # Lazily: the tasks import PyTorch, which `--help` and an early error need not wait for.
    if name in __all__:
        from orchestrator import types
        from orchestrator.tasks import base

        return getattr(types if name == "Direction" else base, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
