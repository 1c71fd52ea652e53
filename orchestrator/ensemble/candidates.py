"""The networks that may join: the sweep's trained trials, and averages of weights; what each predicts."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from orchestrator.config.hyperparameters import from_flat
from orchestrator.ensemble.averaging import State, greedy_soup, mean_state, recompute_batch_norm
from orchestrator.ensemble.predictions import PredictionStore
from orchestrator.ensemble.record import Member, digest_of, save_weights
from orchestrator.errors import NoFeasibleTrialError
from orchestrator.serving.costs import costs_of
from orchestrator.stages.sweep import Sweep
from orchestrator.study.records import TrialRecord, ranked
from orchestrator.tasks.loading import load_once
from orchestrator.training import checkpoint
from orchestrator.training.data import in_sequence
from orchestrator.training.loop import pick_device, predict_batches
from orchestrator.types import TrialState

Key = tuple[str, str]
"""A candidate's name and the digest of its weights."""


@dataclass(frozen=True)
class Candidate:
    """A network that may join the ensemble."""

    name: str
    digest: str
    """Of its weights, or of the checkpoint that holds them."""
    record: TrialRecord
    """The trial whose configuration it has."""
    load: Callable[[], State] = field(compare=False)
    """Its weights."""
    ingredients: tuple[str, ...] = ()

    @property
    def key(self) -> Key:
        """What its predictions are stored under."""
        return self.name, self.digest

    @property
    def plain(self) -> bool:
        """Whether it is a trial as it was trained, and no average of weights."""
        return self.name == plain_name(self.record)


def plain_name(record: TrialRecord) -> str:
    """Of a trial's own weights at its best epoch."""
    return f"trial-{record.number}"


def trained(sweep: Sweep, count: int) -> list[Candidate]:
    """The trials that have a checkpoint, of every stage: those that ended best first, then those that were stopped.

    Stopped ones are worth their place: they differ from the best, and with them an ensemble of five costs 4 % less on
    test (geometric mean of the shipped tasks, small budgets: 0.83 times the best single against 0.87 without).

    Raises:
        NoFeasibleTrialError: no trial that ended has one.
    """
    records = sweep.study.records
    found = [r for r in ranked(records, sweep.direction) if sweep.checkpoints.has(r.number)]
    if not found:
        raise NoFeasibleTrialError("ensemble: the sweep has no trained checkpoint; run a search stage first")
    stopped = [r for r in records if r.state is TrialState.PRUNED and sweep.checkpoints.has(r.number)]
    costs = {r.number: sweep.direction.cost(sweep.direction.best(list(r.curve.values()))) for r in stopped}
    found += sorted(stopped, key=lambda r: (costs[r.number], r.number))
    return [of_trial(sweep, record) for record in found[:count]]


def of_trial(sweep: Sweep, record: TrialRecord) -> Candidate:
    """A trial's weights at its best epoch."""

    def load() -> State:
        weights: State = sweep.checkpoints.load(record.number)["best"]["model"]
        return weights

    digest = checkpoint.digest(sweep.checkpoints.location(record.number))
    return Candidate(plain_name(record), digest, record, load)


