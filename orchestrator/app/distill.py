"""The stage of kind distill: tune the student in a sweep of its own, then train it with several seeds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.app.wiring import make_program, make_runner, make_tracker
from orchestrator.config.hyperparameters import DistillConfig, from_flat
from orchestrator.config.schema import RunConfig, StageChoice, StageConfig
from orchestrator.ensemble.distill import (
    DistillResult,
    Training,
    check_can_distill,
    compare,
    write_teacher,
)
from orchestrator.ensemble.record import load_ensemble
from orchestrator.errors import InterruptedSweepError, NoFeasibleTrialError, StorageError
from orchestrator.runners.base import Runner
from orchestrator.seeds import derive_seed
from orchestrator.stages.recipe import StageSequence
from orchestrator.stages.sweep import Plan, Sweep, checkpoint_location, make_plan, open_sweep
from orchestrator.stores import below, make
from orchestrator.study.records import TrialRecord
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.training import checkpoint
from orchestrator.types import Configuration, Decision, End, EpochResult, Location, Outcome, Reason, TrialSpec

_STAGE = "student"


@dataclass(frozen=True)
class Extent:
    """How much the compared trainings are."""

    seeds: int
    epochs: int
    """As many as the winner was trained for."""
    schedule_epochs: int | None
    """See :class:`~orchestrator.types.TrialSpec`."""


def _extent(best: TrialRecord, seeds: int) -> Extent:
    # A finalist is ended when it does not improve; its schedule does not depend on when.
    return Extent(seeds, best.epochs_run if best.finalist else best.epochs, best.schedule_epochs)


class Seeds:
    """Trainings that are all wanted to their end; a :class:`~orchestrator.runners.base.Controller`."""

    def __init__(self, specs: Sequence[TrialSpec], stopping: Callable[[], bool]) -> None:
        self._waiting = list(specs)
        self._stopping = stopping
        self.failed: dict[int, str] = {}

    def ask(self) -> TrialSpec | None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        return None if self._stopping() or not self._waiting else self._waiting.pop(0)

    def report(self, number: int, result: EpochResult) -> Decision:
        """See :class:`~orchestrator.runners.base.Controller`."""
        return Decision.PAUSE if self._stopping() else Decision.CONTINUE

    def tell(self, number: int, outcome: Outcome) -> None:
        """See :class:`~orchestrator.runners.base.Controller`.

        Raises:
            StorageError: its files cannot be written or read.
        """
        if outcome.reason is Reason.STORAGE:
            raise StorageError(outcome.detail)
        if outcome.end is End.FAILED:
            self.failed[number] = f"{outcome.reason}: {outcome.detail.splitlines()[0]}"

    def commit(self) -> None:
        """See :class:`~orchestrator.runners.base.Controller`. Nothing: it keeps no record."""


def distill(
    sweep: Sweep, name: str, stopping: Callable[[], bool], judge: Callable[[], None] | None = None
) -> DistillResult:
    """Tune temperature and weight of the student, train it, and compare it with the winner's training.

    Everything else is the winner's, so that the teacher alone is what differs between the compared networks. (The
    learning rate too was tuned once: with the one seed of a search, to rates at which other seeds diverge.)
    The tuning is a sweep of its own, ``NAME.student``, with the sweep's sampler and runner. The same command goes on
    where it was interrupted.

    Args:
        judge: of the ensemble, which is chosen and not yet judged: called when the student is trained, so that the
            test split is read once, for both; None: it was judged before.

    Raises:
        NoFeasibleTrialError: the sweep has no ensemble, or no training came to its end.
        ConfigError: the task cannot be distilled.
        InterruptedSweepError: it was asked to stop.
    """
    settings = sweep.config.stages[name]
    best = sweep.best
    load_ensemble(sweep.folder)
    assert best is not None
    check_can_distill(sweep)
    sweep.tracker.begin(stage_key(name), SWEEP, name, {}, {"kind": "stage", "stage": name, "asks": settings.asks})
    sweep.progress.say(
        f"[{name}] {settings.asks} taught by the ensemble, with the configuration of trial {best.number}"
        + "".join(f", {key} {value}" for key, value in settings.model.items())
    )
    teacher = write_teacher(sweep, sweep.folder)
    plan = make_plan(_student_config(sweep, name, best.configuration, teacher))
    with open_sweep(plan, sweep.progress) as student:
        runner = make_runner(plan.config, sweep.progress, stopping)
        try:
            _tune(student, runner, stopping)
            tuned = student.best
            if tuned is None:
                raise NoFeasibleTrialError(f"{name}: no training with the teacher gave a value")
            alone = {**best.configuration, **{f"model.{key}": value for key, value in settings.model.items()}}
            chosen = {"label-only": alone, "student": tuned.configuration}
            ended = _train(student, runner, plan, chosen, _extent(best, settings.seeds), stopping)
        finally:
            runner.close()
    whole = [index for index in range(settings.seeds) if all((who, index) in ended for who in chosen)]
    if not whole:
        raise NoFeasibleTrialError(f"{name}: no pair of trainings came to its end")
    label_only, students = ([ended[who, index] for index in whole] for who in ("label-only", "student"))
    if judge is not None:
        judge()
    return compare(sweep, tuned.configuration, label_only, students, reading=judge is not None)


def _student_config(sweep: Sweep, name: str, configuration: Configuration, teacher: Path) -> RunConfig:
    config, settings = sweep.config, sweep.config.stages[name]
    known = from_flat(configuration)
    search = StageConfig(
        kind="search",
        asks="which temperature, and how much of the teacher?",
        varies=("distill.temperature", "distill.weight"),
        budget=settings.budget,
        n_trials=settings.n_trials,
        timeout_s=settings.timeout_s,
        impact=settings.impact,
    )
    return replace(
        config,
        stage=StageChoice(name=_STAGE),
        recipe=replace(config.recipe, order=(_STAGE,), repeats=0),
        stages={_STAGE: search},
        optimizer=known.optimizer,
        data=known.data,
        schedule=known.schedule,
        loss=known.loss,
        model={**known.model, **settings.model},
        distill=DistillConfig(),
        sampler=replace(config.sampler, start=()),
        trainer=replace(config.trainer, teacher=str(teacher)),
        sweep=replace(config.sweep, name=f"{sweep.name}.student"),
    )


def _tune(student: Sweep, runner: Runner, stopping: Callable[[], bool]) -> None:
    student.begin_tracking(make_tracker(student), {"teaches": student.name})
    status = "KILLED"
    try:
        runner.run(make_program(student.config), StageSequence(student, [_STAGE], stopping, runner.workers))
        student.checkpoints.tidy(student.study.records)
        status = "KILLED" if stopping() else "FINISHED"
    finally:
        student.tracker.end(SWEEP, status, {}, {})
        student.tracker.close()
    _refuse_if(stopping)


def _train(
    student: Sweep,
    runner: Runner,
    plan: Plan,
    chosen: Mapping[str, Configuration],
    extent: Extent,
    stopping: Callable[[], bool],
) -> Mapping[tuple[str, int], Training]:
    """Train each configuration with each seed; those whose training failed are said and left out."""
    root = checkpoint_location(plan, student.ledger.sweep_id)
    beside: Location = type(root)(f"{root}-seeds")
    make(beside)
    specs: dict[tuple[str, int], TrialSpec] = {}
    for index in range(extent.seeds):
        for who, configuration in chosen.items():
            specs[who, index] = TrialSpec(
                number=len(specs),
                stage=_STAGE,
                configuration=configuration,
                seed=derive_seed(student.config.seed, "distill", index),
                epochs=extent.epochs,
                directory=below(beside, f"{who}-{index}"),
                schedule_epochs=extent.schedule_epochs,
            )
    controller = Seeds(list(specs.values()), stopping)
    runner.run(make_program(student.config), controller)
    _refuse_if(stopping)
    ended = {}
    for key, spec in specs.items():
        if spec.number in controller.failed:
            student.progress.say(f"[distill] {key[0]}, seed {key[1]}: {controller.failed[spec.number]}; left out")
        else:
            kept = checkpoint.load(spec.directory)["best"]
            ended[key] = Training(kept["value"], kept["model"])
    return ended


def _refuse_if(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise InterruptedSweepError(
            "interrupted; running trials were checkpointed, and the same command goes on from here"
        )
