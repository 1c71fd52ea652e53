"""The healthy pool: every task, with the training it is known to work with."""

from collections.abc import Callable
from dataclasses import dataclass, field

from benchmarks.mutations import images, sequences, tables, unusual
from orchestrator.config.hyperparameters import (
    DataConfig,
    Hyperparameters,
    LossConfig,
    OptimizerConfig,
    ScheduleConfig,
)
from orchestrator.preflight.procedure import Procedure
from orchestrator.tasks.base import Task
from orchestrator.tasks.digits import DigitsCNN, DigitsMLP
from orchestrator.tasks.tabular import BreastCancer, Diabetes

ADAM = Hyperparameters(optimizer=OptimizerConfig(lr=3e-3))
SGD = Hyperparameters(
    optimizer=OptimizerConfig(name="sgd", lr=0.05, momentum=0.9, weight_decay=1e-4),
    schedule=ScheduleConfig(kind="cosine", warmup=0.05),
)


@dataclass(frozen=True)
class Healthy:
    """One task of the pool; ``build(seed)`` makes it with that seed's data and division."""

    name: str
    build: Callable[[int], Task]
    hyperparameters: Hyperparameters = field(default_factory=lambda: ADAM)
    procedure: type[Procedure] = Procedure
    epochs: int = 15
    """Passes over the training split when a fault's harm is measured (our guess; enough for the clean plateau)."""


POOL = (
    Healthy("digits_mlp", DigitsMLP),
    Healthy("digits_cnn", DigitsCNN),
    Healthy("breast_cancer", BreastCancer),
    Healthy("diabetes", Diabetes),
    Healthy("wine", tables.Wine, epochs=30),
    Healthy("raw_behind_norm", tables.RawBehindNorm),
    Healthy("binary_logit", tables.BinaryLogit),
    Healthy("imbalanced", tables.Imbalanced),
    Healthy("logit_bias", tables.LogitBias),
    Healthy("class_weights", tables.ClassWeights),
    Healthy("multi_label", tables.MultiLabel),
    Healthy("category_columns", tables.CategoryColumns),
    Healthy("huber", tables.HuberRegression),
    Healthy("deep_regression", tables.DeepRegression),
    Healthy("raw_targets", tables.RawTargets),
    Healthy("negative_targets", tables.NegativeTargets),
    Healthy("pinball", tables.Pinball),
    Healthy("mean_and_variance", tables.MeanAndVariance),
    Healthy("counts", tables.Counts),
    Healthy("plain_cnn", images.Images, SGD),
    Healthy("residual", images.Residual),
    Healthy(
        "attention",
        images.Attention,
        Hyperparameters(optimizer=OptimizerConfig(), loss=LossConfig(label_smoothing=0.1)),
    ),
    Healthy("deep_mlp", images.Deep, Hyperparameters(optimizer=OptimizerConfig())),
    Healthy("frozen", images.Frozen),
    Healthy("items", images.Items, Hyperparameters(optimizer=OptimizerConfig(), data=DataConfig(augmentation=0.5))),
    Healthy("autoencoder", images.Autoencoder),
    Healthy("segmentation", images.Segmentation),
    Healthy("contrastive", images.Contrastive),
    Healthy("rows", sequences.Rows),
    Healthy("tokens", sequences.Tokens),
    Healthy("language", sequences.Language),
    Healthy("padded", sequences.Padded),
    Healthy("forecast", sequences.Forecast),
    Healthy("iris", unusual.Iris, epochs=40),
    Healthy("soft_labels", unusual.SoftLabels),
    Healthy("focal", unusual.Focal),
    Healthy("shares", unusual.Shares),
    Healthy("padded_language", unusual.PaddedLanguage),
    Healthy("slow_digits", DigitsMLP, Hyperparameters(optimizer=OptimizerConfig(lr=1e-4)), epochs=60),
    Healthy("accumulating", DigitsMLP, procedure=unusual.Accumulating),
    Healthy("balanced", tables.Imbalanced, procedure=unusual.Balanced),
    Healthy("restarts", tables.HuberRegression, procedure=unusual.Restarts),
    Healthy("noisy_inputs", DigitsMLP, procedure=unusual.NoisyInputs),
)
BY_NAME = {healthy.name: healthy for healthy in POOL}
