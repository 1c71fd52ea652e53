"""A staged hyperparameter-search orchestrator for neural networks.

What a user's own task needs is here: :class:`Task`, :class:`ClassificationTask`,
:class:`RegressionTask`, :class:`Splits`, :class:`Interface`, :class:`Direction`; :func:`run_preflight`,
which checks it before anything is tuned; what tries settings out without training: :func:`compose`,
:func:`simulate`; and the search by itself, for plain Optuna: :class:`StagedSampler`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.app.simulate import Simulation, simulate
    from orchestrator.config.entry import compose
    from orchestrator.preflight.run import run_preflight
    from orchestrator.study.plain.sampler import StagedSampler
    from orchestrator.tasks.base import ClassificationTask, Interface, RegressionTask, Splits, Task
    from orchestrator.types import Direction

__version__ = "0.1.0"
_HOMES = {
    "ClassificationTask": "tasks.base",
    "Direction": "types",
    "Interface": "tasks.base",
    "RegressionTask": "tasks.base",
    "Simulation": "app.simulate",
    "Splits": "tasks.base",
    "StagedSampler": "study.plain.sampler",
    "Task": "tasks.base",
    "compose": "config.entry",
    "run_preflight": "preflight.run",
    "simulate": "app.simulate",
}
__all__ = [
    "ClassificationTask",
    "Direction",
    "Interface",
    "RegressionTask",
    "Simulation",
    "Splits",
    "StagedSampler",
    "Task",
    "compose",
    "run_preflight",
    "simulate",
]


def __getattr__(name: str) -> Any:
    # Lazily: the tasks import PyTorch, which `--help` and an early error need not wait for.
    if name in _HOMES:
        return getattr(import_module(f"orchestrator.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
