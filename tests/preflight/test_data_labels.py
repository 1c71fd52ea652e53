"""Leaks, noise and imbalance of labels; hard or easy data are not mistaken for them."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from data_faults import Categories, EasyBlobs, Slope, changed
from preflight_tasks import HEALTHY, Blobs, Counting, draw, run, severity
from torch import Tensor, nn

from orchestrator.preflight.classical import bin_skill, noise_of, out_of_fold, tree_skill
from orchestrator.preflight.report import Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import ClassificationTask, Splits, Task
from orchestrator.tasks.tabular import BreastCancer
from orchestrator.types import Direction

CHECKS = ("class_balance", "feature_leak", "target_leak", "label_noise")


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("kind", [*HEALTHY, Slope, EasyBlobs, Categories, BreastCancer])
def test_healthy_tasks_pass_or_are_skipped(kind: type[Task], name: str) -> None:
    assert severity(name, kind()) in (Severity.PASS, Severity.SKIPPED)


def with_columns(base: type[Task], make: object) -> Task:
    """Extra input columns made from the targets."""

    class Wider(base):  # type: ignore[misc,valid-type]
        def model(self, **hyperparameters: int) -> nn.Module:  # type: ignore[override]
            columns = self.splits().train.tensors[0].shape[1]
            outputs = super().model(**hyperparameters)[-1].out_features
            return nn.Sequential(nn.Linear(columns, 16), nn.ReLU(), nn.Linear(16, outputs))

    return changed(Wider, lambda n, x, y: (torch.cat([x, make(y)], dim=1), y))  # type: ignore[operator]


@pytest.mark.parametrize(
    "code",
    [
        lambda y: y[:, None].float(),
        lambda y: nn.functional.one_hot(y, 3).float(),
        lambda y: -2.0 * ((y[:, None] + 1) % 3),
        lambda y: y[:, None] + 0.05 * draw(7, len(y), 1),
    ],
    ids=["number", "one-hot", "permuted", "with noise"],
)
def test_the_label_among_the_inputs_blocks(code: object) -> None:
    found = run("feature_leak", with_columns(Blobs, code))
    assert found.severity is Severity.FAIL
    assert found.values["skill"] > 0.995


def test_a_good_but_imperfect_feature_is_no_leak() -> None:
    assert (
        severity("feature_leak", with_columns(Blobs, lambda y: y[:, None] + 0.4 * draw(7, len(y), 1)))
        is Severity.PASS
    )


def test_data_that_many_features_separate_are_easy_not_leaky() -> None:
    far = changed(EasyBlobs, lambda n, x, y: (x + 12 * y[:, None], y))
    found = run("feature_leak", far)
    assert found.values["skill"] > 0.99
    assert found.severity is Severity.INFO


def test_the_target_in_another_unit_blocks_and_a_good_predictor_does_not() -> None:
    assert severity("target_leak", with_columns(Slope, lambda y: 32 + 1.8 * y)) is Severity.FAIL
    assert severity("target_leak", with_columns(Slope, lambda y: y + 0.1 * draw(5, len(y), 1))) is Severity.PASS


def scrambled(share: float) -> Task:
    def change(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        chosen = torch.rand(len(y), generator=torch.Generator().manual_seed(4)) < share
        return x, torch.where(chosen, (y + 1) % 3, y)

    return changed(EasyBlobs, change)


@pytest.mark.parametrize("share", [0.2, 0.3, 0.4])
def test_wrong_labels_are_warned_of_and_estimated(share: float) -> None:
    found = run("label_noise", scrambled(share))
    assert found.severity is Severity.WARN
    assert found.values["floor"] == pytest.approx(share, abs=0.1)


def test_overlapping_classes_are_not_called_noise() -> None:
    class Overlap(ClassificationTask):
        def splits(self) -> Splits:
            def make(seed: int) -> torch.utils.data.TensorDataset:
                inputs = draw(seed, 600, 6)
                chance = torch.sigmoid(1.2 * inputs[:, :3].sum(1))
                drawn = torch.rand(600, generator=torch.Generator().manual_seed(seed + 100))
                return torch.utils.data.TensorDataset(inputs, (drawn < chance).long())

            return Splits(make(self.seed), make(50), make(51))

        seed = 1

        def model(self) -> nn.Module:
            return nn.Linear(6, 2)

    for seed in range(1, 6):
        Overlap.seed = seed
        found = run("label_noise", Overlap())
        assert found.values["error"] > 0.15
        assert found.severity is Severity.PASS


def test_the_ranked_list_names_the_wrong_labels(tmp_path: Path) -> None:
    subject = Subject(scrambled(0.05), folder=tmp_path)
    run("label_noise", subject)
    clean, dirty = EasyBlobs().splits().train.tensors[1], scrambled(0.05).splits().train.tensors[1]
    wrong = set(torch.nonzero(clean != dirty).flatten().tolist())
    (path,) = subject.pictures
    with path.open(encoding="utf-8") as file:
        ranked = list(csv.DictReader(file))
    top = [int(row["index"]) for row in ranked[: len(wrong)]]
    assert len(wrong & set(top)) >= 0.7 * len(wrong)
    first = ranked[0]
    assert int(first["label"]) == int(dirty[int(first["index"])])


def rare(base: type[Task], **attributes: object) -> Task:
    def change(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        keep = (y != 1) | (torch.arange(len(y)) % 60 == 0)
        return x[keep], y[keep]

    return changed(base, change, **attributes)


def test_imbalance_warns_where_no_score_sees_it_and_is_noted_where_one_does() -> None:
    class Balanced(Blobs):
        directions = {**Blobs.directions, "balanced": Direction.MAXIMIZE}

        def score(self, predictions: Tensor, targets: Tensor) -> dict[str, float]:
            right = (predictions.argmax(1) == targets).double()
            recalls = [float(right[targets == label].mean()) for label in targets.unique()]
            return {**super().score(predictions, targets), "balanced": float(np.mean(recalls))}

    found = run("class_balance", rare(Blobs))
    assert found.severity is Severity.WARN
    assert "accuracy would call" in found.statistic
    assert severity("class_balance", rare(Balanced)) is Severity.INFO


def test_labels_per_position_are_skipped() -> None:
    assert severity("class_balance", Counting()) is Severity.SKIPPED


def test_skills_are_0_by_chance_and_1_for_a_code() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 600)
    table = np.stack([random.normal(size=600), labels, labels == 2], axis=1)
    skill = bin_skill(table, labels, 3)
    assert skill[:, 1] == pytest.approx(1.0)
    assert skill[2, 2] == pytest.approx(1.0)
    assert (skill[:, 0] < 0.3).all()
    assert tree_skill(table[:, 1], (labels == 1).astype(np.int64)) == 1.0
    assert abs(tree_skill(table[:, 0], (labels == 1).astype(np.int64))) < 0.2


def test_noise_statistics_on_labels_without_signal() -> None:
    random = np.random.default_rng(1)
    table, labels = random.normal(size=(400, 5)), random.integers(0, 2, 400)
    found = noise_of(out_of_fold(table, labels), labels)
    assert found.skill < 0.15
    assert found.count == 120
