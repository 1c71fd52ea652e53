"""Calibration: bins, the expected error, and a temperature that begins at what is usual."""

import pytest
import torch

from orchestrator.ensemble.calibrate import AVERAGED, Probabilities, expected_error, temperature


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
def test_many_examples_mend_what_is_too_sure(form: str) -> None:
    predictions, targets = drawn(3.0, 5000, form == "labels")
    how = Probabilities(targets, form)
    found = temperature(how, predictions, list(torch.arange(5000).split(1000)), 1.0)
    assert 2.3 < found.value < 3.1
    assert found.kept
    assert found.gain > 2 * found.error
    assert found.ece[1] < found.ece[0] / 2


def test_few_examples_leave_it_near_what_is_usual() -> None:
    """A free fit to 60 examples would be anywhere; the usual value is better than that."""
    predictions, targets = drawn(1.0, 60, labels=False)
    parts = list(torch.arange(60).split(12))
    for usual in (AVERAGED, 1.0):
        found = temperature(Probabilities(targets, "classes"), predictions, parts, usual)
        assert found.value == pytest.approx(usual, rel=0.15)
    many, known = drawn(1.0, 20_000, labels=False)
    assert Probabilities(known, "classes").fit(many, AVERAGED) == pytest.approx(1.0, rel=0.05), "many decide"


def test_a_single_network_that_is_calibrated_is_left_alone() -> None:
    predictions, targets = drawn(1.0, 500, labels=False)
    found = temperature(Probabilities(targets, "classes"), predictions, list(torch.arange(500).split(100)), 1.0)
    assert found.value == pytest.approx(1.0, rel=0.12)


def test_predictions_that_are_all_right_do_not_become_certain() -> None:
    """What once went wrong: no error on validation, temperature 0.05, and one error on test cost more than all."""
    targets = torch.arange(360) % 10
    generator = torch.Generator().manual_seed(0)
    logits = 6.0 * torch.nn.functional.one_hot(targets, 10) + torch.randn(360, 10, generator=generator)
    predictions = logits.double().softmax(dim=1)
    found = temperature(Probabilities(targets, "classes"), predictions, list(torch.arange(360).split(72)), AVERAGED)
    assert 0.6 < found.value < 1.0
    wrong = Probabilities((targets + 1) % 10, "classes")
    assert float(wrong.losses(predictions, found.value).mean()) < 2 * float(wrong.losses(predictions).mean())


def test_a_temperature_that_costs_is_dropped() -> None:
    """All right and very sure: the doubt asks to be less so, and that costs on every example."""
    targets = torch.arange(360) % 2
    predictions = torch.where(targets[:, None] == torch.arange(2), 1 - 1e-5, 1e-5).double()
    parts = list(torch.arange(360).split(72))
    found = temperature(Probabilities(targets, "classes"), predictions, parts, AVERAGED)
    assert found.value > 1
    assert found.gain < -2 * found.error
    assert not found.kept


def test_classes_may_lie_in_the_second_of_several_dimensions() -> None:
    """Segmentation: (examples, classes, places), as PyTorch has it."""
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(6, 3, 5, generator=generator, dtype=torch.float64).softmax(dim=1)
    targets = torch.randint(0, 3, (6, 5), generator=generator)
    losses = Probabilities(targets, "classes", 1).losses(predictions)
    by_hand = [-sum(float(predictions[n, targets[n, p], p].log()) for p in range(5)) / 5 for n in range(6)]
    assert losses.tolist() == pytest.approx(by_hand)
