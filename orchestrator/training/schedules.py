"""Learning-rate schedules as pure functions of the optimizer step, so that resuming needs no state."""

import math

from orchestrator.config.hyperparameters import ScheduleConfig

ONE_CYCLE_START = 1 / 25
"""One-cycle begins at this share of the peak (PyTorch's ``OneCycleLR``, ``div_factor``)."""
ONE_CYCLE_RISE = 0.3
"""Share of the steps in which one-cycle rises (PyTorch's ``pct_start``)."""


def multiplier(config: ScheduleConfig, step: int, total: int) -> float:
    """The learning rate at optimizer step ``step`` (from 0) of ``total``, as a multiple of the peak.

    Warm-up rises linearly to the peak over its share of the steps; the shape covers the rest. The last
    step of linear, cosine and one_cycle is at ``final``; from ``total`` on the rate stays. One-cycle brings its
    own warm-up unless one is given (Smith & Topin 2018, arXiv 1708.07120; momentum is not cycled).
    """
    warmup = round(config.warmup * total)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(1, total - 1 - warmup)
    return _shape(config, min(progress, 1.0), own_rise=warmup == 0)


def _shape(config: ScheduleConfig, progress: float, *, own_rise: bool) -> float:
    if config.kind == "constant":
        return 1.0
    if config.kind == "step":
        # max: a factor of 0 would end the training, which is never what a step schedule is for.
        factor = max(config.final, 0.1)
        return factor ** min(config.drops, math.floor(progress * (config.drops + 1)))
    if config.kind == "linear":
        return 1.0 + (config.final - 1.0) * progress
    if config.kind == "one_cycle" and own_rise:
        if progress < ONE_CYCLE_RISE:
            return _cosine(ONE_CYCLE_START, 1.0, progress / ONE_CYCLE_RISE)
        progress = (progress - ONE_CYCLE_RISE) / (1 - ONE_CYCLE_RISE)
    return _cosine(1.0, config.final, progress)


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
