"""Copies within and across splits: a fault of the division is told from data that repeat by nature."""

import numpy as np
import pytest
import torch
from data_faults import Categories, EasyBlobs, Slope, changed, only
from preflight_tasks import HEALTHY, Blobs, Counting, draw, run, severity
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from orchestrator.preflight.data_table import fingerprints
from orchestrator.preflight.data_twins import conflicts, excess, inner_twin_share, more_often, nearest
from orchestrator.preflight.report import Severity
from orchestrator.tasks.base import Splits, Task

CHECKS = ("duplicates", "split_overlap", "group_overlap", "near_duplicates")
QUIET = (Severity.PASS, Severity.SKIPPED, Severity.INFO)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("kind", [*HEALTHY, Slope, EasyBlobs, Categories])
def test_healthy_tasks_are_not_warned_of(kind: type[Task], name: str) -> None:
    assert severity(name, kind()) in QUIET


def from_training(base: type[Task], share: float, noise: float = 0.0) -> Task:
    """The first ``share`` of validation are training rows, with noise."""

    class Changed(base):  # type: ignore[misc,valid-type]
        def splits(self) -> Splits:
            old = super().splits()
            inputs, targets = old.train.tensors
            own_inputs, own_targets = (part.clone() for part in old.validation.tensors)
            count = int(share * len(own_targets))
            own_inputs[:count] = inputs[:count] + noise * draw(9, *inputs[:count].shape)
            own_targets[:count] = targets[:count]
            return Splits(old.train, TensorDataset(own_inputs, own_targets), old.test)

    return Changed()


@pytest.mark.parametrize("share", [1.0, 0.2, 0.05])
@pytest.mark.parametrize("kind", [Blobs, Slope])
def test_validation_rows_from_training_block(kind: type[Task], share: float) -> None:
    found = run("split_overlap", from_training(kind, share))
    assert found.severity is Severity.FAIL
    assert found.values["share"] == pytest.approx(share, abs=0.01)


def test_one_shared_row_may_be_chance_and_is_noted() -> None:
    assert severity("split_overlap", from_training(Blobs, 1 / 300)) is Severity.INFO


def test_copies_made_before_the_division_block_for_measurements() -> None:
    def doubled(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        pool = draw(5, 200, 8)
        chosen = torch.randint(0, 200, (len(x),), generator=torch.Generator().manual_seed(len(name)))
        return pool[chosen], y

    assert severity("split_overlap", changed(Blobs, doubled)) is Severity.FAIL
    assert severity("duplicates", changed(Blobs, doubled)) is Severity.WARN


def test_few_possible_inputs_repeat_by_nature() -> None:
    assert run("split_overlap", Categories()).values["share"] > 0.9
    assert severity("split_overlap", Categories()) is Severity.INFO
    assert run("duplicates", Categories()).values["conflicting"] > 0.3
    assert severity("duplicates", Categories()) is Severity.INFO
    assert severity("split_overlap", Counting()) is Severity.INFO


def test_indices_of_one_source_in_two_subsets_block() -> None:
    class Cut(Blobs):
        start = 200

        def splits(self) -> Splits:
            whole = super().splits().train
            cuts = (range(200), range(self.start, self.start + 50), range(260, 300))
            return Splits(*(Subset(whole, list(cut)) for cut in cuts))

    assert severity("split_overlap", Cut()) is Severity.PASS
    Cut.start = 190
    found = run("split_overlap", Cut())
    assert (found.severity, found.statistic) == (
        Severity.FAIL,
        "10 indices of the source are in train and in validation",
    )


def test_a_group_in_two_splits_blocks() -> None:
    class Grouped(Blobs):
        shift = 1000

        def groups(self, split: str) -> Tensor | None:
            return torch.arange(300) // 10 + self.shift * ("train", "validation", "test").index(split)

    assert severity("group_overlap", Grouped()) is Severity.PASS
    Grouped.shift = 29
    assert severity("group_overlap", Grouped()) is Severity.FAIL


@pytest.mark.parametrize("noise", [0.001, 0.05])
@pytest.mark.parametrize("kind", [Blobs, Slope])
def test_jittered_copies_are_warned_of(kind: type[Task], noise: float) -> None:
    found = run("near_duplicates", from_training(kind, 0.2, noise))
    assert found.severity is Severity.WARN
    assert found.values["excess"] == pytest.approx(0.2, abs=0.05)


def test_copies_with_another_target_are_warned_of() -> None:
    def repeated(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([x, x[:10]]), torch.cat([y, (y[:10] + 1) % 3])

    found = run("duplicates", changed(Blobs, only("train", repeated)))
    assert found.severity is Severity.WARN
    assert found.values["conflicting"] == pytest.approx(20 / 310)


def test_fingerprints_tell_by_exact_content() -> None:
    rows = torch.tensor([[1.0, 2.0], [1.0, 2.0 + 2**-22], [1.0, 2.0], [0.0, -0.0], [0.0, 0.0]])
    prints = fingerprints(rows)
    assert prints[0] == prints[2]
    assert prints[3] == prints[4]
    assert len(set(prints.tolist())) == 3
    assert inner_twin_share(prints) == pytest.approx(0.8)
    assert conflicts(prints, fingerprints(torch.tensor([0, 1, 1, 2, 2]))).tolist() == [
        True,
        False,
        True,
        False,
        False,
    ]


def test_nearest_is_exact_and_leaves_the_example_itself_out() -> None:
    points = draw(1, 700, 5)
    all_distances = torch.cdist(points.double(), points.double()).fill_diagonal_(torch.inf)
    assert np.allclose(nearest(points, points, same=True), all_distances.min(dim=1).values)
    assert np.allclose(nearest(points[:3], points, same=False), 0)


def test_a_random_division_has_no_excess() -> None:
    worst = 1.0
    for seed in range(30):
        points = draw(seed, 300, 3)
        train, rest = points[:200], points[200:]
        worst = min(worst, excess(nearest(rest, train, same=False), nearest(train, train, same=True))[1])
    assert worst > 1e-4


def test_fisher_p_value() -> None:
    assert more_often(0, 10, 5, 100) == pytest.approx(1.0)
    assert more_often(2, 2, 0, 8) == pytest.approx(1 / 45)
