"""A sweep as its stages see it: settings, study, ledger, checkpoints, tracker, progress."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.config.compose import to_plain, to_yaml
from orchestrator.config.errors import suggest
from orchestrator.config.hyperparameters import from_flat, nested
from orchestrator.config.schema import RunConfig
from orchestrator.config.space import SpaceConfig
from orchestrator.errors import ConfigError, StorageError
from orchestrator.files import exclusive_lock, write_text
from orchestrator.masking import masked
from orchestrator.progress import Progress
from orchestrator.stages import notes
from orchestrator.stages.checkpoints import CheckpointStore
from orchestrator.stages.failures import Failures
from orchestrator.stages.ledger import Ledger, decided_by
from orchestrator.stages.measured import MeasuredEpochs
from orchestrator.stages.studies import STUDY_FILE, StudyPlace
from orchestrator.stages.visits import stage_of, varied
from orchestrator.stores import below, parse_location
from orchestrator.study.expected_memory import ExpectedMemory
from orchestrator.study.pruners import make_pruner
from orchestrator.study.records import TrialRecord
from orchestrator.study.samplers import check_sampler
from orchestrator.study.space import SearchSpace, build_space
from orchestrator.study.storage import Storage, count_trials, memory_storage
from orchestrator.study.study import SweepStudy
from orchestrator.tasks.base import Task
from orchestrator.tasks.loading import load_task, model_defaults
from orchestrator.tracking.base import NOTE, SWEEP, Tracker, stage_key, trial_key
from orchestrator.tracking.memory import NullTracker
from orchestrator.types import Configuration, Location, TrialState

log = logging.getLogger("orchestrator.files")

LEDGER_FILE = "ledger.json"
CHECKPOINT_DIR = "trainer.checkpoint_dir"
WINNER_FILE = "experiment/winner.yaml"


@dataclass(frozen=True)
class Plan:
    """A checked command: nothing is written yet."""

    config: RunConfig
    task: Task
    base: Configuration
    """The task's stated defaults, changed by the command: the sweep's first configuration."""
    space: SearchSpace

    starts: Sequence[Configuration]
    """What the sweep tries first: those of ``sampler.start``, or the base."""

    @property
    def name(self) -> str:
        """The sweep's name."""
        return sweep_folder(self.config).name

    @property
    def folder(self) -> Path:
        """The sweep's folder."""
        return sweep_folder(self.config)

    @property
    def study(self) -> StudyPlace:
        """Where the sweep's study lies."""
        return StudyPlace(self.folder, self.name, self.config.sweep.storage)

    @property
    def exists(self) -> bool:
        """Whether the sweep was begun before."""
        return (self.folder / LEDGER_FILE).exists()


def sweep_folder(config: RunConfig) -> Path:
    """The folder of the sweep that a command means; its name is the sweep's."""
    return Path(config.sweep.dir).resolve() / (config.sweep.name or f"{config.task.name}-seed{config.seed}")


def make_plan(config: RunConfig) -> Plan:
    """Check everything that can be checked without starting anything.

    Raises:
        ConfigError: the task, a hyperparameter or the search space is impossible.
    """
    task = load_task(config.task)
    model = model_defaults(task, config.model)
    config = replace(config, model=model)
    base = config.hyperparameters.flat()
    if config.data.augmentation > 0 and type(task).augment is Task.augment:
        raise ConfigError(
            f"data.augmentation={config.data.augmentation}: {type(task).__name__} has no augment method"
        )
    if config.trainer.workers > 1 and task.mixes_batch:
        raise ConfigError(
            f"trainer.workers={config.trainer.workers}: {type(task).__name__} says mixes_batch, and a batch that is "
            "divided mixes fewer examples; give trainer.workers=1"
        )
    _check_stage_names(config, base)
    _check_students(config, task)
    used = {name for stage in config.stages.values() for name in (*stage.varies, *stage.retunes)}
    space = build_space(_effective(config, task), base, used)
    check_sampler(config.sampler)
    if config.trainer.checkpoint_dir is not None:
        parse_location(config.trainer.checkpoint_dir, CHECKPOINT_DIR)
    make_pruner(config.pruner, task.direction, config.trainer.epochs)
    return Plan(config, task, base, space, _starts(config, base, space))


