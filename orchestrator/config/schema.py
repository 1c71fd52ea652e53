"""The typed, frozen settings behind every configuration group. YAML holds values only.

Each field's docstring says what it is and its unit; ``python run.py --help`` and the error messages
take the known names from here.
"""

import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from orchestrator.config.audit import AuditConfig
from orchestrator.config.ensemble import EnsembleConfig
from orchestrator.config.failure import FailureConfig
from orchestrator.config.finalists import FinalistsConfig
from orchestrator.config.hyperparameters import (
    STRICT,
    DataConfig,
    DistillConfig,
    Hyperparameters,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from orchestrator.config.predict import PredictConfig
from orchestrator.config.preflight import PreflightConfig
from orchestrator.config.ranks import check_ranks
from orchestrator.config.runner import RunnerConfig
from orchestrator.config.space import SpaceConfig, check_space
from orchestrator.types import Value

VERBS = ("all", "audit", "status", "train", "predict", "report", "logbook", "ui")
"""What ``stage=`` takes beside the stages of the recipe."""


_Config = TypeVar("_Config")


def _needs_target(config: _Config, name: str, target: str | None) -> _Config:
    if (name == "custom") != (target is not None):
        raise ValueError("name=custom and _target_=IMPORT.PATH go together")
    return config


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TaskConfig:
    """What is trained: the user's code and its arguments."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name, part of the sweep's default name and of the MLflow experiment."""
    target: str
    """Import path of a class with the task protocol (``_target_`` in YAML)."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of that class."""
    option: str = "custom"
    """Which option of the group task was chosen; filled in, so that the winner can name it."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SweepConfig:
    """Where a sweep lives."""

    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._=,+-]*$")
    """Name of the sweep and of its folder; null: task name and seed."""
    dir: str = Field(default="sweeps", min_length=1)
    """Folder that holds all sweeps, relative to where the command runs."""
    storage: str | None = None
    """Database server that keeps the study: postgresql://HOST/DATABASE (password in PGPASSWORD or .pgpass); null: a
    journal file in the sweep's folder."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StageConfig:
    """One question of the recipe."""

    kind: Literal["preflight", "search", "finalists", "ensemble", "distill"]
    """preflight: checks of data and training code; search: trials; finalists: the best once more, for longer and
    with several seeds; ensemble: combine what was trained; distill: one network taught by the ensemble."""
    asks: str
    """The question, in words."""
    varies: tuple[str, ...] = Field(default=())
    """Scientific hyperparameters, searched over their whole range."""
    retunes: Mapping[str, float] = Field(default_factory=dict)
    """Nuisance hyperparameters: half-width of the window around the best so far, as a share of the
    hard range on its scale."""
    singly: bool = False
    """Change one of ``varies`` at a time, so that each is kept only if it helps by itself."""
    opening: tuple[Literal["sobol", "line"], ...] = Field(default=())
    """What the staged sampler tries first, up to the first rung: space-filling configurations; values of the
    first of ``varies``, evenly over its range."""
    points: int = Field(default=7, ge=1)
    """How many of them."""
    impact: Literal["high", "medium", "low"] = "medium"
    """How much the stage's question usually matters (the recipe's words); gives its budget."""
    budget: float | None = Field(default=None, ge=0)
    """Full trainings that the stage may cost; null: recipe.budget of its impact. 0: its opening only."""
    n_trials: int | None = Field(default=None, ge=1)
    """Most trials of the stage, promotions included, in place of the budget; null: the budget decides."""
    prunes: bool = True
    """Whether trials may be stopped early. False where early values mislead."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds after which no new trial starts and running ones end; null: none."""
    seeds: int = Field(default=3, ge=2)
    """Distill stage: trainings with and without the teacher, with the same seeds."""
    model: Mapping[str, Value] = Field(default_factory=dict)
    """Distill stage: arguments of the student's model in place of the winner's, for a smaller network."""


_BUDGET: Mapping[Literal["high", "medium", "low"], float] = {"high": 6.0, "medium": 4.0, "low": 2.0}


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RecipeConfig:
    """The order of the stages."""

    order: tuple[str, ...] = Field(min_length=1)
    """Stages that ``stage=all`` runs, first to last."""
    budget: Mapping[Literal["high", "medium", "low"], Annotated[float, Field(ge=0)]] = Field(
        default_factory=lambda: dict(_BUDGET)
    )
    """Full trainings of a search stage, by its impact."""
    first_pass: float = Field(default=1.2, ge=0)
    """``stage=all`` with the staged sampler walks the stages in passes of growing length, so that there is a
    good answer early: full trainings of the first pass; 0: a single pass."""
    growth: float = Field(default=2.0, ge=1)
    """How many times longer each pass is than the one before."""
    repeats: int = Field(default=2, ge=0)
    """More seeds of the best configuration, trained at the end of the search and charged to its budget: they
    measure seed noise."""
    probe_batch_size: Literal["auto", "always", "never"] = "never"
    """Whether the largest batch that memory holds is looked for first, in a worker, by trying; auto: if that has a
    GPU."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SamplerConfig:
    """What proposes configurations."""

    name: Literal["staged", "random", "qmc", "tpe", "gp", "custom"] = "staged"
    """staged (ours: one surrogate of all stages, epochs and hyperparameters, which also promotes stopped
    trials); random, quasi-random (Sobol), tree-structured Parzen, Gaussian process, or your own object."""
    startup_trials: int = Field(default=4, ge=0)
    """tpe, gp: trials of each stage drawn at random before the model is trusted."""
    window: float = Field(default=0.15, gt=0, le=1)
    """staged: half-width of the window on what earlier stages tuned, as a share of its searched range."""
    open: float = Field(default=1.0, ge=1)
    """staged: the windows are opened where the whole space promises more than so many times the expected improvement
    (benchmarks/search.py, 5 full trainings, 51 runs: regret 0.025 with 1, 0.042 with 2)."""
    candidates: int = Field(default=200, ge=10)
    """staged: configurations among which each proposal is chosen."""
    start: tuple[Mapping[str, Mapping[str, Value]], ...] = Field(default=())
    """Configurations tried first in the sweep, as nested overrides of the defaults:
    ``sampler.start=[{optimizer: {lr: 0.01}}]``."""
    target: str | None = None
    """custom: import path of an Optuna sampler (``_target_`` in YAML)."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """custom: its keyword arguments."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        return _needs_target(self, self.name, self.target)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PrunerConfig:
    """What stops trials early."""

    name: Literal["none", "median", "halving", "hyperband", "custom"] = "halving"
    """Never; below the median; asynchronous successive halving; halving in brackets; your own object. With
    sampler=staged, halving gives the rungs only: whether a trial pauses there is the surrogate's to say."""
    min_epochs: int = Field(default=1, ge=1)
    """First epoch at which a trial may be stopped: its lowest rung."""
    reduction_factor: int = Field(default=3, ge=2)
    """halving, hyperband: at each rung the best 1/factor go on, and rungs are this factor apart."""
    rungs: tuple[int, ...] | None = Field(default=None)
    """Epochs at which trials are compared; null: min_epochs times powers of the factor."""
    startup_trials: int = Field(default=4, ge=1)
    """Trials that must have reached a rung before one is stopped there."""
    patience: int = Field(default=0, ge=0)
    """halving, hyperband: rungs at which a slow starter is let go on before it is stopped."""
    audit_share: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the trials due to be stopped that run to their end all the same; the verdict says what stopping
    would have cost."""
    target: str | None = None
    """custom: import path of an Optuna pruner (``_target_`` in YAML)."""
    args: Mapping[str, Any] = field(default_factory=dict)
    """custom: its keyword arguments."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        rungs = self.rungs
        if rungs is not None and (not rungs or list(rungs) != sorted(set(rungs)) or rungs[0] < 1):
            raise ValueError(f"rungs={list(rungs)} must be rising epochs from 1")
        if rungs is not None and rungs[0] < self.min_epochs:
            raise ValueError(f"rungs={list(rungs)} has a rung below min_epochs={self.min_epochs}")
        return _needs_target(self, self.name, self.target)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrackingConfig:
    """Where results are written for review."""

    name: Literal["none", "mlflow"] = "mlflow"
    """Nothing, or MLflow."""
    uri: str | None = None
    """MLflow tracking URI; null: an SQLite file in sweep.dir."""
    flush_s: float = Field(default=2.0, gt=0)
    """Seconds between batches to MLflow."""
    close_timeout_s: float = Field(default=60.0, gt=0)
    """Seconds to wait at the end for what is not yet written."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainerConfig:
    """How one trial trains; the same for all trials of a sweep."""

    epochs: int = Field(default=30, ge=1)
    """Budget of a trial: passes over the training split."""
    patience: int = Field(default=0, ge=0)
    """Epochs without a better objective after which a trial ends; 0: never."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: the GPU if the trial was given one."""
    amp: bool = True
    """Automatic mixed precision on a GPU; without effect on the CPU."""
    workers: int = Field(default=1, ge=1)
    """Processes that train one trial together (data parallel): each takes a share of every batch and, of several
    GPUs, one. The batch size is that of all together."""
    microbatch_size: int = Field(default=0, ge=0)
    """Examples per forward pass; gradients are accumulated to the batch size; 0: the whole batch."""
    eval_batch_size: int = Field(default=1024, ge=1)
    """Examples per forward pass in evaluation."""
    data_workers: int = Field(default=0, ge=0)
    """Loader processes per trial, for data sets that are not tensors in memory."""
    swa_share: float = Field(default=0.25, ge=0, le=1)
    """Last share of a trial's epochs over which weights are averaged for the ensemble stage (SWA, Izmailov et al.
    2018; the last quarter is our choice); 0: none. Training itself is not changed."""
    checkpoint_epochs: int = Field(default=10, ge=1)
    """Epochs between checkpoints, beside those at rungs and at the end."""
    keep_checkpoints: int = Field(default=30, ge=1)
    """How many of the best finished trials keep their checkpoint."""
    checkpoint_dir: str | None = Field(default=None, min_length=1)
    """Where trials keep their checkpoints: a folder that all nodes share, or an object store (s3://BUCKET/PATH, gs://,
    abfs://, hdfs://; credentials from the environment); null: in the sweep's folder."""
    disk_gb: float = Field(default=10.0, gt=0)
    """Most gigabytes of checkpoints a sweep keeps; the worst go first."""
    teacher: str | None = None
    """File of a teacher's predictions on the training split; set by the stage of kind distill for its trials."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainConfig:
    """``stage=train``: one training of exactly the composed configuration."""

    seed: int | None = Field(default=None, ge=0, lt=2**32)
    """Training seed; null: derived from the run's seed."""
    schedule_epochs: int | None = Field(default=None, ge=1)
    """Epochs that the learning-rate schedule covers, after which the rate stays; null: all of trainer.epochs."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LogbookConfig:
    """``stage=logbook``: which trials, in which order, and where to."""

    stage: str | None = None
    """Only trials of this stage, all its passes; null: of every stage."""
    state: Literal["running", "complete", "pruned", "infeasible"] | None = None
    """Only trials in this state; null: in every state."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Conditions on columns and hyperparameters, all of which hold: a value, a list of allowed values, or min
    and max: ``+logbook.where.optimizer.lr.min=0.01``, ``+logbook.where.data.batch_size=[64,128]``."""
    top: int | None = Field(default=None, ge=1)
    """Only so many of the best, best first; null: all, in the order of their numbers."""
    export: str | None = None
    """File to write instead of a table on the terminal: its name ends in .csv or .parquet."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.export is not None and not self.export.endswith((".csv", ".parquet")):
            raise ValueError(f"export={self.export}: must end in .csv or .parquet")
        return self


@dataclass(frozen=True, kw_only=True, config=STRICT)
class UiConfig:
    """``stage=ui``: MLflow's pages."""

    port: int = Field(default=5000, ge=1, le=65535)
    """Port on 127.0.0.1."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StageChoice:
    """Which stage or verb the command runs."""

    name: str
    """A stage of the recipe, or all, audit, status, train, predict, report, logbook, ui."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """A fully composed command."""

    stage: StageChoice
    task: TaskConfig
    recipe: RecipeConfig
    stages: Mapping[str, StageConfig]
    """Settings of each stage by name."""
    space: SpaceConfig
    """What may be searched: family, name, range."""
    optimizer: OptimizerConfig = OptimizerConfig()
    data: DataConfig = DataConfig()
    model: Mapping[str, Value] = field(default_factory=dict)
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    distill: DistillConfig | None = None
    """Hyperparameters of a student's training; set by the stage of kind distill for its trials."""
    sampler: SamplerConfig = SamplerConfig()
    pruner: PrunerConfig = PrunerConfig()
    preflight: PreflightConfig = PreflightConfig()
    runner: RunnerConfig = RunnerConfig()
    failure: FailureConfig = FailureConfig()
    tracking: TrackingConfig = TrackingConfig()
    trainer: TrainerConfig = TrainerConfig()
    train: TrainConfig = TrainConfig()
    audit: AuditConfig = AuditConfig()
    finalists: FinalistsConfig = FinalistsConfig()
    ensemble: EnsembleConfig = EnsembleConfig()
    predict: PredictConfig = PredictConfig()
    logbook: LogbookConfig = LogbookConfig()
    ui: UiConfig = UiConfig()
    sweep: SweepConfig = SweepConfig()
    seed: int = Field(default=0, ge=0)
    """Seed of the sweep; every other seed is derived from it."""
    n_trials: int | None = Field(default=None, ge=1)
    """Trials of every search stage of this command, instead of the stages' own."""
    timeout_s: float | None = Field(default=None, gt=0)
    """Seconds for every search stage of this command, instead of the stages' own."""
    deterministic: bool = False
    """With several workers: the same trials whatever the timing. Trials run in rounds of runner.workers, and
    decisions know only the rounds before; workers wait at the end of each."""
    dry_run: bool = False
    """Print the plan and start nothing."""

    @model_validator(mode="after")
    def _sound(self) -> Self:
        known = [*self.stages, *VERBS]
        if self.stage.name not in known:
            raise ValueError(f"stage={self.stage.name} is unknown; known: {', '.join(known)}")
        if self.deterministic and self.runner.name != "inline" and self.runner.workers is None:
            raise ValueError("deterministic=true needs runner.workers=N: the trials depend on the size of a round")
        if self.deterministic and self.runner.pack is not None:
            raise ValueError("deterministic=true runs rounds of one size, which runner.pack=auto changes")
        if self.runner.name == "inline" and self.recipe.probe_batch_size != "never":
            raise ValueError("recipe.probe_batch_size needs worker processes: runner=local or ray")
        check_ranks(self.trainer.workers, self.runner)
        for name in self.stages:
            if name in VERBS or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
                raise ValueError(f"stages.{name}: a stage is named by letters, digits and . _ -, and is no verb")
        if self.runner.name == "inline" and (self.failure.trial_timeout_s or self.failure.heartbeat_s):
            raise ValueError("failure.trial_timeout_s and heartbeat_s need worker processes: runner=local or ray")
        for name in self.recipe.order:
            if name not in self.stages or self.recipe.order.count(name) > 1:
                twice = " twice" if name in self.stages else ""
                raise ValueError(f"recipe.order names {name}{twice}; known stages: {', '.join(self.stages)}")
        if self.pruner.rungs and self.pruner.rungs[-1] > self.trainer.epochs:
            raise ValueError(
                f"pruner.rungs={list(self.pruner.rungs)} has a rung beyond the budget trainer.epochs="
                f"{self.trainer.epochs}"
            )
        if self.pruner.min_epochs > self.trainer.epochs:
            raise ValueError(
                f"pruner.min_epochs={self.pruner.min_epochs} is beyond the budget trainer.epochs="
                f"{self.trainer.epochs}"
            )
        check_space(self.space)
        return self

    @property
    def hyperparameters(self) -> Hyperparameters:
        """The groups that describe one training."""
        return Hyperparameters(
            optimizer=self.optimizer,
            data=self.data,
            schedule=self.schedule,
            loss=self.loss,
            model=self.model,
            distill=self.distill,
        )
