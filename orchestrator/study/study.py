"""The sweep's one Optuna study: the only owner of trial state.

Every trial is stored with all searchable hyperparameters as parameters under frozen distributions, and
with stage, seed, budget and the full configuration as attributes. Each change is one storage operation,
so a kill between two of them leaves a trial RUNNING with a true curve, never something half told.
What is asked of all trials again and again (the incumbent, the cost) is kept, not searched for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from orchestrator.errors import ConfigError
from orchestrator.study.records import TrialRecord, incumbent, searched
from orchestrator.study.space import SearchSpace
from orchestrator.study.storage import commit
from orchestrator.types import Configuration, Direction, MemoryUse, Reason, TrialState, Value

CONSTRAINT = "feasible"
"""Name of the Optuna constraint that is above 0 on infeasible trials."""


class SweepStudy:
    """All trials of one sweep."""

    def __init__(self, storage: BaseStorage, name: str, direction: Direction, space: SearchSpace) -> None:
        self._study = optuna.create_study(
            study_name=name, storage=storage, direction=direction.value, load_if_exists=True
        )
        self._storage = storage
        self.direction = direction
        self.space = space
        self._records = [_record(trial) for trial in self._study.get_trials(deepcopy=False)]
        # The storage's own ids, by trial number.
        self._ids = [trial._trial_id for trial in self._study.get_trials(deepcopy=False)]
        self.epochs_paid = sum(record.epochs_paid for record in searched(self._records))
        """What the trials of the search have cost so far."""
        self.running = {record.number: None for record in self._records if not record.state.finished}
        """Numbers of the trials that have not ended, in their order."""
        self.incumbent = incumbent(self._records, direction)
        """See :func:`~orchestrator.study.records.incumbent`, of all trials."""
        values = [record.value for record in self._records if record.value is not None]
        self._worst = max(values, key=direction.cost, default=None)

    @property
    def records(self) -> Sequence[TrialRecord]:
        """Every trial, in the order of their numbers; it grows and changes with the study."""
        return self._records

    def __getitem__(self, number: int) -> TrialRecord:
        return self._records[number]

    def __len__(self) -> int:
        return len(self._records)

    def start(
        self,
        configuration: Configuration,
        *,
        stage: str,
        seed: int,
        epochs: int,
        parent: TrialRecord | None = None,
        round_: int = 0,
        repeats: int | None = None,
        schedule_epochs: int | None = None,
    ) -> TrialRecord:
        """Store a new running trial and return it; its number is the next free one.

        Args:
            configuration: one value for every hyperparameter.
            stage: which stage pays for it.
            seed: of everything random in it.
            epochs: its budget.
            parent: the trial that it continues; its curve is copied.
            round_: see :attr:`TrialRecord.round`.
            repeats: the trial that it trains again with another seed, or for longer.
            schedule_epochs: of a finalist: see :attr:`TrialRecord.schedule_epochs`.
        """
        distributions = self.space.distributions()
        attributes = {
            "stage": stage,
            "seed": seed,
            "epochs": epochs,
            "configuration": dict(configuration),
            "round": round_,
            "repeats": repeats,
            "schedule_epochs": schedule_epochs,
        }
        if parent is not None:
            attributes |= {"parent": parent.number, "inherited": parent.epochs_run}
        trial_id = self._storage.create_new_trial(
            self._study._study_id,
            FrozenTrial(
                number=-1,
                trial_id=-1,
                state=OptunaState.RUNNING,
                value=None,
                datetime_start=datetime.now(),
                datetime_complete=None,
                params={name: configuration[name] for name in distributions},
                distributions=distributions,
                user_attrs=attributes,
                system_attrs={},
                intermediate_values=dict(parent.curve) if parent is not None else {},
            ),
        )
        self._records.append(_record(self._storage.get_trial(trial_id)))
        self._ids.append(trial_id)
        self.running[len(self._records) - 1] = None
        return self._records[-1]

    def report(self, number: int, epoch: int, value: float) -> bool:
        """Store the objective after ``epoch``; False if that epoch was reported before (a resumed trial)."""
        record = self._records[number]
        if epoch in record.curve:
            return False
        self._storage.set_trial_intermediate_value(self._ids[number], epoch, value)
        self._replace(record, curve={**record.curve, epoch: value})
        return True

    def note_memory(self, number: int, found: Sequence[MemoryUse]) -> None:
        """Take in what a trial was seen to hold; it is stored when the trial ends."""
        known = {use.where: use for use in self._records[number].memory}
        for use in found:
            known[use.where] = max(use, known.get(use.where, use), key=lambda each: each.peak_bytes)
        self._replace(self._records[number], memory=tuple(known.values()))

    def audit(self, number: int, epoch: int) -> None:
        """Note that the trial was due to be stopped at ``epoch`` and is let through."""
        self._storage.set_trial_user_attr(self._ids[number], "audited", epoch)
        self._replace(self._records[number], audited=epoch)

    def restart(self, number: int) -> TrialRecord:
        """Note that the trial's worker died and the trial goes on elsewhere."""
        restarts = self._records[number].restarts + 1
        self._storage.set_trial_user_attr(self._ids[number], "restarts", restarts)
        return self._replace(self._records[number], restarts=restarts)

    def finish(
        self,
        number: int,
        state: TrialState,
        *,
        seconds: float,
        reason: Reason | None = None,
        detail: str = "",
    ) -> TrialRecord:
        """End a trial for good. What explains the end is written before the state changes.

        A complete or pruned trial is worth the best of its curve. An infeasible one gets a constraint
        above 0 and the worst value known so far, because samplers ignore failed trials and would
        propose the same again.

        Raises:
            ConfigError: the trial has ended already.
        """
        record = self._records[number]
        if record.state.finished:
            raise ConfigError(f"trial {number} has ended already as {record.state}")
        infeasible = state is TrialState.INFEASIBLE
        value = (self._worst or 0.0) if infeasible else self.direction.best(list(record.curve.values()))
        end: dict[str, Any] = {"state": state.value, "reason": reason, "detail": detail, "seconds": seconds}
        if record.memory:
            end["memory"] = [asdict(use) for use in record.memory]
        trial_id = self._ids[number]
        self._storage.set_trial_user_attr(trial_id, "end", end)
        constrained = CONSTRAINT in optuna.Trial(self._study, trial_id).constraints
        if infeasible and not constrained:
            optuna.Trial(self._study, trial_id).set_constraint(CONSTRAINT, 1.0)
        if not infeasible and constrained:
            # A kill came between an earlier end's constraint and its state; Optuna sets one only once.
            self._storage.set_trial_system_attr(trial_id, f"constraints:{CONSTRAINT}", -1.0)
        stored = OptunaState.PRUNED if state is TrialState.PRUNED else OptunaState.COMPLETE
        self._storage.set_trial_state_values(trial_id, stored, [value])
        return self._replace(
            record,
            state=state,
            value=None if infeasible else value,
            reason=reason,
            detail=detail,
            seconds=seconds,
        )

    def commit(self) -> None:
        """Make all that was changed durable; see :func:`orchestrator.study.storage.commit`."""
        commit(self._storage)

    def _replace(self, record: TrialRecord, **changes: Any) -> TrialRecord:
        new = replace(record, **changes)
        self.epochs_paid += 0 if new.finalist else new.epochs_paid - record.epochs_paid
        if new.state.finished:
            self.running.pop(record.number, None)
            self.incumbent = incumbent([new] if self.incumbent is None else [self.incumbent, new], self.direction)
            if new.value is not None:
                known = [new.value] if self._worst is None else [self._worst, new.value]
                self._worst = max(known, key=self.direction.cost)
        self._records[record.number] = new
        return new


def _record(trial: FrozenTrial) -> TrialRecord:
    attributes: Mapping[str, Any] = trial.user_attrs
    configuration: dict[str, Value] = attributes["configuration"]
    end = attributes.get("end") if trial.state.is_finished() else None
    state = TrialState(end["state"]) if end else TrialState.RUNNING
    return TrialRecord(
        number=trial.number,
        stage=attributes["stage"],
        configuration=configuration,
        seed=attributes["seed"],
        epochs=attributes["epochs"],
        state=state,
        curve=dict(trial.intermediate_values),
        value=trial.value if end and state is not TrialState.INFEASIBLE else None,
        reason=Reason(end["reason"]) if end and end["reason"] else None,
        detail=end["detail"] if end else "",
        seconds=end["seconds"] if end else 0.0,
        memory=tuple(MemoryUse(**use) for use in end.get("memory", ())) if end else (),
        parent=attributes.get("parent"),
        inherited=attributes.get("inherited", 0),
        round=attributes["round"],
        repeats=attributes["repeats"],
        schedule_epochs=attributes.get("schedule_epochs"),
        audited=attributes.get("audited"),
        restarts=attributes.get("restarts", 0),
    )