def _effective(config: RunConfig, task: Task) -> SpaceConfig:
    """The search space without what has no effect on this task."""
    idle = set(task.without_effect)
    if type(task).augment is Task.augment:
        idle.add("data.augmentation")
    return {
        family: {name: entry for name, entry in ranges.items() if f"{family}.{name}" not in idle}
        for family, ranges in config.space.items()
    }


def _starts(config: RunConfig, base: Configuration, space: SearchSpace) -> Sequence[Configuration]:
    starts: list[Configuration] = []
    for index, groups in enumerate(config.sampler.start):
        flat = {f"{group}.{name}": value for group, values in groups.items() for name, value in values.items()}
        for name in flat:
            if name not in base:
                raise ConfigError(f"sampler.start[{index}]: {name} is unknown; {suggest(name, base)}")
        configuration = {**base, **flat}
        try:
            from_flat(configuration)
        except ConfigError as error:
            raise ConfigError(f"sampler.start[{index}]: {error}") from None
        space.check(configuration)
        starts.append(configuration)
    return starts or [base]


def _check_stage_names(config: RunConfig, base: Configuration) -> None:
    """Refuse names in ``varies`` and ``retunes`` that no search space and no configuration knows."""
    known = {*base, *(f"{family}.{name}" for family, ranges in config.space.items() for name in ranges)}
    for stage, settings in config.stages.items():
        for name in (*settings.varies, *settings.retunes):
            if name not in known and name != "all":
                raise ConfigError(f"stages.{stage}: {name} is not a hyperparameter; {suggest(name, sorted(known))}")


def _check_students(config: RunConfig, task: Task) -> None:
    """Refuse a student's model that the task cannot build; the search comes first and would be for nothing."""
    for stage, settings in config.stages.items():
        if settings.model and settings.kind != "distill":
            raise ConfigError(f"stages.{stage}.model: only a stage of kind distill trains another network")
        try:
            model_defaults(task, {**config.model, **settings.model})
        except ConfigError as error:
            raise ConfigError(f"stages.{stage}.{error}") from None


def checkpoint_location(plan: Plan, sweep_id: str) -> Location:
    """Where the trials of the sweep keep their checkpoints. Elsewhere than in its folder its id is part of the name:
    another sweep of that name must not find them."""
    chosen = plan.config.trainer.checkpoint_dir
    if chosen is None:
        return plan.folder / "trials"
    return below(parse_location(chosen, CHECKPOINT_DIR), f"{plan.name}-{sweep_id[:8]}")


