"""Malformed examples and labels are named; odd ones that the task copes with are not blocked."""

import pytest
import torch
from data_faults import Categories, EasyBlobs, Slope, changed, only
from preflight_tasks import HEALTHY, Blobs, Counting, Labels, Line, Pairs, run, severity
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from orchestrator.preflight.report import Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Splits, Task

CHECKS = ("finite_data", "shapes", "validation_size", "label_range", "label_sets", "constant_targets")


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("kind", [*HEALTHY, Slope, EasyBlobs, Categories])
def test_healthy_tasks_pass_or_are_skipped(kind: type[Task], name: str) -> None:
    assert severity(name, kind()) in (Severity.PASS, Severity.SKIPPED)


def pierced(inputs: Tensor, targets: Tensor, value: float = torch.nan) -> tuple[Tensor, Tensor]:
    inputs = inputs.clone()
    inputs[7, 2] = value
    return inputs, targets


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_one_value_that_is_not_finite_is_found_in_every_split(split: str, value: float) -> None:
    found = run("finite_data", changed(Blobs, only(split, lambda x, y: pierced(x, y, value))))
    assert found.severity is Severity.FAIL
    assert f"{split} inputs: 1 values in 1 of 300 examples, first [7]" in found.statistic


def test_targets_are_scanned_too() -> None:
    task = changed(Slope, only("train", lambda x, y: (x, torch.where(y > 1, torch.nan, y))))
    assert "train targets" in run("finite_data", task).statistic


def test_missing_values_that_the_model_handles_only_warn() -> None:
    class Filled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = Blobs().model()

        def forward(self, inputs: Tensor) -> Tensor:
            result: Tensor = self.body(inputs.nan_to_num())
            return result

    class Handles(Blobs):
        def model(self, **hyperparameters: float) -> nn.Module:  # type: ignore[override]
            return Filled()

    assert severity("finite_data", changed(Handles, lambda name, x, y: pierced(x, y))) is Severity.WARN


def test_an_empty_split_and_another_type_are_faults_another_length_is_a_warning() -> None:
    assert severity("shapes", changed(Blobs, only("validation", lambda x, y: (x[:0], y[:0])))) is Severity.FAIL
    assert severity("shapes", changed(Blobs, only("validation", lambda x, y: (x[..., None], y)))) is Severity.FAIL
    assert severity("shapes", changed(Blobs, only("validation", lambda x, y: (x.double(), y)))) is Severity.FAIL
    assert severity("shapes", changed(Blobs, only("validation", lambda x, y: (x[:, :5], y)))) is Severity.WARN


def test_labels_that_count_from_one_are_out_of_range() -> None:
    found = run("label_range", changed(Blobs, lambda name, x, y: (x, y + 1)))
    assert found.severity is Severity.FAIL
    assert "labels [3]" in found.statistic


def test_a_rare_wrong_label_is_found_and_an_ignored_index_is_accepted() -> None:
    def one(x: Tensor, y: Tensor, label: int) -> tuple[Tensor, Tensor]:
        y = y.clone()
        y[250] = label
        return x, y

    assert severity("label_range", changed(Blobs, only("validation", lambda x, y: one(x, y, 9)))) is Severity.FAIL
    assert severity("label_range", changed(Blobs, only("validation", lambda x, y: one(x, y, -1)))) is Severity.FAIL
    assert severity("label_range", changed(Blobs, only("validation", lambda x, y: one(x, y, -100)))) is Severity.PASS


@pytest.mark.parametrize("kind", [Line, Labels, Pairs])
def test_label_range_is_skipped_without_class_numbers(kind: type[Task]) -> None:
    assert severity("label_range", kind()) is Severity.SKIPPED


def without(label: int, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x[y != label], y[y != label]


def test_a_class_missing_in_training_blocks_and_one_missing_in_validation_warns() -> None:
    assert severity("label_sets", changed(Blobs, only("train", lambda x, y: without(2, x, y)))) is Severity.FAIL
    assert severity("label_sets", changed(Blobs, only("validation", lambda x, y: without(2, x, y)))) is Severity.WARN


def test_a_class_that_chance_may_have_left_out_is_only_noted() -> None:
    def single(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        rare = torch.nonzero(y == 2).flatten()[0 if name == "train" else 1 :]
        keep = torch.ones(len(y), dtype=torch.bool)
        keep[rare] = False
        return x[keep], y[keep]

    found = run("label_sets", changed(Blobs, single))
    assert found.severity is Severity.INFO
    assert "class 2: 0 and 1 examples" in found.statistic


def test_other_class_shares_warn_beyond_chance_only() -> None:
    def fewer(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        keep = (y != 0) | (torch.arange(len(y)) % 5 == 0)
        return x[keep], y[keep]

    assert severity("label_sets", changed(Blobs, only("train", fewer))) is Severity.WARN
    assert severity("label_sets", changed(Blobs, lambda name, x, y: (x[:40], y[:40]))) is Severity.PASS


def test_constant_targets_block_unless_the_loss_does_not_read_them() -> None:
    assert severity("constant_targets", changed(Blobs, lambda n, x, y: (x, y * 0))) is Severity.FAIL
    assert severity("constant_targets", changed(Slope, lambda n, x, y: (x, y * 0 + 3))) is Severity.FAIL

    class Unsupervised(Slope):
        def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
            return (outputs - 1).square().mean()

    assert severity("constant_targets", changed(Unsupervised, lambda n, x, y: (x, y * 0))) is Severity.SKIPPED


def test_a_tiny_validation_split_is_noted() -> None:
    few = changed(Blobs, only("validation", lambda x, y: (x[:20], y[:20])))
    assert severity("validation_size", few) is Severity.INFO


def test_language_models_have_a_label_range_too() -> None:
    assert severity("label_range", Counting()) is Severity.PASS
    assert severity("label_range", changed(Counting, only("test", lambda x, y: (x, y + 5)))) is Severity.FAIL


def test_only_a_part_of_a_large_data_set_of_items_is_read() -> None:
    class Items(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
        read = 0

        def __len__(self) -> int:
            return 50_000

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            type(self).read += 1
            return torch.full((8,), float(index)), torch.tensor(index % 3)

    class Large(Blobs):
        def splits(self) -> Splits:
            small = TensorDataset(torch.zeros(4, 8), torch.zeros(4, dtype=torch.int64))
            return Splits(Items(), small, small)

    subject = Subject(Large())
    for name in ("finite_data", "shapes", "constant_targets"):
        run(name, subject)
    assert 5_000 <= Items.read < 6_000
