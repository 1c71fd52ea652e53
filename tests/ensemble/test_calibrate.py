"""Calibration: bins, the expected error, and a temperature that is kept only where it helps."""

import pytest
import torch

from orchestrator.ensemble.calibrate import Probabilities, expected_error, temperature


def test_bins_count_confidence_and_right_answers() -> None:
    probabilities = torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.4, 0.6], [0.65, 0.35], [1.0, 0.0]])
    found = Probabilities(torch.tensor([0, 0, 1, 1, 0]), "classes").bins(probabilities)
    assert [(count, round(right, 3)) for count, _, right in found] == [(2, 0.5), (3, 0.667)]
    assert [round(sure, 3) for _, sure, _ in found] == [0.625, 0.967]
    # 2/5 of |0.625 - 0.5| and 3/5 of |0.9667 - 0.6667|.
    assert expected_error(found) == pytest.approx(0.05 + 0.18)


def drawn(scale: float, examples: int, labels: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of which the targets are drawn, times ``scale``, as probabilities."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(examples, 4, generator=generator, dtype=torch.float64)
    if labels:
        targets = torch.bernoulli(logits.sigmoid(), generator=generator).long()
        return (logits * scale).sigmoid(), targets
    targets = torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten()
    return (logits * scale).softmax(dim=1), targets


@pytest.mark.parametrize("form", ["classes", "labels"])
def test_a_temperature_mends_what_is_too_sure(form: str) -> None:
    predictions, targets = drawn(3.0, 2000, form == "labels")
    how = Probabilities(targets, form)
    found = temperature(how, predictions, list(torch.arange(2000).split(400)))
    assert found.value == pytest.approx(3.0, rel=0.1)
    assert found.helps
    assert found.ece[1] < found.ece[0] / 3
    assert found.gain == pytest.approx(
        float((how.losses(predictions) - how.losses(predictions, 3.0)).mean()), rel=0.1
    )


def test_predictions_that_are_all_right_do_not_become_certain() -> None:
    """What once went wrong: no error on validation, temperature 0.05, and one error on test cost more than all."""
    targets = torch.arange(360) % 10
    generator = torch.Generator().manual_seed(0)
    logits = 6.0 * torch.nn.functional.one_hot(targets, 10) + torch.randn(360, 10, generator=generator)
    predictions = logits.double().softmax(dim=1)
    found = temperature(Probabilities(targets, "classes"), predictions, list(torch.arange(360).split(72)))
    assert 0.4 < found.value < 1.5
    wrong = Probabilities((targets + 1) % 10, "classes")
    assert float(wrong.losses(predictions, found.value).mean()) < 3 * float(wrong.losses(predictions).mean())


def test_a_temperature_that_only_the_doubt_asks_for_is_not_used() -> None:
    """All right and very sure: to be less so costs, whatever the fit doubts."""
    targets = torch.arange(360) % 2
    predictions = torch.where(targets[:, None] == torch.arange(2), 1 - 1e-5, 1e-5).double()
    found = temperature(Probabilities(targets, "classes"), predictions, list(torch.arange(360).split(72)))
    assert found.value > 1.3
    assert found.gain < 0 < found.doubted[0]
    assert not found.helps


@pytest.mark.parametrize("form", ["classes", "labels"])
def test_what_is_calibrated_is_left_alone(form: str) -> None:
    predictions, targets = drawn(1.0, 500, form == "labels")
    found = temperature(Probabilities(targets, form), predictions, list(torch.arange(500).split(100)))
    assert not found.helps
    assert found.value == pytest.approx(1.0, rel=0.15)


def test_classes_may_lie_in_the_second_of_several_dimensions() -> None:
    """Segmentation: (examples, classes, places), as PyTorch has it."""
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(6, 3, 5, generator=generator, dtype=torch.float64).softmax(dim=1)
    targets = torch.randint(0, 3, (6, 5), generator=generator)
    losses = Probabilities(targets, "classes", 1).losses(predictions)
    by_hand = [-sum(float(predictions[n, targets[n, p], p].log()) for p in range(5)) / 5 for n in range(6)]
    assert losses.tolist() == pytest.approx(by_hand)
