"""The script that a worker process begins with, run by its path.

It ties the process to its driver before it imports anything large: that takes seconds, in which the driver may be
killed.
"""

import ctypes
import importlib
import json
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Linux, ``prctl(2)``: the signal that this process gets when its parent ends."""


def main(module: str, descriptor: int, driver: int, path: list[str]) -> None:
    """Work for the process ``driver`` at the other end of ``descriptor``, with its ``sys.path``: ``module.serve``."""
    # Ctrl-C in a terminal, or a scheduler's SIGTERM, reaches every process of the command; what it means for a trial
    # is the driver's to say.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    # However the driver ends, and in the middle of an epoch. Elsewhere than on Linux a worker ends with its epoch,
    # when it cannot report.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != driver:
        os._exit(0)
    sys.path[:] = path
    importlib.import_module(module).serve(descriptor)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
