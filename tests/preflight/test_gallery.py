"""Pictures are written, and show what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_faults import EasyBlobs, Slope
from matplotlib import image
from preflight_tasks import HEALTHY, Counting, run, with_outputs
from torch import Tensor, nn

from orchestrator.config.hyperparameters import DataConfig, Hyperparameters
from orchestrator.preflight.gallery import decoded, entered
from orchestrator.preflight.gallery_draw import is_picture, mosaic
from orchestrator.preflight.gallery_network import layers, learn
from orchestrator.preflight.report import Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task
from orchestrator.tasks.digits import DigitsCNN, DigitsMLP

PICTURES = {
    "gallery_inputs": "gallery.png",
    "gallery_distributions": "distributions.png",
    "gallery_layers": "layers.png",
    "gallery_overfit": "overfit.png",
}


@pytest.mark.parametrize("kind", [*HEALTHY, Slope, DigitsCNN])
def test_every_kind_of_task_gets_its_pictures(kind: type[Task], tmp_path: Path) -> None:
    subject = Subject(kind(), folder=tmp_path)
    for name, file in PICTURES.items():
        found = run(name, subject)
        assert found.severity is Severity.PASS, found.statistic
        pixels = image.imread(tmp_path / file)
        assert pixels.shape[0] > 100
        assert 0.02 < (pixels[..., :3].min(axis=2) < 0.95).mean() < 0.98
    assert [path.name for path in subject.pictures] == list(PICTURES.values())


def test_without_a_folder_nothing_is_drawn() -> None:
    for name in PICTURES:
        assert run(name, DigitsMLP()).severity is Severity.SKIPPED


def test_the_gallery_shows_what_reaches_the_model_augmentation_included() -> None:
    class Marked(DigitsMLP):
        def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
            return torch.full_like(inputs, 7.0), targets

    plain = entered(Subject(Marked()), 100)
    marked = entered(Subject(Marked(), Hyperparameters(data=DataConfig(augmentation=0.5))), 100)
    assert plain.inputs.max() < 3
    assert (marked.inputs == 7).all()
    assert len(marked.inputs) == len(marked.targets) == 100


def test_decoding_is_the_task_s() -> None:
    class Words(Counting):
        def decode(self, inputs: Tensor) -> list[str]:
            return ["".join("abcdefghijkl"[token] for token in row) for row in inputs.tolist()]

    tokens = torch.tensor([[0, 1, 2]])
    assert decoded(Subject(Words()), tokens) == ["abc"]
    assert decoded(Subject(Counting()), tokens) == ["0 1 2"]


def test_layers_report_what_a_forward_pass_shows() -> None:
    model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 1))
    with torch.no_grad():
        model[0].bias.fill_(-100.0)
    inputs = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    found = layers(model, lambda net: net(inputs).sum())
    assert [layer.name for layer in found] == ["0 (Linear)", "1 (ReLU)", "2 (Linear)"]
    assert found[0].mean == pytest.approx(-100, abs=1)
    assert (found[1].zeros, found[1].std) == (1.0, 0.0)
    assert found[0].gradient == 0.0
    assert np.isnan(found[1].gradient)


def test_the_learnt_batch_ends_right_or_shows_that_it_does_not() -> None:
    right = learn(Subject(EasyBlobs()), 16, 150)
    assert right.losses[-1] < 0.05 * right.losses[0]
    assert bool((right.after.argmax(1) == right.targets).all())
    stuck = learn(Subject(with_outputs(EasyBlobs, lambda outputs: outputs * 0)), 16, 20)
    assert stuck.losses[-1] == pytest.approx(np.log(3))


def test_the_mosaic_puts_pictures_in_their_places() -> None:
    one, two = np.zeros((1, 8, 8)), np.ones((1, 8, 8))
    canvas, height, width = mosaic([[one, two], [two]])
    assert canvas.shape == (2 * height, 2 * width)
    assert (canvas[height - 8 : height, :8] == 0).all()
    assert (canvas[height - 8 : height, width : width + 8] == 1).all()


@pytest.mark.parametrize(
    ("shape", "expected"), [((8, 8), True), ((3, 9, 7), True), ((9, 7, 3), True), ((5,), False), ((24, 1), False)]
)
def test_what_counts_as_a_picture(shape: tuple[int, ...], expected: bool) -> None:
    assert is_picture(np.zeros(shape)) is expected
