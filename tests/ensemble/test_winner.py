"""What is kept of the winner's predictions."""

import torch

from orchestrator.ensemble.winner import calibration


def test_calibration_counts_confidence_and_right_answers_per_bin() -> None:
    probabilities = torch.tensor([[0.95, 0.05], [0.05, 0.95], [0.4, 0.6], [0.65, 0.35], [1.0, 0.0]])
    found = calibration(probabilities, torch.tensor([0, 0, 1, 1, 0]))
    assert [(count, round(right, 3)) for count, _, right in found] == [(2, 0.5), (3, 0.667)]
    assert [round(sure, 3) for _, sure, _ in found] == [0.625, 0.967]
