"""A sweep as the report reads it: what was asked, every trial, every verdict. Nothing here writes."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from orchestrator.config.compose import from_plain, to_plain
from orchestrator.config.schema import RunConfig
from orchestrator.ensemble.winner import PREDICTIONS_FILE
from orchestrator.errors import NoFeasibleTrialError
from orchestrator.masking import masked
from orchestrator.stages.ledger import Ledger, Reading, best_of
from orchestrator.stages.measured import MeasuredEpochs
from orchestrator.stages.sweep import LEDGER_FILE, Plan, Sweep, make_plan
from orchestrator.stages.visits import stage_of, varied
from orchestrator.study.importance import importance
from orchestrator.study.pruners import rungs_of
from orchestrator.study.records import TrialRecord
from orchestrator.study.space import SearchSpace
from orchestrator.study.storage import memory_storage
from orchestrator.study.study import SweepStudy
from orchestrator.types import Configuration, Direction, TrialState

FINISHED, STOPPED, INFEASIBLE, RUNNING = "finished", "stopped early", "infeasible", "running"
REPEATS, FINALIST = "more seeds", "finalists"
"""What became of a training; repeats of the best with more seeds, and finalists, are told apart, because they cost
too and do not compare with the others."""
ASIDE = (REPEATS, FINALIST)
_OUTCOMES = {
    TrialState.COMPLETE: FINISHED,
    TrialState.PRUNED: STOPPED,
    TrialState.INFEASIBLE: INFEASIBLE,
    TrialState.RUNNING: RUNNING,
}


@dataclass(frozen=True)
class Training:
    """One configuration and seed: a trial, and those that continued it."""

    trials: tuple[TrialRecord, ...]
    """In order; the last one's curve holds all epochs."""
    direction: Direction

    @property
    def last(self) -> TrialRecord:
        """Its latest trial."""
        return self.trials[-1]

    @property
    def configuration(self) -> Configuration:
        """The same in all its trials."""
        return self.last.configuration

    @property
    def outcome(self) -> str:
        """What became of it in the end."""
        if self.last.repeats is not None:
            return FINALIST if self.last.finalist else REPEATS
        return _OUTCOMES[self.last.state]

    def best_by(self, epoch: int) -> float | None:
        """Its best objective within ``epoch`` epochs; None if it did not get so far, or is infeasible."""
        if self.last.epochs_run < epoch or self.last.state is TrialState.INFEASIBLE:
            return None
        return self.direction.best([value for at, value in self.last.curve.items() if at <= epoch])