class Sweep:
    """An open sweep. One driver at a time holds it (:func:`open_sweep`)."""

    def __init__(
        self, plan: Plan, storage: Storage, ledger: Ledger, progress: Progress, *, promotes_any: bool = False
    ) -> None:
        self.config = plan.config
        self.task = plan.task
        self.base = plan.base
        self.starts = plan.starts
        self.space = plan.space
        self.folder = plan.folder
        self.name = plan.name
        self.ledger = ledger
        self.progress = progress
        self.direction = plan.task.direction
        self.study = SweepStudy(storage, plan.study.study(ledger.sweep_id), self.direction, plan.space)
        trainer = plan.config.trainer
        self.checkpoints = CheckpointStore(
            checkpoint_location(plan, ledger.sweep_id),
            keep=trainer.keep_checkpoints,
            disk_gb=trainer.disk_gb,
            direction=self.direction,
        )
        self.measured = MeasuredEpochs(self.folder / "trials")
        self.expected_memory = ExpectedMemory(plan.space)
        for record in self.study.records:
            self.expected_memory.observe(record)
        self.failures = Failures(plan.config.failure)
        self.tracker: Tracker
        self._promotes_any = promotes_any

    def promotable(self, number: int) -> bool:
        """Whether the stopped trial can be continued: its checkpoint is there (a simulation needs none)."""
        return self._promotes_any or self.checkpoints.has(number)

    @property
    def best(self) -> TrialRecord | None:
        """The winner of the whole sweep, as :func:`~orchestrator.stages.ledger.best_of` finds it."""
        decided = decided_by(self.ledger.finished)
        return self.study.incumbent if decided is None else self.study[decided]

    def commit(self) -> None:
        """Make durable what was measured in trials that ended or saved, then what the study was told, and only then
        remove what that makes needless.

        Raises:
            StorageError: it cannot be written.
        """
        self.measured.commit()
        self.study.commit()
        self.checkpoints.remove_needless()

    def track_trial(self, record: TrialRecord, varied: tuple[str, ...]) -> None:
        """Tell the tracker that a trial has started."""
        name = notes.trial_name(record, varied, self.base)
        key, parent = trial_key(record.number), stage_key(record.stage)
        self.tracker.begin(key, parent, name, record.configuration, notes.begin_tags(record))

    def track_end(self, record: TrialRecord) -> None:
        """Tell the tracker how a trial ended."""
        status = "FAILED" if record.state is TrialState.INFEASIBLE else "FINISHED"
        self.tracker.end(trial_key(record.number), status, notes.end_metrics(record), notes.end_tags(record))

    def track_stage_end(self, stage: str) -> None:
        """Tell the tracker how a finished stage ended: its numbers, its files, and its verdict in words."""
        result = self.ledger.finished[stage]
        counts = {"trials": "trials", "pruned": "pruned", "epochs": "epochs", "seconds": "duration_s"}
        names = {**counts, "best_value": "best"}
        metrics = {name: float(result[key]) for key, name in names.items() if result.get(key) is not None}
        for split in ("validation", "test"):
            for who, scores in result.get(split, {}).items():
                metrics |= {f"{split}/{who}/{score}": value for score, value in scores.items()}
        metrics |= result.get("metrics", {})
        metrics |= {f"workers/{use}": share for use, share in result.get("usage", {}).items()}
        for path in result.get("files", []):
            self.tracker.file(stage_key(stage), stage, self.folder / path)
        tags = {NOTE: notes.stage_note(result, self.task.objective), **result.get("tags", {})}
        self.tracker.end(stage_key(stage), "FAILED" if result.get("failed") else "FINISHED", metrics, tags)
        self.track_note()

    def _ancestors(self, record: TrialRecord | None) -> list[int]:
        """The trials whose training ``record`` continued, the latest first."""
        found: list[int] = []
        while record is not None and record.parent is not None:
            found.append(record.parent)
            record = self.study[record.parent]
        return found

    def track_note(self) -> None:
        """Bring the description of the sweep's run up to date."""
        facts = notes.Facts(
            name=self.name,
            task=self.config.task.name,
            objective=self.task.objective,
            base=self.base,
            finished=self.ledger.finished,
            best=self.best,
            ancestors=self._ancestors(self.best),
            retrain=retrain_command(self.folder),
        )
        self.tracker.begin(SWEEP, None, self.name, {}, {NOTE: notes.sweep_note(facts)})

    def begin_tracking(self, tracker: Tracker, tags: Mapping[str, str]) -> None:
        """Use ``tracker``, and send it all that is known: it skips what it has."""
        self.tracker = tracker
        tracker.begin(SWEEP, None, self.name, self.base, {"kind": "sweep", **tags})
        tracker.artifact(SWEEP, "config.yaml", to_yaml(masked(to_plain(self.config))))
        stages = dict.fromkeys([*self.ledger.finished, *(record.stage for record in self.study.records)])
        for stage in stages:
            tracker.begin(stage_key(stage), SWEEP, stage, {}, {"kind": "stage", "stage": stage_of(stage)})
        for record in self.study.records:
            settings = self.config.stages.get(stage_of(record.stage))
            self.track_trial(record, tuple(varied(self.space, settings)) if settings is not None else ())
            for epoch, values in self.measured.epochs(record.number):
                tracker.log(trial_key(record.number), epoch, values)
            if record.state.finished:
                self.track_end(record)
        for stage in self.ledger.finished:
            self.track_stage_end(stage)

    def write_winner(self) -> Path | None:
        """Write the incumbent as an experiment that Hydra can load; None where there is none."""
        best = self.best
        if best is None:
            return None
        path = self.folder / WINNER_FILE
        config = self.config
        values = {
            **nested(best.configuration),
            "train": {"seed": best.seed, "schedule_epochs": best.schedule_epochs},
            # A finalist is ended when it does not improve; its schedule does not depend on when.
            "trainer": {
                "epochs": best.epochs_run if best.finalist else best.epochs,
                "patience": config.trainer.patience,
            },
        }
        task = {"name": config.task.name, "_target_": config.task.target, "args": dict(config.task.args)}
        write_text(
            path,
            "# @package _global_\n"
            f"# Trial {best.number} of sweep {self.name}: {self.task.objective} {best.value:.6g} on validation.\n"
            f"# Train exactly it again: {retrain_command(self.folder)}\n"
            + to_yaml({"defaults": [{"override /task": config.task.option}], "task": task, **values}),
        )
        return path


