"""How much memory a trial takes: its peak, of the machine and of the GPU.

The machine's is the growth of this process's resident set over what it was when the trial began, by the kernel's
own high-water mark (``VmHWM``, which a process may reset; proc(5), ``clear_refs``). Processes that the trial starts
(``trainer.data_workers``, other ranks) are not in it.
"""

import ctypes
import os
from pathlib import Path

import torch

from orchestrator.types import MemoryUse

GPU_SHARE = 0.95
"""Of a GPU's memory, what PyTorch's tensors may take: the CUDA context and fragments take the rest (our guess)."""
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""What Linux allows a container: control groups of version 2, and 1."""


class MemoryMeter:
    """Measures one trial, from now on.

    Args:
        device: where it is trained.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device if device.type == "cuda" else None
        self._before = _reset_peak()
        self._limit = _machine_limit()
        if self._device is not None:
            torch.cuda.reset_peak_memory_stats(self._device)

    def read(self) -> tuple[MemoryUse, ...]:
        """The peaks so far; without what cannot be measured here."""
        found = []
        if self._before is not None and (peak := _status("VmHWM")) is not None:
            found.append(MemoryUse("host", max(0, peak - self._before), max(1, self._limit - self._before)))
        if self._device is not None:
            total = torch.cuda.get_device_properties(self._device).total_memory
            found.append(MemoryUse("gpu", torch.cuda.max_memory_allocated(self._device), int(GPU_SHARE * total)))
        return tuple(found)


def _reset_peak() -> int | None:
    """Forget the peak of what came before; returns the bytes held now, None where the kernel cannot forget."""
    try:
        # What the trial before has freed, but the allocator has kept, would not count as growth.
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except (OSError, AttributeError):
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    """Bytes of an entry of ``/proc/self/status``."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return 1024 * int(line.split()[1])
    return None


def _machine_limit() -> int:
    """Bytes that the machine has, or the container may use."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _LIMITS:
        try:
            text = path.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdigit():
            found.append(int(text))
    return min(found)
