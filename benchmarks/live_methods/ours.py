"""Ours: the product's own command, as a user gives it."""

import sys
from collections.abc import Sequence

from live_methods.jobs import Job
from orchestrator.files import data_folder

STAGES = ("start", "lr", "batch_size", "momentum", "width", "depth", "regularization", "joint")
"""Stages of the recipe that ask about what is searched here; the schedule is constant for every method."""
BUDGET = ("recipe.budget={high: 60, medium: 40, low: 20}", "stages.joint.budget=140")
"""Ten times the default budgets: the benchmark ends the search."""


def ours(job: Job) -> Sequence[str]:
    """The command of the product: the recipe on Ray with as many workers as the peers have."""
    problem = job.problem
    varied = ",".join(problem.ranges)
    words = [*problem.words, *BUDGET, f"recipe.order=[{','.join(STAGES)}]", f"seed={job.seed}"]
    words += [f"stages.{stage}.varies=[{varied}]" for stage in ("start", "joint")]
    words += ["stages.regularization.varies=[optimizer.weight_decay,model.dropout]"]
    where = [f"sweep.dir={job.folder}", "sweep.name=ours", "tracking=none"]
    place = ["runner=ray", f"runner.workers={job.workers}"]
    return [sys.executable, str(data_folder("conf").parent / "run.py"), "stage=all", *words, *where, *place]
