"""The ensemble as a file: what is written is read, and predicts the same."""

from pathlib import Path

import pytest
import torch

from orchestrator.ensemble.record import (
    ENSEMBLE_FILE,
    Ensemble,
    Member,
    load_ensemble,
    save_weights,
)
from orchestrator.errors import NoFeasibleTrialError, StorageError
from orchestrator.serving.combine import with_temperature
from orchestrator.tasks.digits import DigitsMLP


def ensemble(folder: Path) -> Ensemble:
    members = []
    for trial, share in ((3, 0.75), (7, 0.25)):
        torch.manual_seed(trial)
        model = {"width": 4 + trial, "depth": 1}
        file = save_weights(folder, f"trial-{trial}", DigitsMLP().model(**model).state_dict())
        members.append(Member(f"trial-{trial}", trial, share, model, file, "abc"))
    return Ensemble("greedy", tuple(members), 0.8, "classes", single="trial-3", uniform=("trial-3", "trial-7"))


def test_what_is_saved_is_loaded_and_its_networks_are_built(tmp_path: Path) -> None:
    made = ensemble(tmp_path)
    made.save(tmp_path)
    found = load_ensemble(tmp_path)
    assert found == made
    assert found.weights == {"trial-3": 0.75, "trial-7": 0.25}
    task = DigitsMLP()
    inputs = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        each = [task.predictions(member.network(task, tmp_path)(inputs)) for member in found.members]
    average = 0.75 * each[0] + 0.25 * each[1]
    sharper = average ** (1 / 0.8)
    assert torch.allclose(found.combine(each), sharper / sharper.sum(dim=1, keepdim=True))


def test_a_temperature_leaves_probabilities_probabilities_and_values_alone() -> None:
    classes = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0]], dtype=torch.float64)
    softer = with_temperature(classes, 2.0, "classes")
    assert torch.allclose(softer.sum(dim=1), torch.ones(2, dtype=torch.float64))
    assert softer[0, 0] < 0.7
    assert torch.isfinite(softer).all()
    labels = torch.tensor([[0.5, 0.9, 1.0]], dtype=torch.float64)
    assert torch.allclose(with_temperature(labels, 2.0, "labels")[0, :2], torch.tensor([0.5, 0.75]).double())
    assert torch.equal(with_temperature(classes, 2.0, "values"), classes)
    assert torch.equal(with_temperature(classes, None, "classes"), classes)


def test_no_ensemble_and_a_damaged_one_are_said_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(NoFeasibleTrialError, match="run stage=ensemble first"):
        load_ensemble(tmp_path)
    made = ensemble(tmp_path)
    made.save(tmp_path)
    (tmp_path / made.members[0].file).write_bytes(b"no weights")
    with pytest.raises(StorageError, match=r"trial-3\.pt: cannot be read"):
        load_ensemble(tmp_path).members[0].state(tmp_path)
    (tmp_path / ENSEMBLE_FILE).write_text('{"kind": "greedy"}')
    with pytest.raises(StorageError, match=r"ensemble\.json: is damaged"):
        load_ensemble(tmp_path)
