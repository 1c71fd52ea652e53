"""The ensemble stage: combine the trained networks, judge it honestly, and read the test split, once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from orchestrator.ensemble.calibrate import AVERAGED, Probabilities, Temperature, expected_error, temperature
from orchestrator.ensemble.candidates import Candidate, Predictor, averaged, trained
from orchestrator.ensemble.crossfit import KINDS, Crossed, Way, cross, decide, gap
from orchestrator.ensemble.greedy import Library, Shares
from orchestrator.ensemble.judge import Judge, make_judge, make_library
from orchestrator.ensemble.record import Ensemble, Kind
from orchestrator.ensemble.result import (
    ENSEMBLE,
    SINGLE,
    UNIFORM,
    Calibration,
    EnsembleResult,
    Gain,
    Step,
    WayFound,
)
from orchestrator.seeds import derive_seed
from orchestrator.serving.combine import with_temperature
from orchestrator.stages.sweep import Sweep
from orchestrator.tracking.base import SWEEP, stage_key

GROWTH = 8
"""Ensembles of up to so many members are tried for the gain by member (the recipe: it ends near five)."""
ENOUGH = 2000
"""Examples beyond which one division into folds is as good as several (our guess)."""


@dataclass(frozen=True)
class Choice:
    """What was chosen on validation."""

    library: Library
    candidates: Sequence[Candidate]
    """In the library's order."""
    judge: Judge
    crossed: Mapping[Kind, Crossed]
    chosen: Mapping[Kind, Shares]
    kind: Kind
    growth: Sequence[tuple[Crossed, Shares]]
    """By number of members, from 1."""

    @property
    def shares(self) -> Shares:
        """Of the ensemble."""
        return self.chosen[self.kind]


@dataclass(frozen=True)
class Chosen:
    """An ensemble that is chosen, and kept, and not yet judged on test."""

    choice: Choice
    ways: Mapping[Kind, "Crossing"]
    scaled: Temperature | None
    ensemble: Ensemble
    ran: int
    """Networks whose predictions were not known before."""


def choose_ensemble(sweep: Sweep, stage: str) -> Chosen:
    """Choose members on validation, compare with the references there (cross-fitted), and keep the ensemble.

    Raises:
        NoFeasibleTrialError: the sweep has no checkpoint.
        UserCodeError: candidates predict arrays of different shapes.
        StorageError: predictions cannot be written, or what was stored is damaged.
    """
    asks = sweep.config.stages[stage].asks
    sweep.tracker.begin(stage_key(stage), SWEEP, stage, {}, {"kind": "stage", "stage": stage, "asks": asks})
    predictor = Predictor(sweep, "validation")
    candidates = _known(sweep, predictor)
    sweep.progress.say(f"[{stage}] {asks} selection among {len(candidates)} networks, {predictor.ran} predicted now")
    choice = _choose(sweep, predictor, candidates)
    ways = {kind: Crossing(choice, predictor, crossed) for kind, crossed in choice.crossed.items()}
    scaled = _temperature(choice, ways[choice.kind])
    value = scaled.value if scaled is not None and scaled.kept and sweep.config.ensemble.temperature else None
    ensemble = _record(predictor, choice, value)
    ensemble.save(sweep.folder)
    return Chosen(choice, ways, scaled, ensemble, predictor.ran)


def judge_ensemble(sweep: Sweep, chosen: Chosen) -> EnsembleResult:
    """Read the test split, and say how good the ensemble and its references are there.

    Raises:
        StorageError: predictions cannot be written.
    """
    # Noted before it happens: a kill in between must not hide a reading.
    sweep.ledger.note_test_read()
    tested = Tested(chosen.choice, Predictor(sweep, "test"))
    return _result(chosen, tested)


def _known(sweep: Sweep, predictor: Predictor) -> list[Candidate]:
    """All candidates, their predictions stored."""
    settings = sweep.config.ensemble
    plain = trained(sweep, settings.candidates)
    for candidate in plain:
        predictor.know(candidate)
    judge = make_judge(sweep.task, predictor.store, plain)
    made = list(averaged(predictor, plain[: settings.averaged], sweep, judge.cost))
    for candidate in made:
        predictor.know(candidate)
    return [*plain, *made]