@dataclass(frozen=True)
class SweepView:
    """All that the report and the logbook know of a sweep."""

    name: str
    folder: Path
    config: RunConfig
    objective: str
    direction: Direction
    space: SearchSpace
    base: Configuration
    records: Sequence[TrialRecord]
    finished: Mapping[str, Mapping[str, Any]]
    """Ledger entry of each finished visit."""
    test_reads: Sequence[Reading] = ()
    usage: Sequence[Mapping[str, Any]] = ()
    """What the workers' time went into, by command; see :attr:`orchestrator.stages.ledger.Ledger.usage`."""

    @property
    def epochs(self) -> int:
        """Budget of a training."""
        return self.config.trainer.epochs

    @cached_property
    def best(self) -> TrialRecord | None:
        """The winner: of the finalists, or before there are any the incumbent of the search."""
        return best_of(self.finished, self.records, self.direction)

    @cached_property
    def searched_best(self) -> TrialRecord | None:
        """The trial of the search with the winner's configuration: what compares with the others of the search."""
        best = self.best
        return best if best is None or not best.finalist else self.records[best.repeats or 0]

    @cached_property
    def trainings(self) -> Sequence[Training]:
        """Every training, by the number of its first trial."""
        chains: dict[int, list[TrialRecord]] = {}
        root: dict[int, int] = {}
        for record in self.records:
            # A finalist that goes on from a trial of the search leaves that as it was.
            begins = record.parent is None or record.finalist
            root[record.number] = record.number if begins else root[record.parent or 0]
            chains.setdefault(root[record.number], []).append(record)
        return [Training(tuple(chain), self.direction) for chain in chains.values()]

    @cached_property
    def by_stage(self) -> Mapping[str, Sequence[Training]]:
        """Stage (all its passes together) to the trainings that it began or continued; repeats and finalists are left
        out."""
        found: dict[str, list[Training]] = defaultdict(list)
        for training in self.trainings:
            if training.outcome not in ASIDE:
                for stage in dict.fromkeys(stage_of(record.stage) for record in training.trials):
                    found[stage].append(training)
        return found

    @cached_property
    def levels(self) -> Sequence[int]:
        """The epochs at which trainings are compared: the first, the rungs, the last."""
        return sorted({1, *rungs_of(self.config.pruner, self.epochs), self.epochs})

    @cached_property
    def noise(self) -> tuple[float | None, bool]:
        """Standard deviation between seeds at the best value as last judged, and whether repeats measured it."""
        known = [entry for entry in self.finished.values() if entry.get("noise") is not None]
        measured = [entry for entry in known if entry.get("noise_measured")]
        entry = (measured or known or [{}])[-1]
        return entry.get("noise"), bool(entry.get("noise_measured"))

    @cached_property
    def importance(self) -> Mapping[str, float]:
        """See :func:`orchestrator.study.importance.importance`."""
        epoch = self.common_epoch([training for training in self.trainings if training.outcome not in ASIDE])
        return importance(self.records, self.space, self.direction, epoch) if epoch else {}

    def common_epoch(self, trainings: Sequence[Training]) -> int:
        """The latest epoch at which at least half of ``trainings`` can be compared; 0 if there is none."""
        reached = {level: sum(training.best_by(level) is not None for training in trainings) for level in self.levels}
        return max((level for level, count in reached.items() if count and 2 * count >= len(trainings)), default=0)

    @property
    def stages(self) -> Sequence[str]:
        """Stages that have trials or a verdict, in the order in which they were first visited."""
        visits = [*(record.stage for record in self.records), *self.finished]
        begun = list(dict.fromkeys(stage_of(key) for key in visits))
        order = list(self.config.recipe.order)
        return sorted(begun, key=lambda name: order.index(name) if name in order else -1)

    def scores(self, number: int) -> Mapping[str, float]:
        """All validation scores of a trial in its best epoch, by name, from its logbook file; empty without one."""
        key = f"val/{self.objective}"
        epochs = [values for _, values in MeasuredEpochs(self.folder / "trials").epochs(number) if key in values]
        best: Mapping[str, float] = min(epochs, key=lambda values: self.direction.cost(values[key]), default={})
        return {name.removeprefix("val/"): value for name, value in best.items() if name.startswith("val/")}

    @cached_property
    def predictions(self) -> Mapping[str, Any]:
        """What the winner predicts on validation, as :mod:`orchestrator.ensemble.winner` kept it; empty without."""
        path = self.folder / PREDICTIONS_FILE
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def asked(self, stage: str) -> Sequence[str]:
        """The hyperparameters that a stage asks about; empty for a stage that the configuration lacks."""
        return varied(self.space, self.config.stages[stage]) if stage in self.config.stages else ()


def view_of(sweep: Sweep) -> SweepView:
    """An open sweep as it stands now."""
    return SweepView(
        name=sweep.name,
        folder=sweep.folder,
        config=sweep.config,
        objective=sweep.task.objective,
        direction=sweep.direction,
        space=sweep.space,
        base=sweep.base,
        records=sweep.study.records,
        finished=sweep.ledger.finished,
        test_reads=sweep.ledger.test_reads,
        usage=sweep.ledger.usage,
    )


def read_view(plan: Plan) -> SweepView:
    """The sweep of ``plan`` as its files have it, also while another process drives it.

    Its settings are those that it was begun with, whatever the command says.

    Raises:
        NoFeasibleTrialError: nothing has run under that name.
    """
    ledger = Ledger.read(plan.folder / LEDGER_FILE)
    if ledger is None:
        raise NoFeasibleTrialError(f"sweep {plan.name}: nothing has run yet in {plan.folder}")
    plan = _as_begun(plan, ledger.config)
    storage = plan.study.read(ledger.sweep_id) or memory_storage()
    study = SweepStudy(storage, plan.study.study(ledger.sweep_id), plan.task.direction, plan.space)
    return SweepView(
        name=plan.name,
        folder=plan.folder,
        config=plan.config,
        objective=plan.task.objective,
        direction=plan.task.direction,
        space=plan.space,
        base=plan.base,
        records=study.records,
        finished=ledger.finished,
        test_reads=ledger.test_reads,
        usage=ledger.usage,
    )


def _as_begun(plan: Plan, begun: Mapping[str, Any]) -> Plan:
    values = to_plain(replace(plan.config, sweep=replace(plan.config.sweep, name=plan.name)))
    trainer = {**values["trainer"], **begun["trainer"]}
    # The ledger holds no passwords: those of the command stand.
    kept = {key: value for key, value in begun.items() if key in values and value != masked(values[key])}
    return make_plan(from_plain({**values, **kept, "trainer": trainer}))
