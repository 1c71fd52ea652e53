"""The search's linear algebra on one thread.

Its matrices have a few hundred rows. BLAS would divide them among all cores of the machine, where trials work: on two
busy cores that took six times the CPU (``benchmarks/scale.py``). And sums come out the same wherever they are made.
"""

import threading
from collections.abc import Callable
from functools import cache, wraps
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
T = TypeVar("T")

_LOCK = threading.RLock()
"""The number of threads is the process's: who sets it back last must be who set it first."""


def on_one_thread(act: Callable[P, T]) -> Callable[P, T]:
    """``act``, with one thread for numpy's and scipy's linear algebra. PyTorch keeps its own."""

    @wraps(act)
    def limited(*arguments: P.args, **named: P.kwargs) -> T:
        with _LOCK, _blas().limit(limits=1):
            return act(*arguments, **named)

    return limited


@cache
def _blas() -> ThreadpoolController:
    """The libraries; they are loaded when it is first asked for."""
    return ThreadpoolController().select(user_api="blas")