def _choose(sweep: Sweep, predictor: Predictor, candidates: Sequence[Candidate]) -> Choice:
    settings, seed = sweep.config.ensemble, derive_seed(sweep.config.seed, "ensemble")
    judge = make_judge(sweep.task, predictor.store, candidates)
    room = settings.memory_mb
    kept, library = make_library(judge, predictor.store, candidates, most=settings.library, memory_mb=room)
    plain = [index for index, candidate in enumerate(kept) if candidate.plain]
    # Versions of one run are too much alike to fill an ensemble: of each the one that costs least may join. The kept
    # ones come in the order of their costs.
    runs = [candidate.record.number for candidate in kept]
    best = [index for index, run in enumerate(runs) if run not in runs[:index]]
    # The single best is the sweep's, which finalists may have settled. The folds choose theirs without repeats: the
    # best of more seeds is a lucky one.
    numbers = {sweep.best.number} if sweep.best is not None else set()
    winner = next((index for index in plain if runs[index] in numbers), None)
    first = [index for index in plain if index == winner or kept[index].record.repeats is None] or plain
    ways = {kind: Way(kind, settings.members, seed, first if kind == SINGLE else plain, best) for kind in KINDS}
    examples = library.values.shape[1]
    repeats = max(1, min(settings.repeats, ENOUGH // examples))
    crossed = {kind: cross(library, way, count=settings.folds, repeats=repeats) for kind, way in ways.items()}
    chosen = {kind: way.choose(library) for kind, way in ways.items()}
    if winner is not None:
        chosen[SINGLE] = {winner: 1.0}
    growth = []
    for members in range(1, min(GROWTH, len(best)) + 1):
        way = Way("greedy", members, seed, plain, best)
        growth.append((cross(library, way, count=settings.folds, repeats=1), way.choose(library)))
    kind = decide(library, crossed)
    return Choice(library, kept, judge, crossed, chosen, kind, growth)


class Crossing:
    """Whole predictions of validation by a way of choosing, each fold's by what the others chose."""

    def __init__(self, choice: Choice, predictor: Predictor, crossed: Crossed) -> None:
        self.predictions = []
        """One for each repetition, float64."""
        for parts in crossed.parts:
            whole = torch.zeros(choice.judge.sample.shape[1:], dtype=torch.float64)
            for held, shares in parts:
                for index, share in shares.items():
                    row = predictor.store.row(*choice.candidates[index].key)
                    whole[held] += share * torch.from_numpy(row[held].astype(np.float64))
            self.predictions.append(whole)
        self.parts = [torch.from_numpy(held) for held, _ in crossed.parts[0]]

    def scores(self, judge: Judge, change: Callable[[Tensor], Tensor] = lambda values: values) -> dict[str, float]:
        """All scores, mean over the repetitions."""
        found = [judge.task.score(change(values), judge.targets) for values in self.predictions]
        return {name: float(np.mean([one[name] for one in found])) for name in judge.task.directions}


class Tested:
    """What the choices of validation predict on test."""

    def __init__(self, choice: Choice, predictor: Predictor) -> None:
        self._choice = choice
        needed = {i for shares in [*choice.chosen.values(), *(s for _, s in choice.growth)] for i in shares}
        for index in sorted(needed):
            predictor.know(choice.candidates[index])
        self._store = predictor.store
        sample = torch.stack([self._of({index: 1.0}) for index in choice.chosen[UNIFORM]])
        self.judge = Judge(choice.judge.task, self._store.targets(), sample)

    def _of(self, shares: Shares) -> Tensor:
        parts = [share * self._store.get(*self._choice.candidates[index].key) for index, share in shares.items()]
        return torch.stack(parts).sum(dim=0)

    def predictions(self, shares: Shares) -> Tensor:
        """Of the average, float64."""
        return self._of(shares)

    def scores(self, predictions: Tensor) -> dict[str, float]:
        """The task's."""
        return self.judge.task.score(predictions, self.judge.targets)


def _temperature(choice: Choice, own: Crossing) -> Temperature | None:
    """Fitted and judged on predictions by members that the predicted examples did not choose; None for values."""
    judge = choice.judge
    if judge.form == "values":
        return None
    how = Probabilities(judge.targets, judge.form, judge.class_axis or 1)
    usual = AVERAGED if len(choice.shares) > 1 else 1.0
    return temperature(how, own.predictions[0], own.parts, usual)


def _record(predictor: Predictor, choice: Choice, value: float | None) -> Ensemble:
    """What is kept for those who predict; the members' weights are written."""
    shares, names = choice.shares, [candidate.name for candidate in choice.candidates]
    order = sorted(shares, key=lambda index: (-shares[index], index))
    return Ensemble(
        kind=choice.kind,
        members=tuple(predictor.member(choice.candidates[index], shares[index]) for index in order),
        temperature=value,
        form=choice.judge.form,
        class_axis=choice.judge.class_axis or 1,
        single=names[next(iter(choice.chosen[SINGLE]))],
        uniform=tuple(names[index] for index in choice.chosen[UNIFORM]),
        objective=choice.judge.task.objective,
    )


def _result(chosen: Chosen, tested: Tested) -> EnsembleResult:
    choice, ways, ensemble = chosen.choice, chosen.ways, chosen.ensemble
    judge, axis = choice.judge, ensemble.class_axis

    def change(values: Tensor) -> Tensor:
        return with_temperature(values, ensemble.temperature, ensemble.form, axis)

    single = tested.predictions(choice.chosen[SINGLE])
    own = change(tested.predictions(choice.shares))
    test = {
        SINGLE: tested.scores(single),
        UNIFORM: tested.scores(tested.predictions(choice.chosen[UNIFORM])),
        ENSEMBLE: tested.scores(own),
    }
    crossed = [judge.gain(a, change(b)) for a, b in zip(ways["single"].predictions, ways[choice.kind].predictions,
                                                       strict=True)]  # fmt: skip
    return EnsembleResult(
        kind=choice.kind,
        weights=ensemble.weights,
        members=[asdict(member) for member in ensemble.members],
        candidates=len(choice.candidates),
        ran=chosen.ran,
        averages=[candidate.name for candidate in choice.candidates if not candidate.plain],
        objective=judge.recognised.form.name,
        single=choice.candidates[next(iter(choice.chosen[SINGLE]))].record.number,
        uniform=ensemble.uniform,
        validation={
            SINGLE: ways["single"].scores(judge),
            UNIFORM: ways["uniform"].scores(judge),
            ENSEMBLE: ways[choice.kind].scores(judge, change),
        },
        test=test,
        gains={
            "validation": Gain(*(float(np.mean(values)) for values in zip(*crossed, strict=True))),
            "test": Gain(*tested.judge.gain(single, own)),
        },
        ways={kind: _way(choice, kind, ways) for kind in KINDS},
        growth=_growth(choice, tested),
        knee=_knee(choice),
        calibration=_calibration(choice, ways, chosen.scaled, used=ensemble.temperature is not None),
    )


def _way(choice: Choice, kind: Kind, ways: Mapping[Kind, Crossing]) -> WayFound:
    judge = choice.judge
    pairs = zip(ways["single"].predictions, ways[kind].predictions, strict=True)
    value, error = (float(np.mean(some)) for some in zip(*(judge.gain(*pair) for pair in pairs), strict=True))
    scores = ways[kind].scores(judge)
    return WayFound(scores[judge.task.objective], Gain(value, error), len(choice.chosen[kind]))


def _growth(choice: Choice, tested: Tested) -> list[Step]:
    judge, recognised = choice.judge, choice.judge.recognised
    best = min((crossed for crossed, _ in choice.growth), key=lambda one: one.cost)
    steps = []
    for members, (crossed, shares) in enumerate(choice.growth, start=1):
        _, error = gap(choice.library, crossed, best)
        value = judge.score(recognised.cost(crossed.cost))
        test = tested.scores(tested.predictions(shares))[judge.task.objective]
        steps.append(Step(members, value, error * recognised.slope(crossed.cost), test))
    return steps


def _knee(choice: Choice) -> int:
    """The smallest number of members whose cross-fitted cost is within one standard error of the best number's."""
    best = min((crossed for crossed, _ in choice.growth), key=lambda one: one.cost)
    for members, (crossed, _) in enumerate(choice.growth, start=1):
        difference, error = gap(choice.library, crossed, best)
        if difference <= error:
            return members
    return len(choice.growth)


def _calibration(
    choice: Choice, ways: Mapping[Kind, Crossing], scaled: Temperature | None, *, used: bool
) -> Calibration | None:
    judge = choice.judge
    if scaled is None or judge.form == "values":
        return None
    how = Probabilities(judge.targets, judge.form, judge.class_axis or 1)
    bins = {
        SINGLE: how.bins(ways["single"].predictions[0]),
        ENSEMBLE: how.bins(ways[choice.kind].predictions[0], scaled.value if used else None),
    }
    ece = {SINGLE: expected_error(bins[SINGLE]), ENSEMBLE: scaled.ece[0], "scaled": scaled.ece[1]}
    return Calibration(bins, ece, scaled.value, Gain(scaled.gain, scaled.error), used)
