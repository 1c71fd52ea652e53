"""The ensemble stage: combine the best trained checkpoints, and read the test split, once."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.hyperparameters import from_flat
from orchestrator.ensemble.greedy import select
from orchestrator.errors import NoFeasibleTrialError
from orchestrator.files import write_json
from orchestrator.progress import table
from orchestrator.seeds import derive_seed
from orchestrator.stages.sweep import Sweep
from orchestrator.study.records import TrialRecord, ranked
from orchestrator.tasks.loading import load_once
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.training import checkpoint
from orchestrator.training.loop import pick_device, predict

ENSEMBLE_FILE = "ensemble.json"


@dataclass(frozen=True)
class EnsembleResult:
    """Single best and ensemble side by side."""

    weights: Mapping[int, float]
    """Trial number to its share of the average."""
    candidates: int
    """Checkpoints considered."""
    single: int
    """The best single trial."""
    validation: Mapping[str, Mapping[str, float]]
    """``single`` and ``ensemble`` to scores on the half of validation that chose no members."""
    test: Mapping[str, Mapping[str, float]]
    """``single`` and ``ensemble`` to scores on the test split."""


def run_ensemble(sweep: Sweep, stage: str) -> EnsembleResult:
    """Choose members on one half of validation, compare on the other half and on test.

    Raises:
        NoFeasibleTrialError: the sweep has no checkpoint.
    """
    settings = sweep.config.stages[stage]
    candidates = _candidates(sweep, settings.candidates)
    sweep.tracker.begin(stage_key(stage), SWEEP, stage, {}, {"kind": "stage", "stage": stage, "asks": settings.asks})
    sweep.progress.say(f"[{stage}] {settings.asks} greedy selection among the {len(candidates)} best checkpoints")
    validation, targets = _predict(sweep, candidates, "validation")
    choosing, checking = _halves(len(targets), derive_seed(sweep.config.seed, "ensemble"))
    chosen = select(
        [predictions[choosing] for predictions in validation],
        lambda average: _cost(sweep, average, targets[choosing]),
        members=settings.members,
    )
    counts = Counter(chosen)
    weights = {candidates[index].number: count / len(chosen) for index, count in sorted(counts.items())}
    members = {index: count / len(chosen) for index, count in counts.items()}
    needed = sorted({0, *members})
    # Noted before it happens: a kill in between must not hide a reading.
    sweep.ledger.note_test_read()
    tested, test_targets = _predict(sweep, [candidates[index] for index in needed], "test")
    test = dict(zip(needed, tested, strict=True))
    result = EnsembleResult(
        weights=weights,
        candidates=len(candidates),
        single=candidates[0].number,
        validation={
            "single": sweep.task.score(validation[0][checking], targets[checking]),
            "ensemble": sweep.task.score(
                _average({i: validation[i][checking] for i in members}, members), targets[checking]
            ),
        },
        test={
            "single": sweep.task.score(test[0], test_targets),
            "ensemble": sweep.task.score(_average(test, members), test_targets),
        },
    )
    write_json(
        sweep.folder / ENSEMBLE_FILE,
        {"weights": weights, "validation": result.validation, "test": result.test, "single": result.single},
    )
    return result


def describe(sweep: Sweep, result: EnsembleResult) -> str:
    """The comparison as a table."""
    shares = ", ".join(f"trial {number}: {share:.0%}" for number, share in result.weights.items())
    rows = [["", *(f"{split} {name}" for split in ("validation", "test") for name in sweep.task.directions)]]
    for who in ("single", "ensemble"):
        label = f"best single (trial {result.single})" if who == "single" else f"ensemble of {len(result.weights)}"
        scores = [result.validation[who], result.test[who]]
        rows.append([label, *(f"{split[name]:.4g}" for split in scores for name in sweep.task.directions)])
    return f"{table(rows)}\n  members: {shares}\n  (validation: the half that chose no members; test: read now, once)"


def _candidates(sweep: Sweep, count: int) -> list[TrialRecord]:
    trained = [r for r in ranked(sweep.study.records, sweep.direction) if sweep.checkpoints.has(r.number)]
    if not trained:
        raise NoFeasibleTrialError("ensemble: the sweep has no trained checkpoint; run a search stage first")
    return trained[:count]


def _halves(examples: int, seed: int) -> tuple[Tensor, Tensor]:
    order = torch.as_tensor(np.random.default_rng(seed).permutation(examples))
    return order[: examples // 2], order[examples // 2 :]


def _predict(sweep: Sweep, records: list[TrialRecord], split: str) -> tuple[list[Tensor], Tensor]:
    """Predictions of the best weights of each trial on a split, and the split's targets."""
    task, splits = load_once(sweep.config.task)
    torch.set_num_threads(sweep.config.runner.cpus_per_trial)
    device = pick_device(sweep.config.trainer)
    found = []
    targets = torch.empty(0)
    for record in records:
        model = task.model(**from_flat(record.configuration).model).to(device)
        model.load_state_dict(checkpoint.load(sweep.checkpoints.folder(record.number))["best"]["model"])
        predictions, targets = predict(task, model, getattr(splits, split), sweep.config.trainer)
        found.append(predictions)
    return found, targets


def _cost(sweep: Sweep, predictions: Tensor, targets: Tensor) -> float:
    return sweep.direction.cost(sweep.task.score(predictions, targets)[sweep.task.objective])


def _average(predictions: Mapping[int, Tensor], weights: Mapping[int, float]) -> Tensor:
    return torch.stack([predictions[index] * weight for index, weight in weights.items()]).sum(dim=0)
