"""Settings of the group ``runner``: where trials run."""

from typing import Literal, Self

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunnerConfig:
    """Where trials run."""

    name: Literal["local", "inline", "ray"] = "ray"
    """In worker processes on this machine; in the command's own process, one by one; on Ray."""
    workers: int | None = Field(default=None, ge=1)
    """local, ray: trials at a time; null: as many as fit the CPUs (and on Ray the GPUs, if asked for)."""
    cpus_per_trial: int = Field(default=1, ge=1)
    """CPU cores, and PyTorch threads, per trial; of all its ranks together (trainer.workers)."""
    gpus_per_trial: float = Field(default=0.0, ge=0.0)
    """GPUs per trial; 0.25 puts four trials on a card."""
    pack: Literal["auto"] | None = None
    """auto: a trial begins where a card, and a machine's memory, has room for all that it may take, by what others of
    the sweep were measured to take; the first ones by gpus_per_trial, and without GPUs by themselves. null:
    gpus_per_trial and workers decide."""
    memory_gb: float | None = Field(default=None, gt=0)
    """pack=auto: gigabytes of this machine's memory for all trials; null: what is free when the command begins, and
    on Ray seven tenths of it. Nodes of a cluster say it themselves (ray start --memory)."""
    address: str | None = None
    """Ray cluster to join (auto, HOST:PORT); null: start a private one on this machine."""
    wait_s: float = Field(default=600.0, ge=0)
    """With an address: seconds to wait for room for a trial, where workers says how much the cluster is asked to
    grow (one minute where it has no autoscaler), or where all nodes with room have gone. A cloud's GPU node takes
    minutes (our guess)."""
    working_dir: str | None = "."
    """With an address: folder whose code and data travel to the workers; null: none, all nodes share it."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.address is not None and self.address.startswith("ray://"):
            raise ValueError(
                f"address={self.address}: Ray Client (ray://) is not supported, because study and searcher would run "
                "elsewhere; run the command on a node with address=auto, or bring it there with ray job submit"
            )
        if self.pack is not None and self.name == "inline":
            raise ValueError("pack=auto: runner=inline runs one trial at a time; runner=local or ray can pack them")
        if self.pack is not None and self.gpus_per_trial > 1:
            raise ValueError(
                f"pack=auto puts several trials on a card: gpus_per_trial={self.gpus_per_trial:g} is above 1"
            )
        if self.memory_gb is not None and (self.pack is None or self.address is not None):
            raise ValueError(
                f"memory_gb={self.memory_gb:g}: limits what pack=auto packs on this machine; nodes of a cluster are "
                "given theirs by ray start --memory"
            )
        if self.gpus_per_trial > 1 and self.gpus_per_trial % 1:
            raise ValueError(f"gpus_per_trial={self.gpus_per_trial} must be below 1 or whole")
        return self
