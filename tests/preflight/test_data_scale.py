"""Scales at the first layer, gaps between the splits, scaling by the wrong statistics."""

import pytest
import torch
from data_faults import Categories, EasyBlobs, Slope, changed, only
from preflight_tasks import HEALTHY, Blobs, Counting, draw, severity
from torch import Tensor, nn

from orchestrator.preflight.data_moments import gap, is_exactly_standard
from orchestrator.preflight.data_table import columns, rows
from orchestrator.preflight.report import Severity
from orchestrator.tasks.base import Task

CHECKS = (
    "input_scale",
    "constant_features",
    "outside_range",
    "split_gap",
    "own_scaling",
    "target_scale",
    "target_gap",
)


@pytest.mark.parametrize("name", CHECKS)
@pytest.mark.parametrize("kind", [*HEALTHY, Slope, EasyBlobs, Categories])
def test_healthy_tasks_pass_or_are_skipped(kind: type[Task], name: str) -> None:
    assert severity(name, kind()) in (Severity.PASS, Severity.SKIPPED)


@pytest.mark.parametrize(
    "change",
    [lambda x: 80 * x + 128, lambda x: x + 20, lambda x: 1e-3 * x, lambda x: x.index_fill(1, torch.tensor([3]), 5e4)],
    ids=["pixels", "offset", "tiny", "one raw column"],
)
def test_unscaled_inputs_are_warned_of(change: object) -> None:
    assert severity("input_scale", changed(Blobs, lambda n, x, y: (change(x), y))) is Severity.WARN  # type: ignore[operator]


def test_a_norm_layer_or_scaling_inside_the_network_is_exempt() -> None:
    class First(nn.Module):
        def forward(self, inputs: Tensor) -> Tensor:
            return (inputs - 128) / 80

    class Scaled(Blobs):
        first: nn.Module = First()

        def model(self, width: int = 16, dropout: float = 0.0) -> nn.Module:  # type: ignore[override]
            return nn.Sequential(self.first, super().model(width, dropout))

    pixels = lambda n, x, y: (80 * x + 128, y)  # noqa: E731
    assert severity("input_scale", changed(Scaled, pixels)) is Severity.PASS
    for layer in (nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False), nn.LayerNorm(8)):
        assert severity("input_scale", changed(Scaled, pixels, first=layer)) is Severity.PASS
    assert severity("input_scale", changed(Scaled, pixels, first=nn.Identity())) is Severity.WARN


def test_tokens_have_no_scale() -> None:
    assert severity("input_scale", Counting()) is Severity.SKIPPED


def test_constant_inputs_block() -> None:
    assert severity("constant_features", changed(Blobs, lambda n, x, y: (x * 0 + 2, y))) is Severity.FAIL


def test_a_column_divided_by_its_tiny_deviation_is_found() -> None:
    def noise_made_signal(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone()
        x[:, 2] = 0.0 if name == "train" else 1e6
        return x, y

    task = changed(Blobs, noise_made_signal)
    assert severity("constant_features", task) is Severity.WARN
    assert severity("outside_range", task) is Severity.FAIL


def test_a_single_value_far_outside_warns_and_a_heavy_tail_does_not() -> None:
    def one(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.clone()
        x[0, 0] = -100.0
        return x, y

    assert severity("outside_range", changed(Blobs, only("validation", one))) is Severity.WARN
    for seed in range(10):
        tails = changed(Blobs, lambda n, x, y, seed=seed: (draw(seed + len(n), 300, 8) ** 3, y))
        assert severity("outside_range", tails) is Severity.PASS


def test_validation_that_was_not_scaled_blocks_and_a_shift_warns() -> None:
    assert severity("split_gap", changed(Blobs, only("validation", lambda x, y: (6 * x + 30, y)))) is Severity.FAIL
    assert severity("split_gap", changed(Blobs, only("validation", lambda x, y: (x / 4, y)))) is Severity.FAIL
    assert severity("split_gap", changed(Blobs, only("validation", lambda x, y: (x + 0.8, y)))) is Severity.WARN


def test_a_random_division_has_no_gap_whatever_the_distribution() -> None:
    shapes = (lambda x: x, torch.exp, lambda x: x**3, lambda x: (x > 2).float() * 5)
    for seed in range(20):
        for shape in shapes:
            values = shape(draw(seed, 200, 20))
            found = gap(columns(rows(values[:120])), columns(rows(values[120:])))
            assert max(found.shifted, found.rescaled) <= 0.05


def own(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x - x.mean(0)) / x.std(0), y


def own_range(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return (x - x.min(0).values) / (x.max(0).values - x.min(0).values), y


@pytest.mark.parametrize("scale", [own, own_range])
def test_validation_scaled_by_itself_blocks(scale: object) -> None:
    raw = lambda n, x, y: scale(100 * x + 1000, y)  # type: ignore[operator]  # noqa: E731
    assert severity("own_scaling", changed(Blobs, raw)) is Severity.FAIL


def test_images_scaled_by_the_mean_of_all_pixels_or_channels() -> None:
    images = 40 * draw(0, 50, 3, 6, 6) + 100
    whole = (images - images.mean()) / images.std()
    channels = (images - images.mean((0, 2, 3), keepdim=True)) / images.std((0, 2, 3), keepdim=True)
    alone = (images - images.mean((1, 2, 3), keepdim=True)) / images.std((1, 2, 3), keepdim=True)
    assert is_exactly_standard(whole)
    assert is_exactly_standard(channels)
    assert not is_exactly_standard(alone)
    assert not is_exactly_standard(images)
    assert not any(is_exactly_standard(draw(seed, 500, 1)) for seed in range(50))
    assert not is_exactly_standard(torch.tensor([[-1.0], [1.0]]).repeat(50, 1))


def test_all_splits_scaled_together_warn() -> None:
    total = torch.cat([draw(seed, 300, 8) for seed in (1, 2, 3)])
    mean, std = total.mean(0), total.std(0)
    assert severity("own_scaling", changed(Blobs, lambda n, x, y: ((x - mean) / std, y))) is Severity.WARN


def test_raw_targets_are_warned_of_unless_the_network_answers_in_their_unit() -> None:
    assert severity("target_scale", changed(Slope, lambda n, x, y: (x, 300 * y + 5000))) is Severity.WARN
    assert severity("target_scale", changed(Slope, lambda n, x, y: (x, 1e-4 * y))) is Severity.WARN

    class Unit(nn.Module):
        def forward(self, outputs: Tensor) -> Tensor:
            return 300 * outputs + 5000

    class Answers(Slope):
        def model(self, width: int = 16) -> nn.Module:  # type: ignore[override]
            return nn.Sequential(super().model(width), Unit())

    assert severity("target_scale", changed(Answers, lambda n, x, y: (x, 300 * y + 5000))) is Severity.PASS


def test_targets_scaled_in_training_only_block() -> None:
    raw = changed(Slope, only("validation", lambda x, y: (x, 77 * y + 152)))
    assert severity("target_gap", raw) is Severity.FAIL
