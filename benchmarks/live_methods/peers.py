"""What the peers' modules share: their command line, and what they tell of a training."""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from live_methods.jobs import Job
from live_methods.problems import Problem, to_configuration
from orchestrator.errors import InfeasibleTrialError
from orchestrator.seeds import derive_seed
from orchestrator.types import TrialSpec, Value

GUESS: Mapping[str, float] = {
    "digits_mlp": math.log(10),
    "digits_cnn": math.log(10),
    "breast_cancer": math.log(2),
    "diabetes": 1.0,
    "images": math.log(10),
}
"""Validation loss of guessing."""
WORST = 2.0
"""A peer is told at most this many times :data:`GUESS`, and that for a training that diverged at once: a loss of
thousands would spoil its surrogate (our choice, in the peers' favour)."""


def command(module: str, job: Job) -> Sequence[str]:
    """The words that make ``module`` do the job."""
    words = [sys.executable, "-m", f"live_methods.{module}", job.method, "--task", job.task, "--seed", str(job.seed)]
    return [*words, "--folder", str(job.folder), "--workers", str(job.workers), "--extra", *job.extra]


def parser(description: str | None) -> argparse.ArgumentParser:
    """Reads the words of :func:`command`; see :func:`job_of`."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("method")
    found.add_argument("--task", required=True)
    found.add_argument("--seed", type=int, required=True)
    found.add_argument("--folder", type=Path, required=True)
    found.add_argument("--workers", type=int, default=2)
    found.add_argument("--extra", nargs="*", default=[])
    return found


def job_of(words: argparse.Namespace) -> Job:
    return Job(words.method, words.task, words.seed, words.folder, words.workers, tuple(words.extra))


def losses(problem: Problem, parameters: Mapping[str, Value], seed: int) -> Iterator[float]:
    """Train; yields after each epoch the best validation loss so far, as it is told to peers."""
    configuration = to_configuration(problem, parameters)
    # From the configuration: Tune does not number its trials.
    trial_seed = derive_seed("live", seed, *(f"{name}={value}" for name, value in sorted(configuration.items())))
    spec = TrialSpec(0, "live", configuration, trial_seed, problem.config.trainer.epochs, Path(), keep=False)
    best = WORST * GUESS[problem.name]
    try:
        for result in problem.program(spec):
            best = min(best, result.value)
            yield best
    except InfeasibleTrialError:
        yield best
