"""The trials of a plain Optuna study, as the advisor knows trials. All of it is read off the storage."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna import Study
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from orchestrator.study.plain.space import Distributions, PlainSpace
from orchestrator.study.records import TrialRecord
from orchestrator.types import Direction, TrialState, Value

PLAN = "staged:plan"
"""System attribute of a trial: its :class:`Plan`."""
CONTINUE_FROM = "continue_from"
"""User attribute of a trial: the number of the stopped trial that it continues."""
STAGE = "stage"
"""User attribute of a trial: the stage that asked for it, for people."""

Visit = tuple[int, int]
"""A stage's turn: the pass, from 1, and which stage; (0, 0) is the opening."""


@dataclass(frozen=True)
class Plan:
    """What the sampler decided when a trial began; kept with the trial, for other workers and restarts."""

    visit: Visit | None
    """Who pays for it; None for a configuration that the user enqueued."""
    opening: bool = False
    """Whether it is one of the first, which stop at the first rung."""
    is_start: bool = False
    """Whether it takes what it asks for from ``start``, the search space being unknown."""
    values: Mapping[str, Value] | None = None
    """The advisor's configuration; None while the search space is unknown."""
    parent: int | None = None
    """The trial that it follows in its training: the one it continues, or a failed attempt at the same."""
    inherited: int = 0
    """Epochs that the stopped trial trained."""
    first_step: int | None = None
    """How the stopped trial counted its steps: from 0 or from 1."""

    @classmethod
    def of(cls, trial: FrozenTrial) -> "Plan | None":
        """The plan of ``trial``; None for one that another sampler made."""
        stored = trial.system_attrs.get(PLAN)
        if stored is None:
            return None
        visit = stored["visit"]
        return cls(**{**stored, "visit": None if visit is None else (visit[0], visit[1])})

    def stored(self) -> dict[str, Any]:
        """What JSON can hold."""
        return asdict(self)


def first_step_of(trial: FrozenTrial, plan: Plan | None, said: int | None) -> int:
    """The step that ``trial`` reports after its first epoch: what the user said, else what the trial it
    continues does, else 0 if it reported a step 0, else 1."""
    if said is None and plan is not None:
        said = plan.first_step
    if said is None:
        return 0 if 0 in trial.intermediate_values else 1
    return said


def own_epochs(trial: FrozenTrial, first_step: int) -> dict[int, float]:
    """Epochs done (from 1) to what the trial itself reported after them."""
    return {step + 1 - first_step: value for step, value in sorted(trial.intermediate_values.items())}


