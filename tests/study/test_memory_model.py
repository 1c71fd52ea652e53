"""What fits into memory, foreseen from measured peaks."""

import math
from dataclasses import replace

import numpy as np
from test_feasibility import DONE, ENCODING, at

from orchestrator.study.feasibility import Feasibility
from orchestrator.types import Configuration, MemoryUse, Reason, TrialState

MB = 2**20
LIMIT = 1000 * MB


def took(configuration: Configuration) -> int:
    """Bytes: 20 MB, and 0.5 for each example and layer."""
    return int((20 + 0.5 * int(configuration["data.batch_size"]) * int(configuration["model.depth"])) * MB)


def learnt(*tried: Configuration, limit: int, where: str = "gpu") -> Feasibility:
    """From trials that fail beyond the limit, and were measured where they did not."""
    records = []
    for item in tried:
        use = MemoryUse(where, took(item), limit)
        if took(item) <= LIMIT:
            records.append(replace(DONE, memory=(use,)))
        else:
            reason = Reason.OUT_OF_MEMORY if where == "gpu" else Reason.HOST_OUT_OF_MEMORY
            records.append(replace(DONE, state=TrialState.INFEASIBLE, value=None, reason=reason))
    return Feasibility(ENCODING, np.array([ENCODING.place(item) for item in tried]), records)


def chance(found: Feasibility, configuration: Configuration) -> float:
    return float(found.probability(ENCODING.place(configuration)[None, :])[0])


def test_what_does_not_fit_is_foreseen_before_anything_failed() -> None:
    found = learnt(at(64, 2), at(64, 4), at(256, 2), at(128, 4), limit=LIMIT)
    assert chance(found, at(1024, 8)) < 0.05
    assert chance(found, at(512, 8)) < 0.2
    assert chance(found, at(256, 4)) == 1
    # Near the limit it is open; what was measured fits.
    assert 0.05 < chance(found, at(512, 4, lr=1.0)) < 1
    assert chance(found, at(128, 4)) == 1


def test_small_peaks_change_nothing() -> None:
    small = learnt(at(16, 1), at(32, 1), at(16, 2), limit=20 * LIMIT)
    everything = np.array([ENCODING.place(at(*sizes)) for sizes in ((16, 1), (1024, 8), (64, 2))])
    assert (small.probability(everything) == 1).all()
    assert small.smaller(everything).shape == (0, everything.shape[1])


def test_a_limit_that_others_share_is_learnt_to_be_lower() -> None:
    """There is five times as much, but a trial ran out of memory all the same."""
    fitted = at(64, 2), at(256, 2), at(128, 4)
    for where in ("gpu", "host"):
        free = learnt(*fitted, limit=5 * LIMIT, where=where)
        shared = learnt(*fitted, at(512, 8), limit=5 * LIMIT, where=where)
        assert chance(free, at(512, 7)) == 1
        assert chance(shared, at(512, 7)) < 0.5
        assert chance(shared, at(512, 8)) == 0
        assert chance(shared, at(128, 4)) == 1


def test_sizes_are_traded_where_memory_is_full() -> None:
    found = learnt(at(512, 2), at(1024, 1), at(256, 4), at(128, 8), at(1024, 8), at(512, 8), limit=LIMIT)
    wished = at(1024, 4)
    assert chance(found, wished) < 0.9
    smaller = [ENCODING.configuration(place, wished) for place in found.smaller(ENCODING.place(wished)[None, :])]
    changed = {name for item in smaller for name in item if item[name] != wished[name]}
    assert changed == {"data.batch_size", "model.depth"}, "each by itself, and nothing else"
    for item in smaller:
        assert took(item) <= LIMIT
        assert took(item) > 0.4 * LIMIT, "no smaller than it must be"
    assert math.isclose(chance(found, smaller[0]), 1, abs_tol=0.05)