class Predictor:
    """Runs candidates' networks on one split, each at most once in the life of the sweep."""

    def __init__(self, sweep: Sweep, split: str) -> None:
        self._sweep = sweep
        self._task, splits = load_once(sweep.config.task)
        self._dataset = getattr(splits, split)
        self._train = splits.train
        self.store = PredictionStore(sweep.folder, split, self._dataset)
        self.ran = 0
        """Networks that were run by this object; the others were known."""
        torch.set_num_threads(sweep.config.runner.cpus_per_trial)

    def network(self, candidate: Candidate, state: State | None = None) -> nn.Module:
        """The candidate's network with its weights, on the device of a trial."""
        model = self._task.model(**from_flat(candidate.record.configuration).model)
        model.load_state_dict(candidate.load() if state is None else state)
        return model.to(pick_device(self._sweep.config.trainer)).eval()

    def know(self, candidate: Candidate) -> None:
        """See that its predictions are stored."""
        if not self.store.has(*candidate.key):
            self.ran += 1
            network = self.network(candidate)
            batches = predict_batches(self._task, network, self._dataset, self._sweep.config.trainer)
            self.store.add(*candidate.key, batches)

    def predictions(self, candidate: Candidate) -> Tensor:
        """Its predictions on the split, float64."""
        self.know(candidate)
        return self.store.get(*candidate.key)

    def finished_state(self, candidate: Candidate, state: State) -> State:
        """Averaged weights with batch norm's statistics made anew on the training data."""
        config = self._sweep.config.trainer
        network = self.network(candidate, state)
        recompute_batch_norm(network, self._train, config.eval_batch_size, config.data_workers)
        return {name: value.detach().cpu() for name, value in network.state_dict().items()}

    def member(self, candidate: Candidate, share: float) -> Member:
        """The candidate as a member: its weights are written, its costs measured."""
        config = self._sweep.config.trainer
        state = candidate.load()
        network = self.network(candidate, state)
        inputs, _ = next(in_sequence(self._dataset, config.eval_batch_size, 0))
        inputs = inputs.to(next(network.parameters()).device)
        return Member(
            name=candidate.name,
            trial=candidate.record.number,
            share=share,
            model=dict(from_flat(candidate.record.configuration).model),
            file=save_weights(self._sweep.folder, candidate.name, state),
            digest=digest_of(state),
            ingredients=candidate.ingredients,
            **asdict(costs_of(network, inputs)),
        )


def averaged(
    predictor: Predictor, plain: Sequence[Candidate], sweep: Sweep, cost: Callable[[Tensor], float]
) -> Iterator[Candidate]:
    """Candidates made by averaging weights along the runs of ``plain``: SWA of each, and greedy soups.

    The ingredients of a soup are the weights of one initialisation (the same seed and shape): at the best epoch, at
    the last, and averaged over the last epochs, of all runs that began with it. A soup of one ingredient is none.

    Args:
        cost: of predictions on validation.
    """
    families: dict[tuple[Any, ...], list[Candidate]] = {}
    for candidate in plain:
        own = from_flat(candidate.record.configuration).model
        family = (candidate.record.seed, *sorted(own.items()))
        families.setdefault(family, []).append(candidate)
    for runs in families.values():
        ingredients = [item for run in runs for item in _along(predictor, sweep, run)]
        yield from (item for item in ingredients if item.name.endswith("-swa"))
        if len(ingredients) > 1:
            order = greedy_soup(
                len(ingredients),
                lambda some, items=ingredients: cost(  # type: ignore[misc]
                    predictor.predictions(_mixed(predictor, [items[index] for index in some]))
                ),
            )
            if len(order) > 1:
                yield _mixed(predictor, [ingredients[index] for index in order])


def _along(predictor: Predictor, sweep: Sweep, run: Candidate) -> list[Candidate]:
    """A run's weights at the best epoch, at the last one, and averaged, as far as they differ."""
    number = run.record.number
    state = sweep.checkpoints.load(number)
    found = [run]
    if state["epoch"] != state["best"]["epoch"]:
        found.append(_derived(run, "last", lambda: _last(sweep.checkpoints.load(number))))
    if state["tail"]["count"] > 1:
        found.append(
            _derived(
                run, "swa", lambda: predictor.finished_state(run, sweep.checkpoints.load(number)["tail"]["mean"])
            )
        )
    return found


def _last(state: Mapping[str, Any]) -> State:
    """The weights that were evaluated after the last epoch: their exponential average, where the run kept one."""
    if state["average"] is None:
        weights: State = state["model"]
        return weights
    # AveragedModel keeps the module's own names behind "module.".
    return {name.removeprefix("module."): v for name, v in state["average"].items() if name != "n_averaged"}


def _derived(run: Candidate, what: str, load: Callable[[], State]) -> Candidate:
    return Candidate(f"{run.name}-{what}", run.digest, run.record, load, (run.name,))


def _mixed(predictor: Predictor, items: Sequence[Candidate]) -> Candidate:
    """The mean of the items' weights, or the item if there is only one."""
    first = items[0]
    if len(items) == 1:
        return first
    digest = hashlib.sha256(repr([item.key for item in items]).encode()).hexdigest()[:16]
    names = tuple(item.name for item in items)

    def load() -> State:
        return predictor.finished_state(first, mean_state(item.load() for item in items))

    return Candidate(f"soup-{first.record.number}", digest, first.record, load, names)
