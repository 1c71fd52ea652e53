"""The loop state of a trial on disk: one dictionary of tensors and plain values."""

from pathlib import Path
from typing import Any

import torch

from orchestrator.errors import OrchestratorError
from orchestrator.files import replacing

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write ``state`` durably; a reader finds the old file or the new one."""
    with replacing(folder / NAME) as aside:
        torch.save(state, aside)


def exists(folder: Path) -> bool:
    """Whether ``folder`` holds a checkpoint."""
    return (folder / NAME).exists()


def load(folder: Path) -> dict[str, Any]:
    """The state saved last, on the CPU. No code in it is executed (``weights_only``).

    Raises:
        OrchestratorError: the file is damaged.
    """
    path = folder / NAME
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise OrchestratorError(
            f"{path}: cannot be read ({type(error).__name__}); remove it to train the trial from its start"
        ) from error
    return state
