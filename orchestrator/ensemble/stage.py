"""The ensemble stage: combine the best trained checkpoints, and read the test split, once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.hyperparameters import from_flat
from orchestrator.ensemble.greedy import select_bagged
from orchestrator.ensemble.record import Ensemble, Member, digest_of, save_weights
from orchestrator.ensemble.winner import calibration
from orchestrator.errors import NoFeasibleTrialError
from orchestrator.progress import table
from orchestrator.seeds import derive_seed
from orchestrator.serving.combine import Form
from orchestrator.stages.sweep import Sweep
from orchestrator.study.records import TrialRecord, ranked
from orchestrator.tasks.loading import load_once
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.training.loop import pick_device, predict
from orchestrator.training.watch import class_dimension


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
    """``single`` and ``ensemble`` to scores on validation. The ensemble's are cross-fitted: each half is
    predicted by members that the other half chose; the single best was chosen on all of it."""
    test: Mapping[str, Mapping[str, float]]
    """``single`` and ``ensemble`` to scores on the test split."""
    growth: Sequence[Mapping[str, float]]
    """By number of members, the strongest first: trial added last, objective on ``validation`` (on which the
    members were chosen) and on ``test``."""
    calibration: Mapping[str, Sequence[tuple[int, float, float]]]
    """``single`` and ``ensemble`` (cross-fitted) to bins of confidence on validation; empty without classes."""


def run_ensemble(sweep: Sweep, stage: str) -> EnsembleResult:
    """Choose members on validation, compare with the single best there (cross-fitted) and on test.

    Raises:
        NoFeasibleTrialError: the sweep has no checkpoint.
    """
    settings = sweep.config.stages[stage]
    candidates = _candidates(sweep, settings.candidates)
    sweep.tracker.begin(stage_key(stage), SWEEP, stage, {}, {"kind": "stage", "stage": stage, "asks": settings.asks})
    sweep.progress.say(f"[{stage}] {settings.asks} greedy selection among the {len(candidates)} best checkpoints")
    validation, targets = _predict(sweep, candidates, "validation")
    seed = derive_seed(sweep.config.seed, "ensemble")

    def choose(chosen_by: Tensor) -> dict[int, float]:
        part = targets[chosen_by]
        return select_bagged(
            [predictions[chosen_by] for predictions in validation],
            lambda average: _cost(sweep, average, part),
            members=settings.members,
            seed=seed,
        )

    members = choose(torch.arange(len(targets)))
    crossed = _cross_fitted(validation, _halves(len(targets), seed), choose)
    # A repeat is lucky by selection: the single best is the sweep's.
    best = sweep.best
    first = next((index for index, record in enumerate(candidates) if record.repeats is None), 0)
    single = next((index for index, record in enumerate(candidates) if best and record.number == best.number), first)
    needed = sorted({single, *members})
    # Noted before it happens: a kill in between must not hide a reading.
    sweep.ledger.note_test_read()
    tested, test_targets = _predict(sweep, [candidates[index] for index in needed], "test")
    test = dict(zip(needed, tested, strict=True))
    result = EnsembleResult(
        weights={candidates[index].number: weight for index, weight in members.items()},
        candidates=len(candidates),
        single=candidates[single].number,
        validation={
            "single": sweep.task.score(validation[single], targets),
            "ensemble": sweep.task.score(crossed, targets),
        },
        test={
            "single": sweep.task.score(test[single], test_targets),
            "ensemble": sweep.task.score(_average(test, members), test_targets),
        },
        growth=_growth(sweep, candidates, members, [(validation, targets), (test, test_targets)]),
        calibration=_calibration({"single": validation[single], "ensemble": crossed}, targets),
    )
    _record(sweep, candidates, members, result, (validation[0], targets)).save(sweep.folder)
    return result


def _record(
    sweep: Sweep,
    candidates: Sequence[TrialRecord],
    members: Mapping[int, float],
    result: EnsembleResult,
    sample: tuple[Tensor, Tensor],
) -> Ensemble:
    """What is kept for those who predict; ``sample``: predictions of one candidate, and the targets."""
    found = []
    for index in sorted(members, key=lambda index: (-members[index], index)):
        record = candidates[index]
        state = sweep.checkpoints.load(record.number)["best"]["model"]
        name = f"trial-{record.number}"
        file = save_weights(sweep.folder, name, state)
        model = from_flat(record.configuration).model
        found.append(Member(name, record.number, members[index], model, file, digest_of(state)))
    axis = class_dimension(*sample)
    form: Form = "classes" if axis is not None else "labels" if sweep.task.multi_label else "values"
    single = f"trial-{result.single}"
    return Ensemble("bagged", tuple(found), None, form, axis or 1, single, objective=sweep.task.objective)


def _growth(
    sweep: Sweep,
    candidates: Sequence[TrialRecord],
    members: Mapping[int, float],
    splits: Sequence[tuple[Sequence[Tensor] | Mapping[int, Tensor], Tensor]],
) -> Sequence[Mapping[str, float]]:
    """The objective on each of ``splits`` (validation, test) as members are added, the greatest weight first."""
    strongest = sorted(members, key=lambda index: (-members[index], index))
    found = []
    for count in range(1, len(strongest) + 1):
        total = sum(members[index] for index in strongest[:count])
        shares = {index: members[index] / total for index in strongest[:count]}
        scores = [
            sweep.task.score(_average({index: predictions[index] for index in shares}, shares), targets)
            for predictions, targets in splits
        ]
        objective = sweep.task.objective
        found.append(
            {
                "trial": float(candidates[strongest[count - 1]].number),
                "validation": scores[0][objective],
                "test": scores[1][objective],
            }
        )
    return found


def _calibration(
    predictions: Mapping[str, Tensor], targets: Tensor
) -> Mapping[str, Sequence[tuple[int, float, float]]]:
    first = next(iter(predictions.values()))
    if targets.dim() != 1 or class_dimension(first, targets) is None:
        return {}
    return {who: calibration(values, targets) for who, values in predictions.items()}


def describe(sweep: Sweep, result: EnsembleResult) -> str:
    """The comparison as a table."""
    shares = ", ".join(f"trial {number}: {share:.0%}" for number, share in result.weights.items())
    rows = [["", *(f"{split} {name}" for split in ("validation", "test") for name in sweep.task.directions)]]
    for who in ("single", "ensemble"):
        label = f"best single (trial {result.single})" if who == "single" else f"ensemble of {len(result.weights)}"
        scores = [result.validation[who], result.test[who]]
        rows.append([label, *(f"{split[name]:.4g}" for split in scores for name in sweep.task.directions)])
    note = "validation: each half by members that the other half chose; test: read now"
    return f"{table(rows)}\n  members: {shares}\n  ({note})"


def _candidates(sweep: Sweep, count: int) -> list[TrialRecord]:
    trained = [r for r in ranked(sweep.study.records, sweep.direction) if sweep.checkpoints.has(r.number)]
    if not trained:
        raise NoFeasibleTrialError("ensemble: the sweep has no trained checkpoint; run a search stage first")
    return trained[:count]


def _cross_fitted(
    predictions: Sequence[Tensor], halves: tuple[Tensor, Tensor], choose: Callable[[Tensor], dict[int, float]]
) -> Tensor:
    """Predictions of every example by an ensemble that was chosen without it."""
    result = torch.empty_like(predictions[0])
    for half, other in (halves, halves[::-1]):
        members = choose(other)
        result[half] = _average({index: predictions[index][half] for index in members}, members)
    return result


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
        model.load_state_dict(sweep.checkpoints.load(record.number)["best"]["model"])
        predictions, targets = predict(task, model, getattr(splits, split), sweep.config.trainer)
        found.append(predictions)
    return found, targets


def _cost(sweep: Sweep, predictions: Tensor, targets: Tensor) -> float:
    return sweep.direction.cost(sweep.task.score(predictions, targets)[sweep.task.objective])


def _average(predictions: Mapping[int, Tensor], weights: Mapping[int, float]) -> Tensor:
    return torch.stack([predictions[index] * weight for index, weight in weights.items()]).sum(dim=0)