def retrain_command(folder: Path) -> str:
    """The command that trains the winner of the sweep in ``folder`` again."""
    return f"python run.py --config-dir {folder} +experiment=winner stage=train"


def open_simulated_sweep(plan: Plan, progress: Progress) -> Sweep:
    """A sweep whose trials are kept in memory and tracked nowhere; its folder holds only small files."""
    ledger = Ledger.open(plan.folder / LEDGER_FILE, to_plain(plan.config))
    sweep = Sweep(plan, memory_storage(), ledger, progress, promotes_any=True)
    sweep.tracker = NullTracker()
    return sweep


@contextmanager
def open_sweep(plan: Plan, progress: Progress) -> Iterator[Sweep]:
    """Hold the sweep of ``plan``, made if it is new.

    Raises:
        SweepLockedError: another process holds it.
        ConfigError: it has trials that were begun with other settings.
        StorageError: its files are damaged, or lack what others know of.
    """
    with exclusive_lock(plan.folder / "lock"):
        before = Ledger.read(plan.folder / LEDGER_FILE)
        place, former = plan.study, None if before is None else before.sweep_id
        if before is None and place.has_trials(None):
            raise _lost(plan, f"{LEDGER_FILE} is gone, and {place.shown} has trials")
        ledger = Ledger.open(plan.folder / LEDGER_FILE, to_plain(plan.config), lambda: place.has_trials(former))
        if former not in (None, ledger.sweep_id):
            # Without a trial, and of settings that have changed since.
            (plan.folder / STUDY_FILE).unlink(missing_ok=True)
        with place.held(ledger.sweep_id) as storage:
            _refuse_lost_trials(plan, ledger, count_trials(storage, place.study(ledger.sweep_id)))
            yield Sweep(plan, storage, ledger, progress)


def _refuse_lost_trials(plan: Plan, ledger: Ledger, count: int) -> None:
    """Refuse a study that holds fewer trials than others know of: going on would begin them anew."""
    named = (result.get("best_trial") for result in ledger.finished.values())
    folders = (path.name for path in (plan.folder / "trials").glob("[0-9]*"))
    known = [number for number in named if number is not None] + [int(name) for name in folders if name.isdigit()]
    if known and max(known) >= count:
        raise _lost(plan, f"{plan.study.shown} ends before trial {max(known)}, which others know of")


def _lost(plan: Plan, how: str) -> StorageError:
    return StorageError(
        f"{plan.folder}: {how}; restore it from a backup, or begin anew: sweep.name=NAME, or remove the folder"
    )
