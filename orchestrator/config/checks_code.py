"""Thresholds of the checks of training code."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InitLoss:
    """The loss of untrained networks, as a multiple of the nearest reference."""

    examples: int = Field(default=512, ge=2)
    """Training examples used."""
    warn: float = Field(default=1.25, gt=1.0)
    """WARN above this ratio, or below its inverse (preflight.md: healthy within 14.4 % on 170 runs)."""
    fail: float = Field(default=2.0, gt=1.0)
    """FAIL above this ratio, or below its inverse."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossReduction:
    """The loss of right outputs in a batch, as a share of that of wrong or uninformed ones."""

    fail: float = Field(default=0.1, gt=0.0, lt=1.0)
    """FAIL above this share if single examples stay below a quarter of it (exact: 0 against about 0.5)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LossFloor:
    """The smallest loss of any outputs, as a share of the loss of uninformed ones."""

    info: float = Field(default=0.05, gt=0.0)
    """INFO above this share (label smoothing of 0.1 has 0.22 at ten classes, 0.29 at two)."""
    warn: float = Field(default=0.5, gt=0.0)
    """WARN above this share (label smoothing of 0.3 at ten classes)."""
    fail: float = Field(default=0.9, gt=0.0)
    """FAIL above this share: nothing can be learned (label smoothing of 0.9 has 0.98 at ten classes)."""
    level_fail: float = Field(default=0.2, gt=0.0)
    """FAIL above this share where sureness no longer changes the loss (softmax twice: 0.45 at two classes,
    0.63 at ten)."""
    smoothing_warn: float = Field(default=0.4, gt=0.0, le=1.0)
    """WARN where ``loss.label_smoothing`` is above this share (our choice; in use are 0 to 0.2)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class BaseRateBias:
    """How far the initial loss is above the entropy of the base rates."""

    examples: int = Field(default=2048, ge=2)
    """Training examples used."""
    excess: float = Field(default=0.10, gt=0.0)
    """Reported above this share of the entropy (preflight.md)."""
    warn: float = Field(default=2.0, gt=0.0)
    """WARN above this share, INFO below (measured on the healthy pool of benchmarks/mutations: several labels
    0.23, class weights 1.2; one in fifty without a bias 5.5)."""
    rarest: float = Field(default=0.10, gt=0.0)
    """Reported only where the rarest class has less than this share (preflight.md)."""
    classes: int = Field(default=20, ge=2)
    """WARN up to this many classes, INFO beyond: in a vocabulary rare classes are the rule."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OutputRange:
    """Which values the outputs can take, whatever the weights."""

    examples: int = Field(default=64, ge=4)
    """Training examples used."""
    draws: int = Field(default=8, ge=2)
    """Random weights tried, from small to large."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TargetInInput:
    """Targets that equal the input at the same place."""

    fail: float = Field(default=0.99, gt=0.0, le=1.0)
    """FAIL from this share (preflight.md: healthy 0.05, fault 1.0)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Nonlinearity:
    """Second difference of the outputs as a share of the first."""

    fail: float = Field(default=1e-8, gt=0.0)
    """FAIL below this (preflight.md: linear 2e-16, nonlinear at least 0.21)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InputUse:
    """Inputs that vary over the examples and have no influence on any output."""

    examples: int = Field(default=64, ge=4)
    """Training examples used."""
    features: int = Field(default=64, ge=1)
    """Inputs tried one by one at most, evenly spaced."""
    warn: float = Field(default=0.05, gt=0.0)
    """WARN from this share of the varying inputs (strided convolutions leave out a border)."""
    fail: float = Field(default=0.25, gt=0.0)
    """FAIL from this share."""
    spread: float = Field(default=1e-6, gt=0.0)
    """FAIL (input_dependency) where untrained outputs differ by no more than this, in logits or deviations of
    the targets (our guess: healthy above 0.01, twelve layers of deviation 0.001 at 5e-16)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SeedDeterminism:
    """Two short trainings with one seed."""

    steps: int = Field(default=10, ge=1)
    """Optimizer steps of each."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DeadUnits:
    """Units that are zero for every example."""

    examples: int = Field(default=1024, ge=2)
    """Training examples looked at."""
    warn: float = Field(default=0.9, gt=0.0, le=1.0)
    """WARN above this share of a layer (preflight.md: healthy at most 58 %); FAIL where all are."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class GradientFlow:
    """Largest over smallest gradient of an untrained network, each relative to its weight."""

    warn: float = Field(default=1e6, gt=1.0)
    """WARN above this ratio."""
    fail: float = Field(default=1e12, gt=1.0)
    """FAIL above this ratio."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LearningRate:
    """Mean absolute change of a weight over its mean absolute value; median over weight matrices."""

    step_warn: float = Field(default=1.0, gt=0.0)
    """WARN above this change in one step (preflight.md: healthy at most 0.22)."""
    step_fail: float = Field(default=10.0, gt=0.0)
    """FAIL above this change in one step (a hundred times the largest healthy one, 0.1)."""
    total_warn: float = Field(default=0.3, gt=0.0)
    """WARN where all steps of a training together can change less than this."""
    total_fail: float = Field(default=0.02, gt=0.0)
    """FAIL below this."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class WeightDecay:
    """Share of a weight that decay takes away in one step."""

    warn: float = Field(default=0.005, gt=0.0)
    """WARN from this share (lr 0.1 and decay 1e-3 with momentum 0.9: 0.001)."""
    fail: float = Field(default=0.05, gt=0.0)
    """FAIL from this share: weights are forgotten within twenty steps."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Schedule:
    """The learning rate over a whole training, as a share of its peak."""

    low: float = Field(default=0.01, gt=0.0, lt=1.0)
    """What counts as near zero (preflight.md)."""
    fail_share: float = Field(default=0.5, gt=0.0, lt=1.0)
    """FAIL where more than this share of the steps is near zero (preflight.md)."""
    tail_share: float = Field(default=0.2, gt=0.0, lt=1.0)
    """WARN where the last steps are near zero (cosine to 0 has 6 %, linear 1 %)."""
    cycles: int = Field(default=3, ge=1)
    """WARN above this many returns from near zero."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class MixedPrecision:
    """The loss in mixed against full precision."""

    warn: float = Field(default=0.05, gt=0.0)
    """WARN above this relative difference (our guess: bfloat16 rounds to 0.4 %)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Accumulation:
    """The gradient of a batch against that of its parts."""

    warn: float = Field(default=1e-3, gt=0.0)
    """WARN above this relative difference (float32 rounding: below 1e-5)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Evaluation:
    """The user's scores against the score of all predictions at once."""

    examples: int = Field(default=500, ge=4)
    """Validation examples used."""
    fail: float = Field(default=1e-3, gt=0.0)
    """FAIL above this relative difference (float32 rounding: below 1e-5)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EpochCoverage:
    """Share of the training examples that five epochs show."""

    warn: float = Field(default=0.5, gt=0.0, le=1.0)
    """WARN below this share (sampling with replacement: 63 %)."""
    fail: float = Field(default=0.2, gt=0.0, le=1.0)
    """FAIL below this share."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class CodeChecks:
    """One field per check of code."""

    init_loss: InitLoss = InitLoss()
    """Thresholds of init_loss."""
    loss_reduction: LossReduction = LossReduction()
    """Thresholds of loss_reduction."""
    loss_floor: LossFloor = LossFloor()
    """Thresholds of loss_floor and loss_smoothing."""
    base_rate_bias: BaseRateBias = BaseRateBias()
    """Thresholds of base_rate_bias."""
    output_range: OutputRange = OutputRange()
    """Budget of double_softmax and output_range."""
    target_in_input: TargetInInput = TargetInInput()
    """Threshold of target_in_input."""
    nonlinearity: Nonlinearity = Nonlinearity()
    """Threshold of nonlinearity."""
    seed_determinism: SeedDeterminism = SeedDeterminism()
    """Budget of seed_determinism."""
    dead_units: DeadUnits = DeadUnits()
    """Thresholds of dead_units and dead_units_trained."""
    gradient_flow: GradientFlow = GradientFlow()
    """Thresholds of gradient_flow."""
    learning_rate: LearningRate = LearningRate()
    """Thresholds of learning_rate."""
    weight_decay: WeightDecay = WeightDecay()
    """Thresholds of weight_decay."""
    schedule: Schedule = Schedule()
    """Thresholds of schedule."""
    mixed_precision: MixedPrecision = MixedPrecision()
    """Thresholds of mixed_precision."""
    accumulation: Accumulation = Accumulation()
    """Thresholds of accumulation."""
    evaluation: Evaluation = Evaluation()
    """Thresholds of evaluation."""
    epoch_coverage: EpochCoverage = EpochCoverage()
    """Thresholds of epoch_coverage."""
    input_use: InputUse = InputUse()
    """Budget and thresholds of input_use."""
