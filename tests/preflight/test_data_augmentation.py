"""Augmentation that breaks form or label is told from one that merely makes examples hard."""

from collections.abc import Callable

import pytest
import torch
from preflight_tasks import Blobs, run
from torch import Tensor

from orchestrator.config.hyperparameters import DataConfig, Hyperparameters
from orchestrator.preflight.report import Finding, Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task
from orchestrator.tasks.digits import DigitsMLP

Change = Callable[[Tensor], Tensor]


def found(name: str, task: Task, strength: float = 0.5) -> Finding:
    return run(name, Subject(task, Hyperparameters(data=DataConfig(augmentation=strength))))


def augmented(change: Change) -> Task:
    """Digits of which a share ``strength`` is changed."""

    class Changed(DigitsMLP):
        def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
            chosen = torch.rand(len(inputs)) < strength
            return torch.where(chosen[:, None, None, None], change(inputs), inputs), targets

    return Changed()


def cut_out(images: Tensor) -> Tensor:
    images = images.clone()
    images[:, :, 1:5, 2:6] = images.mean()
    return images


HARMLESS: dict[str, Change] = {
    "noise": lambda x: x + 0.5 * torch.randn_like(x),
    "contrast": lambda x: x * (0.5 + torch.rand(len(x), 1, 1, 1)),
    "shift": lambda x: x.roll(int(torch.randint(-1, 2, (1,))), 2),
    "cut out": cut_out,
}


@pytest.mark.parametrize("strength", [0.3, 1.0])
@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_changes_that_keep_the_label_pass(change: Change, strength: float) -> None:
    assert found("augmented_labels", augmented(change), strength).severity is Severity.PASS


def test_a_6_on_its_head_is_a_9() -> None:
    verdict = found("augmented_labels", augmented(lambda x: x.flip(2, 3)))
    assert verdict.severity is Severity.WARN
    assert "class 6 are surely taken for class 9" in verdict.statistic


def test_shuffled_inputs_with_their_old_targets_block() -> None:
    assert found("augmented_labels", augmented(lambda x: x[torch.randperm(len(x))])).severity is Severity.FAIL


def in_place(images: Tensor) -> Tensor:
    return images.add_(1.0)


@pytest.mark.parametrize(
    ("change", "severity"),
    [
        (lambda x: x.roll(1, 2), Severity.PASS),
        (lambda x: x, Severity.WARN),
        (in_place, Severity.FAIL),
        (lambda x: (x - x.mean()) / (x.amax((1, 2, 3), keepdim=True) - x.amax()), Severity.FAIL),
        (lambda x: x.double(), Severity.FAIL),
    ],
    ids=["fine", "nothing", "in place", "not finite", "type"],
)
def test_form_is_kept(change: Change, severity: Severity) -> None:
    class Changed(DigitsMLP):
        def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
            return change(inputs), targets

    assert found("augmentation", Changed()).severity is severity


def test_no_augmentation_or_none_asked_for_is_skipped() -> None:
    for name in ("augmentation", "augmented_labels"):
        assert found(name, Blobs()).severity is Severity.SKIPPED
        assert found(name, DigitsMLP(), strength=0.0).severity is Severity.SKIPPED


def test_mixed_targets_are_not_judged() -> None:
    class Mixing(DigitsMLP):
        def augment(self, inputs: Tensor, targets: Tensor, strength: float) -> tuple[Tensor, Tensor]:
            other = torch.randperm(len(inputs))
            return inputs[other], targets[other]

    assert found("augmented_labels", Mixing()).severity is Severity.SKIPPED
