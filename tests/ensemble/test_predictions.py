"""The store of predictions: kept across processes and kills, never mixed up with other data."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from orchestrator.ensemble.predictions import PredictionStore
from orchestrator.errors import StorageError, UserCodeError

DATA = TensorDataset(torch.arange(10.0).reshape(5, 2), torch.tensor([0, 1, 2, 0, 1]))


def batches(seed: int, examples: int = 5, classes: int = 3) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Predictions in batches of two, with the targets of DATA."""
    values = torch.rand(examples, classes, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    targets = torch.tensor([0, 1, 2, 0, 1])[:examples]
    return list(zip(values.split(2), targets.split(2), strict=True))


def whole(seed: int) -> torch.Tensor:
    return torch.cat([values for values, _ in batches(seed)])


def test_what_is_stored_is_there_in_the_next_process_too(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, "validation", DATA)
    for seed in range(3):
        assert not store.has(f"trial-{seed}", "a")
        store.add(f"trial-{seed}", "a", batches(seed))
    again = PredictionStore(tmp_path, "validation", DATA)
    assert len(again) == 3
    assert again.has("trial-1", "a")
    assert not again.has("trial-1", "other weights")
    assert torch.allclose(again.get("trial-1", "a"), whole(1), atol=1e-7)
    assert torch.equal(again.targets(), torch.tensor([0, 1, 2, 0, 1]))
    assert (tmp_path / "predictions" / "validation.f32").stat().st_size == 3 * 5 * 3 * 4
    found = {which.start: block for which, block in again.blocks([("trial-2", "a"), ("trial-0", "a")])}
    assert np.allclose(np.concatenate(list(found.values())), np.stack([whole(2), whole(0)]), atol=1e-7)


def test_a_kill_between_row_and_line_loses_that_row_only(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, "validation", DATA)
    store.add("trial-0", "a", batches(0))
    store.add("trial-1", "a", batches(1))
    index = tmp_path / "predictions" / "validation.jsonl"
    content = index.read_text()
    index.write_text(content[: content.rindex('{"name": "trial-1"') + 12])
    again = PredictionStore(tmp_path, "validation", DATA)
    assert not again.has("trial-1", "a")
    again.add("trial-2", "a", batches(2))
    last = PredictionStore(tmp_path, "validation", DATA)
    assert torch.allclose(last.get("trial-0", "a"), whole(0), atol=1e-7)
    assert torch.allclose(last.get("trial-2", "a"), whole(2), atol=1e-7)


def test_batches_that_end_in_an_error_leave_nothing_known(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, "validation", DATA)
    store.add("trial-0", "a", batches(0))

    def broken():
        yield batches(1)[0]
        raise RuntimeError("the network fails")

    with pytest.raises(RuntimeError, match="fails"):
        store.add("trial-1", "a", broken())
    store.add("trial-2", "a", batches(2))
    assert torch.allclose(PredictionStore(tmp_path, "validation", DATA).get("trial-2", "a"), whole(2), atol=1e-7)


def test_predictions_of_other_data_are_forgotten(tmp_path: Path) -> None:
    PredictionStore(tmp_path, "validation", DATA).add("trial-0", "a", batches(0))
    other = TensorDataset(DATA.tensors[0] + 1, DATA.tensors[1])
    store = PredictionStore(tmp_path, "validation", other)
    assert not store.has("trial-0", "a")
    store.add("trial-0", "a", batches(4))
    assert torch.allclose(PredictionStore(tmp_path, "validation", other).get("trial-0", "a"), whole(4), atol=1e-7)


def test_candidates_that_predict_other_shapes_are_refused_in_a_line(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, "validation", DATA)
    store.add("trial-0", "a", batches(0))
    for wrong in (batches(1, classes=2), batches(1, examples=3)):
        with pytest.raises(UserCodeError, match=r"trial-1: predicts .* where other candidates predict \(5, 3\)"):
            store.add("trial-1", "a", wrong)
    assert torch.allclose(store.get("trial-0", "a"), whole(0), atol=1e-7)


def test_lost_rows_and_a_damaged_index_are_named(tmp_path: Path) -> None:
    store = PredictionStore(tmp_path, "validation", DATA)
    store.add("trial-0", "a", batches(0))
    rows, index = store.path, store.path.with_suffix(".jsonl")
    content = rows.read_bytes()
    rows.write_bytes(content[:-1])
    with pytest.raises(StorageError, match=r"validation\.f32: rows are missing; remove the folder"):
        PredictionStore(tmp_path, "validation", DATA)
    rows.write_bytes(content)
    index.write_text(json.dumps({"data": "?"}) + "\n" + "no json\n")
    with pytest.raises(StorageError, match=r"validation\.jsonl: is damaged"):
        PredictionStore(tmp_path, "validation", DATA)
