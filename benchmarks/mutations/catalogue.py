"""All faults in one list, and the cells that a run checks."""

import functools

from benchmarks.mutations import faults_data, faults_held_out, faults_loop, faults_model, faults_second
from benchmarks.mutations.planting import Fault

FAULTS: tuple[Fault, ...] = (
    *faults_model.FAULTS,
    *faults_data.FAULTS,
    *faults_loop.FAULTS,
    *faults_held_out.FAULTS,
    *faults_second.FAULTS,
    *faults_model.EQUIVALENT,
)


@functools.cache
def by_name() -> dict[str, Fault]:
    """Faults by name."""
    return {fault.name: fault for fault in FAULTS}
