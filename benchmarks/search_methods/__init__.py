"""The search methods that ``benchmarks/search.py`` compares, by name.

A method is a function ``method(objective, seed, start=None)`` that searches until the objective raises that its
budget is spent: ``objective`` is a :class:`~search_methods.objective.TimedObjective`, ``seed`` a whole number,
``start`` the configuration to run first (none: the method's own choice). Methods are imported when first used, so
that Ray is not needed to run Optuna.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from search_methods.objective import TimedObjective

Method = Callable[[TimedObjective, int, dict[str, Any] | None], None]

METHODS: dict[str, tuple[str, str]] = {  # name: (module of this package, function)
    "random": ("baselines", "random"),
    "one_epoch": ("baselines", "one_epoch"),
    "naive_staging": ("baselines", "naive_staging"),
    "tpe": ("optuna_peers", "tpe"),
    "gp": ("optuna_peers", "gp"),
    "tpe_hyperband": ("optuna_peers", "tpe_hyperband"),
    "tpe_halving": ("optuna_peers", "tpe_halving"),
    "ray_optuna_asha": ("ray_peers", "optuna_asha"),
    "ray_random_asha": ("ray_peers", "random_asha"),
    "bohb": ("syne_tune_peers", "bohb"),
    "ours": ("ours", "ours"),
    "ours_joint": ("ours", "ours_joint"),
}
PRODUCT = ("ours", "ours_joint")


def load(name: str) -> Method:
    """The method called ``name``; raises KeyError for an unknown one."""
    module, function = METHODS[name]
    found: Method = getattr(import_module(f"search_methods.{module}"), function)
    return found
