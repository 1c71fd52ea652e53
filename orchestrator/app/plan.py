"""``dry_run=true``: what a command would do and cost at most."""

import statistics

from orchestrator.config.schema import RunConfig
from orchestrator.progress import cut, duration, table
from orchestrator.stages.ledger import Ledger
from orchestrator.stages.sweep import LEDGER_FILE, Plan
from orchestrator.stages.visits import Visit, make_visits, varied
from orchestrator.study.pruners import rungs_of
from orchestrator.study.study import SweepStudy
from orchestrator.tasks.loading import load_once
from orchestrator.training.data import size, steps_per_epoch
from orchestrator.training.probe import check_task

_WIDEST = 60
"""Characters of a cell, so that the table fits most terminals."""


def stages_of(config: RunConfig) -> list[str]:
    """The stages that the command runs."""
    return list(config.recipe.order) if config.stage.name == "all" else [config.stage.name]


def try_task(plan: Plan) -> None:
    """One small batch through the task with the first configuration, before anything is made.

    Raises:
        ConfigError: a method of the task gives what it should not.
        UserCodeError: a method of the task raises.
    """
    config = plan.config
    check_task(plan.task, lambda: load_once(config.task)[1], config.hyperparameters, config.trainer)


def describe_plan(plan: Plan, stages: list[str], tracking: str) -> str:
    """Stages, trials, epochs, the most they can cost, and where results go. Reads, and writes nothing."""
    config = plan.config
    ledger = Ledger.read(plan.folder / LEDGER_FILE)
    epochs = config.trainer.epochs
    searching = [
        name for name in stages if config.stages[name].kind == "search" and varied(plan.space, config.stages[name])
    ]
    finalists = [name for name in stages if config.stages[name].kind == "finalists"]
    visits = make_visits(config, searching)
    rows = [["stage", "asks", "varies", "visits", "epochs at most"]]
    for name in stages:
        settings = config.stages[name]
        own = [visit for visit in visits if visit.stage == name]
        if ledger is not None and own and all(visit.key in ledger.finished for visit in own):
            rows.append([name, settings.asks, "finished before", "0", "0"])
        elif settings.kind == "finalists":
            again = ledger is not None and name in ledger.finished
            rows.append([name, settings.asks, "finished before", "0", "0"] if again else _finalists_row(config, name))
        elif settings.kind != "search":
            rows.append([name, settings.asks, "-", "0", "0"])
        elif not varied(plan.space, config.stages[name]):
            rows.append([name, settings.asks, "nothing on this task: skipped", "0", "0"])
        else:
            cost = sum(_epochs(config, visit) for visit in own)
            rows.append([name, settings.asks, cut(_what(plan, name), _WIDEST), str(len(own)), str(cost)])
    total = _total(config, visits) + sum(int(row[-1]) for row in rows if row[0] in finalists)
    examples = size(load_once(config.task)[1].train)
    steps = total * steps_per_epoch(examples, int(plan.base["data.batch_size"]))
    rungs = ", ".join(map(str, rungs_of(config.pruner, epochs))) or "none"
    return "\n".join(
        [
            f"plan of sweep {plan.name}: task {config.task.name}, objective {plan.task.objective} "
            f"({plan.task.direction}), seed {config.seed}",
            table(rows),
            f"worst case: {total} epochs of {examples} examples, {steps} steps at the default batch size; "
            f"stopping early ({config.pruner.name}, rungs {rungs}) makes it less",
            _time(plan, total),
            f"runner {config.runner.name}, sampler {config.sampler.name}",
            f"results: {plan.folder}" + (f" and {tracking}" if config.tracking.name == "mlflow" else ""),
            "dry run: nothing was started",
        ]
    )


def _finalists_row(config: RunConfig, name: str) -> list[str]:
    """What the finalists train, and the most that it can cost."""
    final, epochs = config.finalists, config.trainer.epochs
    longest = round(final.bound_factor * epochs)
    cost = final.top * (final.seeds * longest + max(0, longest - epochs))
    return [name, config.stages[name].asks, f"nothing: the best {final.top}, {final.seeds} seeds", "1", str(cost)]


def _time(plan: Plan, epochs: int) -> str:
    """How long so many epochs take on one worker, by the sweep's trials so far."""
    ledger = Ledger.read(plan.folder / LEDGER_FILE)
    storage = None if ledger is None else plan.study.read(ledger.sweep_id)
    if ledger is None or storage is None:
        return "time: known when the first trials have run"
    study = SweepStudy(storage, plan.study.study(ledger.sweep_id), plan.task.direction, plan.space)
    rates = [r.seconds / r.epochs_paid for r in study.records if r.state.finished and r.epochs_paid]
    if not rates:
        return "time: known when the first trials have run"
    spent = sum(record.epochs_paid for record in study.records)
    left = max(0, epochs - spent) * statistics.mean(rates)
    return (
        f"time: {duration(left)} of training for what is left ({spent} epochs are spent, one took "
        f"{statistics.mean(rates):.2g} s on average), divided by the number of workers"
    )


def _what(plan: Plan, name: str) -> str:
    settings = plan.config.stages[name]
    names = varied(plan.space, settings)
    if "all" in settings.varies:
        return f"all {len(names)}"
    again = [item for item in settings.retunes if item in plan.space and item not in names]
    return ", ".join(names) + (f" (again: {', '.join(again)})" if again else "")


def _epochs(config: RunConfig, visit: Visit) -> int:
    """The most that a visit can cost; the last of passes takes what the others left."""
    if visit.n_trials is not None:
        return visit.n_trials * config.trainer.epochs
    return visit.epochs or 0


def _total(config: RunConfig, visits: list[Visit]) -> int:
    """The most that all visits can cost: passes share one total."""
    last = visits[-1].up_to if visits else None
    return last if last is not None else sum(_epochs(config, visit) for visit in visits)
