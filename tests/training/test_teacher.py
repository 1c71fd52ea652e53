"""A teacher's predictions in the loss: of the right example, in the right proportion."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator.config.hyperparameters import (
    DataConfig,
    DistillConfig,
    Hyperparameters,
    LossConfig,
    OptimizerConfig,
)
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import ConfigError
from orchestrator.tasks.base import ClassificationTask, RegressionTask, Splits
from orchestrator.training.loop import Loop
from orchestrator.types import TrialSpec


def part(examples: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, 3, generator=generator)
    return TensorDataset(inputs, inputs.sum(dim=1, keepdim=True))


SPLITS = Splits(part(50, 0), part(20, 1), part(5, 2))
RIGHT = SPLITS.train.tensors[1].numpy()  # type: ignore[attr-defined]


class Line(RegressionTask):
    def splits(self) -> Splits:
        return SPLITS

    def model(self) -> nn.Module:  # type: ignore[override]
        return nn.Linear(3, 1)

    def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
        return inputs * (1 + strength), targets


class Classes(ClassificationTask):
    def splits(self) -> Splits:
        raise AssertionError("not needed")

    def model(self) -> nn.Module:  # type: ignore[override]
        raise AssertionError("not needed")


def trained(
    tmp_path: Path, teacher: np.ndarray | None, weight: float = 1.0, microbatch: int = 0, augmentation: float = 0.0
) -> Tensor:
    """Weights after three epochs."""
    if teacher is not None:
        np.save(tmp_path / "teacher.npy", teacher)
    hyperparameters = Hyperparameters(
        optimizer=OptimizerConfig(name="sgd", lr=0.05),
        data=DataConfig(batch_size=16, augmentation=augmentation),
        loss=LossConfig(),
        distill=None if teacher is None else DistillConfig(weight=weight),
    )
    config = TrainerConfig(device="cpu", microbatch_size=microbatch, teacher=str(tmp_path / "teacher.npy"))
    spec = TrialSpec(number=0, stage="s", configuration={}, seed=3, epochs=3, directory=tmp_path, keep=False)
    loop = Loop(Line(), SPLITS, hyperparameters, config, spec)
    for _ in range(3):
        loop.run_epoch()
    return torch.cat([parameter.detach().flatten() for parameter in loop.model.parameters()])


@pytest.mark.parametrize(("microbatch", "augmentation"), [(0, 0.0), (5, 0.0), (0, 0.5)])
def test_the_teacher_follows_each_example_through_shuffling_parts_and_augmentation(
    microbatch: int, augmentation: float, tmp_path: Path
) -> None:
    # A teacher that says the targets teaches what the targets do.
    alone = trained(tmp_path, None, microbatch=microbatch, augmentation=augmentation)
    taught = trained(tmp_path, RIGHT, microbatch=microbatch, augmentation=augmentation)
    assert torch.allclose(taught, alone, atol=1e-7)
    moved = trained(tmp_path, np.roll(RIGHT, 1, axis=0), microbatch=microbatch, augmentation=augmentation)
    assert not torch.allclose(moved, alone, atol=1e-2)


def test_a_teacher_without_weight_changes_nothing_and_with_it_pulls(tmp_path: Path) -> None:
    alone, other = trained(tmp_path, None), RIGHT + 1
    assert torch.equal(trained(tmp_path, other, weight=0.0), alone)
    biases = [float(trained(tmp_path, other, weight=weight)[-1]) for weight in (0.0, 0.3, 1.0)]
    assert biases == sorted(biases)
    assert biases[0] + 0.01 < biases[1] < biases[2] - 0.01


def test_the_distance_of_classes_is_that_of_the_softened_probabilities() -> None:
    torch.manual_seed(0)
    outputs, teacher = torch.randn(6, 4), torch.randn(6, 4).softmax(dim=1)
    for temperature in (1.0, 3.0):
        soft = teacher ** (1 / temperature)
        soft = soft / soft.sum(dim=1, keepdim=True)
        student = (outputs / temperature).softmax(dim=1)
        wanted = (soft * (soft / student).log()).sum(dim=1).mean() * temperature**2
        assert torch.allclose(Classes().distillation(outputs, teacher, temperature), wanted, atol=1e-6)
    sure = nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 0, 1]), 4).float()
    assert torch.isfinite(Classes().distillation(outputs, sure, 2.0))
    assert torch.allclose(
        Classes().distillation(outputs, sure, 1.0),
        nn.functional.cross_entropy(outputs, sure.argmax(dim=1)),
        atol=1e-5,
    )


def test_a_teacher_of_other_data_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"of 49 examples, not 50"):
        trained(tmp_path, RIGHT[1:])
    (tmp_path / "teacher.npy").unlink()
    config = TrainerConfig(device="cpu", teacher=str(tmp_path / "teacher.npy"))
    spec = TrialSpec(number=0, stage="s", configuration={}, seed=3, epochs=3, directory=tmp_path)
    with pytest.raises(ConfigError, match=r"teacher\.npy: there is no such file"):
        Loop(Line(), SPLITS, Hyperparameters(distill=DistillConfig()), config, spec)
    with pytest.raises(ConfigError, match="there is no teacher; run stage=distill"):
        Loop(Line(), SPLITS, Hyperparameters(distill=DistillConfig()), TrainerConfig(device="cpu"), spec)
