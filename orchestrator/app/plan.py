"""``dry_run=true``: what a command would do and cost at most."""

from orchestrator.progress import table
from orchestrator.stages.ledger import Ledger
from orchestrator.stages.sweep import LEDGER_FILE, Plan
from orchestrator.study.pruners import rungs_of
from orchestrator.tasks.loading import load_once
from orchestrator.training.data import size, steps_per_epoch


def describe_plan(plan: Plan, stages: list[str], tracking: str) -> str:
    """Stages, trials, epochs, the most they can cost, and where results go. Reads, and writes nothing."""
    config = plan.config
    ledger = Ledger.read(plan.folder / LEDGER_FILE)
    epochs = config.trainer.epochs
    rows = [["stage", "asks", "varies", "trials", "epochs at most"]]
    total = 0
    for name in stages:
        settings = config.stages[name]
        varied = [item for item in settings.varies if item in plan.space]
        trials = config.n_trials or settings.n_trials
        if ledger is not None and name in ledger.finished:
            rows.append([name, settings.asks, "finished before", "0", "0"])
        elif settings.kind != "search":
            rows.append([name, settings.asks, "-", "0", "0"])
        elif not varied:
            rows.append([name, settings.asks, "nothing on this task: skipped", "0", "0"])
        else:
            again = [item for item in settings.retunes if item in plan.space and item not in varied]
            what = ", ".join(varied) + (f" (again: {', '.join(again)})" if again else "")
            rows.append([name, settings.asks, what, str(trials), str(trials * epochs)])
            total += trials * epochs
    examples = size(load_once(config.task)[1].train)
    steps = total * steps_per_epoch(examples, int(plan.base["data.batch_size"]))
    rungs = ", ".join(map(str, rungs_of(config.pruner, epochs))) if config.pruner.name != "none" else "none"
    return "\n".join(
        [
            f"plan of sweep {plan.name}: task {config.task.name}, objective {plan.task.objective} "
            f"({plan.task.direction}), seed {config.seed}",
            table(rows),
            f"worst case: {total} epochs of {examples} examples, {steps} steps at the default batch size; "
            f"stopping early ({config.pruner.name}, rungs {rungs}) makes it less",
            f"runner {config.runner.name}, sampler {config.sampler.name}",
            f"results: {plan.folder}" + (f" and {tracking}" if config.tracking.name == "mlflow" else ""),
            "dry run: nothing was started",
        ]
    )
