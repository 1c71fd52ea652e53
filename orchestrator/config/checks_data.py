"""Thresholds of the checks of data."""

from pydantic import Field
from pydantic.dataclasses import dataclass

from orchestrator.config.hyperparameters import STRICT


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ValidationSize:
    """How many examples the scores are measured on."""

    least: int = Field(default=50, ge=1)
    """INFO below it: an accuracy is then uncertain by 0.07 and more."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelSets:
    """Classes of training against classes of validation."""

    improbable: float = Field(default=1e-4, gt=0.0, lt=1.0)
    """A class is missed where a random division would lose it with less than this probability."""
    distance: float = Field(default=0.1, gt=0.0, lt=1.0)
    """WARN above this total variation between the class shares, if it is also beyond chance (our guess)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Duplicates:
    """Exact copies within training; whole-number inputs and small input spaces are never more than INFO."""

    copies: float = Field(default=0.05, ge=0.0, le=1.0)
    """WARN above this share of training examples with an exact copy (our guess)."""
    conflicting: float = Field(default=0.01, ge=0.0, le=1.0)
    """WARN above this share of training examples with a copy that has another target (our guess)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Overlap:
    """Exact copies across splits."""

    fail: float = Field(default=0.01, ge=0.0, le=1.0)
    """FAIL above this share of a split, beyond what training repeats in itself (preflight.md)."""
    improbable: float = Field(default=1e-4, gt=0.0, lt=1.0)
    """... if a random division would have so many with less than this probability; WARN otherwise (our guess:
    iris holds one pair of equal flowers, which may well be divided)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NearDuplicates:
    """Distances of validation examples to training against distances within training."""

    examples: int = Field(default=4000, ge=20)
    """Most training examples compared, and twice as many as of validation."""
    excess: float = Field(default=0.01, ge=0.0, le=1.0)
    """WARN above this excess share of very near validation examples."""
    improbable: float = Field(default=1e-6, gt=0.0, lt=1.0)
    """... if its p-value is below this as well."""
    crowded: float = Field(default=0.1, ge=0.0, le=1.0)
    """WARN above this share of validation within a tenth of the usual distance, whatever training looks like."""
    features: int = Field(default=8, ge=1)
    """... if there are at least so many features; in few dimensions near neighbours are natural."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class InputScale:
    """Scale of what reaches the first layer with weights."""

    mean: float = Field(default=5.0, gt=0.0)
    """WARN above this absolute mean, in deviations (preflight.md)."""
    high: float = Field(default=20.0, gt=0.0)
    """WARN above this deviation (preflight.md; raw breast cancer has 228)."""
    low: float = Field(default=0.05, gt=0.0)
    """WARN below this root mean square of the numbers that are not 0, which one-hot columns keep at 1."""
    largest: float = Field(default=100.0, gt=0.0)
    """WARN above this absolute value (preflight.md; standardised digits reach 10.4)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ConstantFeatures:
    """Features that hardly vary in training."""

    tiny: float = Field(default=1e-6, gt=0.0)
    """A feature counts as constant below this share of the typical deviation."""
    moves: float = Field(default=10.0, gt=0.0)
    """WARN where such a feature moves in validation by more typical deviations."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OutsideRange:
    """Validation features beyond their training range."""

    warn_ranges: float = Field(default=3.0, gt=0.0)
    """WARN above this many lengths of the training range (Student's t with 2 degrees of freedom, a tail without
    variance, went 9 ranges and 147 deviations once in 3 draws; lognormal ones stay within) ..."""
    warn_deviations: float = Field(default=20.0, gt=0.0)
    """... if it is above this many typical deviations, too."""
    fail_ranges: float = Field(default=100.0, gt=0.0)
    """FAIL above this many lengths of the training range ..."""
    fail_deviations: float = Field(default=1000.0, gt=0.0)
    """... if it is above this many typical deviations, too."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SplitGap:
    """Moments of training against moments of validation."""

    smd: float = Field(default=0.5, gt=0.0)
    """A feature is shifted above this standardised mean difference (preflight.md)."""
    variance_ratio: float = Field(default=4.0, gt=1.0)
    """A feature is spread differently above this ratio of variances (preflight.md)."""
    share: float = Field(default=0.05, ge=0.0, le=1.0)
    """WARN above this share of shifted or differently spread features (preflight.md)."""
    fail_ratio: float = Field(default=2.5, gt=1.0)
    """FAIL above this median ratio of deviations, if most features differ."""
    fail_smd: float = Field(default=3.0, gt=0.0)
    """FAIL above this median standardised mean difference, if most features differ."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TargetScale:
    """Scale of the targets of a regression against the untrained outputs."""

    mean: float = Field(default=5.0, gt=0.0)
    """WARN where the mean is further from 0 and from the outputs' mean, in deviations."""
    low: float = Field(default=0.05, gt=0.0)
    """WARN where deviation and ratio of output to target deviation are below it, or ..."""
    high: float = Field(default=20.0, gt=0.0)
    """... above this."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ClassBalance:
    """Shares of the classes in training."""

    share: float = Field(default=0.1, gt=0.0, lt=1.0)
    """INFO or WARN below this share divided by the number of classes (cleanlab)."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class SingleFeature:
    """Skill of the best single feature for the hardest class."""

    warn: float = Field(default=0.95, gt=0.0, le=1.0)
    """WARN from this chance-corrected balanced accuracy (preflight.md: healthy data reach 0.929)."""
    fail: float = Field(default=0.995, gt=0.0, le=1.0)
    """FAIL from this one (preflight.md), if the feature is a code of the label or ..."""
    others: float = Field(default=0.97, gt=0.0, le=1.0)
    """... the other features together stay below this skill; else the data are just easy, and INFO is enough."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TargetLeak:
    """Correlation of a single feature with the target of a regression."""

    warn: float = Field(default=0.999, gt=0.0, le=1.0)
    """WARN above it (smooth series reach 0.99 from one step to the next)."""
    fail: float = Field(default=0.9999999, gt=0.0, le=1.0)
    """FAIL above it: equal to rounding in float32."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LabelNoise:
    """Contradictions between labels and out-of-fold predictions."""

    warn: float = Field(default=0.1, gt=0.0, lt=1.0)
    """WARN where more of the surest predictions contradict the label (preflight.md), beyond chance ..."""
    flat: float = Field(default=0.53, gt=0.0, lt=1.0)
    """... and they do so nearly as often as the others: the error of the surest 30 % over that of all, and
    of the surer half over the other half, are both above this. Where classes overlap, the error is low far
    from the border. Measured over 5 seeds each, the smaller of the two: overlapping classes at most 0.50
    (0.60 for one with 31 % error by nature), 40 % of the labels shuffled 0.56 to 1.5, 20 % 0.34 to 1.5."""
    skill: float = Field(default=0.35, ge=0.0, lt=1.0)
    """... and the forest is better than the commonest class by this share of its errors. A forest that has not
    understood the problem is wrong everywhere, too: parity 0.28, a weak signal 0.19; digits with 40 % of the
    labels shuffled 0.57, breast cancer 0.43."""
    examples: int = Field(default=80, ge=20)
    """Fewer examples are not judged."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class TrainingOrder:
    """Likeness of neighbours in the training order."""

    warn: float = Field(default=0.1, gt=0.0, lt=1.0)
    """WARN above it, if it is above six standard errors as well (a random order is within four of 0)."""
    fail: float = Field(default=0.5, gt=0.0, lt=1.0)
    """FAIL above it for classes; data sorted by class reach 0.97 and more."""
    examples: int = Field(default=50, ge=10)
    """Fewer examples are not judged."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class AugmentedLabels:
    """What augmentation does to classical models."""

    floor: float = Field(default=0.1, gt=0.0, lt=1.0)
    """WARN where the surest predictions contradict the label more often by this share. Measured on digits: changes
    that keep the label reach 0.02, shuffled inputs 0.75."""
    mistaken: float = Field(default=0.18, gt=0.0, lt=1.0)
    """WARN where this share of a class is surely taken for one other class. Measured on digits: shifts, noise,
    cut-outs, rotations by 25 degrees, scaling and mirroring reach 0.10; turning over 0.24 to 0.28."""
    fail: float = Field(default=0.25, gt=0.0, lt=1.0)
    """FAIL where the surest predictions contradict the label more often by this share."""
    examples: int = Field(default=100, ge=20)
    """Fewer examples are not judged."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class ValidationRandom:
    """Differences between two reads of validation."""

    fail: float = Field(default=0.3, gt=0.0)
    """FAIL above this root mean square difference in deviations of the inputs (flips and crops reach 1 and more;
    noise of 0.1, measured to do no harm on digits, reaches 0.14); WARN below."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Baselines:
    """Classical models."""

    examples: int = Field(default=5000, ge=10)
    """Most training examples they are fitted on."""
    features: int = Field(default=256, ge=1)
    """Most features; wider inputs are reduced to so many principal components, tokens to the commonest ones."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Gallery:
    """Pictures."""

    examples: int = Field(default=256, ge=8)
    """Examples from which those shown are chosen."""
    overfit_examples: int = Field(default=24, ge=2)
    """Examples learnt by heart."""
    overfit_steps: int = Field(default=150, ge=1)
    """Steps of that training."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DataChecks:
    """One field per check of data."""

    validation_size: ValidationSize = ValidationSize()
    """Thresholds of validation_size."""
    label_sets: LabelSets = LabelSets()
    """Thresholds of label_sets."""
    duplicates: Duplicates = Duplicates()
    """Thresholds of duplicates."""
    split_overlap: Overlap = Overlap()
    """Thresholds of split_overlap."""
    near_duplicates: NearDuplicates = NearDuplicates()
    """Thresholds of near_duplicates."""
    input_scale: InputScale = InputScale()
    """Thresholds of input_scale."""
    constant_features: ConstantFeatures = ConstantFeatures()
    """Thresholds of constant_features."""
    outside_range: OutsideRange = OutsideRange()
    """Thresholds of outside_range."""
    split_gap: SplitGap = SplitGap()
    """Thresholds of split_gap and target_gap."""
    target_scale: TargetScale = TargetScale()
    """Thresholds of target_scale."""
    class_balance: ClassBalance = ClassBalance()
    """Thresholds of class_balance."""
    feature_leak: SingleFeature = SingleFeature()
    """Thresholds of feature_leak."""
    target_leak: TargetLeak = TargetLeak()
    """Thresholds of target_leak."""
    label_noise: LabelNoise = LabelNoise()
    """Thresholds of label_noise."""
    training_order: TrainingOrder = TrainingOrder()
    """Thresholds of training_order."""
    augmented_labels: AugmentedLabels = AugmentedLabels()
    """Thresholds of augmented_labels."""
    validation_random: ValidationRandom = ValidationRandom()
    """Thresholds of validation_random."""
    baselines: Baselines = Baselines()
    """Budget of baselines."""
    gallery: Gallery = Gallery()
    """Budget of the pictures."""