class PlainTrials:
    """Every trial of a study, kept up to date by :meth:`sync`.

    Args:
        study: the study.
        epochs: budget of a trial.
        marks: the rungs and the budget: where the advisor compares trials.
        given: the search space if the user gives it; else it is what all ended trials have in common.
        start: see :class:`~orchestrator.study.plain.space.PlainSpace`.
        first_step: see :func:`first_step_of`.
    """

    def __init__(
        self,
        study: Study,
        epochs: int,
        marks: Sequence[int],
        given: Distributions | None,
        start: Mapping[str, Any],
        first_step: int | None,
    ) -> None:
        self.study = study
        self._epochs = epochs
        self._marks = marks
        self._given = given
        self._start = start
        self._first_step = first_step
        self._direction = Direction(study.direction.name.lower())
        self._common = IntersectionSearchSpace(include_pruned=True)
        self.space = PlainSpace(given or {}, start)
        self.names: set[str] = set(given or {})
        """Every parameter that was ever asked for."""
        self._forget()

    def _forget(self) -> None:
        self.records: dict[int, TrialRecord] = {}
        """By trial number. Empty while the search space is unknown."""
        self.plans: dict[int, Plan] = {}
        self.paid: dict[int, int] = {}
        """Epochs that each trial trained itself."""
        self.stopped_at: dict[int, int] = {}
        """Each trial to the trial whose checkpoint holds its epochs: itself, unless it is a failed attempt."""
        self.first_steps: dict[int, int] = {}
        """How each trial counts its steps: from 0 or from 1."""
        self._settled: set[int] = set()

    def sync(self) -> list[TrialRecord] | None:
        """Read the study; the records that are new or changed, or None if all are to be learnt anew."""
        fresh = self._update_space()
        changed = []
        for trial in self.study.get_trials(deepcopy=False):
            if trial.number in self._settled or trial.state is OptunaState.WAITING:
                continue
            record = self._take(trial)
            known = self.records.get(trial.number)
            if record is not None and known != record:
                # Another sampler may have changed what ours had planned.
                fresh |= known is not None and known.configuration != record.configuration
                self.records[trial.number] = record
                changed.append(record)
            if trial.state.is_finished():
                self._settled.add(trial.number)
                self.names |= set(trial.distributions)
        return None if fresh else changed

    @property
    def start_runs(self) -> bool:
        """Whether a trial that takes its parameters from ``start`` has not ended."""
        return any(plan.is_start and number not in self._settled for number, plan in self.plans.items())

    def is_first(self, trial: FrozenTrial) -> bool:
        """Whether ``trial`` is the first that the search decides about, of all processes: none before it has a
        plan, or will get one."""
        return not any(
            other.number < trial.number and (Plan.of(other) is not None or _is_undecided(other))
            for other in self.study.get_trials(deepcopy=False)
        )

    def _update_space(self) -> bool:
        """Whether the search space is another than before."""
        if self._given is not None:
            return False
        common = {n: d for n, d in self._common.calculate(self.study).items() if not d.single()}
        if common == self.space.distributions:
            return False
        self.space = PlainSpace(common, self._start)
        self._forget()
        return True

    def _take(self, trial: FrozenTrial) -> TrialRecord | None:
        number = trial.number
        plan = Plan.of(trial)
        if plan is not None:
            self.plans[number] = plan
        self.first_steps[number] = first_step_of(trial, plan, self._first_step)
        own = own_epochs(trial, self.first_steps[number])
        parent = None if plan is None or plan.parent is None else self.records.get(plan.parent)
        inherited = 0 if parent is None else parent.epochs_run
        self.paid[number] = self._paid(trial, own, inherited)
        self.stopped_at[number] = number
        configuration = self._configuration(trial, plan, parent)
        if configuration is None:
            return None
        record = TrialRecord(
            number=number,
            stage="" if plan is None else str(plan.visit),
            configuration=configuration,
            seed=0,
            epochs=self._epochs,
            state=_state(trial, own),
            curve=self._curve(trial, own, parent),
            value=trial.value if trial.state is OptunaState.COMPLETE else None,
            parent=None if parent is None else parent.number,
            inherited=inherited,
        )
        if parent is not None and _broke_off(trial, own) and self.stopped_at[parent.number] == parent.number:
            return self._forgiven(record, parent)
        return record

    def _forgiven(self, record: TrialRecord, parent: TrialRecord) -> TrialRecord:
        """A first failed attempt to go on with a training says nothing of it: Ctrl-C makes trials fail too."""
        self.stopped_at[record.number] = parent.number
        return replace(record, state=TrialState.PRUNED, curve=parent.curve, value=None)

    def _paid(self, trial: FrozenTrial, own: Mapping[int, float], inherited: int) -> int:
        if own:
            return max(own) - (inherited if min(own) > inherited else 0)
        if trial.state is OptunaState.COMPLETE:
            return self._epochs - inherited
        return int(trial.state.is_finished())

    def _configuration(
        self, trial: FrozenTrial, plan: Plan | None, parent: TrialRecord | None
    ) -> Mapping[str, Value] | None:
        if not self.space.distributions:
            return None
        if parent is not None:
            return parent.configuration
        planned = self.space.params(plan.values) if plan is not None and plan.values is not None else {}
        params = {**({} if trial.state.is_finished() else planned), **trial.params}
        asked = set(params) & set(self.space.distributions)
        whole = len(asked) == len(self.space.distributions)
        if not asked or (not whole and not trial.state.is_finished()):
            return None
        return self.space.configuration(params)

    def _curve(self, trial: FrozenTrial, own: Mapping[int, float], parent: TrialRecord | None) -> Mapping[int, float]:
        """What is known at each epoch. A rung without a report of its own takes the next one after it, and
        the end what the objective returned, which is what the study is about."""
        finite = {epoch: value for epoch, value in own.items() if math.isfinite(value)}
        curve = {**({} if parent is None else parent.curve), **finite}
        for mark in self._marks:
            later = [epoch for epoch in finite if epoch >= mark]
            if mark not in curve and later:
                curve[mark] = finite[min(later)]
        if trial.state is OptunaState.COMPLETE and trial.value is not None:
            curve[self._epochs] = trial.value
        return curve


def _is_undecided(trial: FrozenTrial) -> bool:
    return trial.state is OptunaState.RUNNING and "fixed_params" not in trial.system_attrs


def _state(trial: FrozenTrial, own: Mapping[int, float]) -> TrialState:
    if trial.state is OptunaState.RUNNING:
        return TrialState.RUNNING
    broken = trial.state is OptunaState.FAIL or any(value > 0 for value in trial.constraints.values())
    ends = () if trial.value is None else (trial.value,)
    if broken or not _finite((*own.values(), *ends)):
        return TrialState.INFEASIBLE
    if trial.state is OptunaState.COMPLETE:
        return TrialState.COMPLETE
    # Given up before its first report: its configuration was refused.
    return TrialState.PRUNED if own else TrialState.INFEASIBLE


def _broke_off(trial: FrozenTrial, own: Mapping[int, float]) -> bool:
    """Whether it ended without any sign of its configuration being at fault."""
    failed = trial.state is OptunaState.FAIL or (trial.state is OptunaState.PRUNED and not own)
    return failed and _finite(own.values())


def _finite(values: Iterable[float]) -> bool:
    return all(math.isfinite(value) for value in values)
