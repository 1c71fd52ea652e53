"""``stage=finalists``: the best configurations of the search once more, for longer and with several seeds.

The search names as its best what was good *and* lucky. So the best few are trained again, all with the same fresh
seeds, and who is best is decided by the mean over these. The seed that the search had used does not count: it was
chosen by. It is trained on all the same, for those that are still in the race, where that continues its checkpoint.

- A constant rate goes on as it is: such a training continues its checkpoint, exactly as if it had been longer from
  the start, and so does a repeat that the search made of its best with one of the fresh seeds.
- Any other schedule is stretched over the longer budget, and begins anew.
- Beyond the budget the rate stays where the schedule ended; one that ends at 0 ends the training.
"""

from collections.abc import Collection, Sequence

from orchestrator.config.hyperparameters import from_flat
from orchestrator.errors import NoFeasibleTrialError
from orchestrator.seeds import shared_seed
from orchestrator.stages.beginning import earlier_trials
from orchestrator.stages.race import losers
from orchestrator.stages.sweep import Sweep
from orchestrator.stages.turn import StageTurn
from orchestrator.stages.visits import Visit
from orchestrator.study.records import TrialRecord, incumbent, ranked, searched
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.training.schedules import multiplier
from orchestrator.types import Configuration, Decision, End, EpochResult, Outcome, Reason, TrialSpec, TrialState

OWN = -1
"""In place of the index of a fresh seed: the seed that the search had used."""
_ROUND = 2
"""Fresh seeds of every finalist before the first is dropped: the noise is not known before."""


def choose(sweep: Sweep, records: Sequence[TrialRecord], top: int) -> list[TrialRecord]:
    """The best complete trials of the search, the best first, no two of the same configuration; where they are too
    few, the best of those that were stopped follow. A short search finishes two or three.

    Two are the same where they differ only in what has no effect in them.
    """
    found: list[TrialRecord] = []
    seen: list[Configuration] = []
    own = searched(records)
    stopped = [record for record in own if record.state is TrialState.PRUNED and record.curve]
    stopped.sort(key=lambda record: (sweep.direction.cost(search_value(sweep, record)), record.number))
    for record in [*ranked(own, sweep.direction), *stopped]:
        configuration = sweep.space.canonical(record.configuration, sweep.base)
        if record.repeats is None and configuration not in seen and len(found) < top:
            found.append(record)
            seen.append(configuration)
    return found


def search_value(sweep: Sweep, record: TrialRecord) -> float:
    """The best value that the search saw of a trial, which may have been stopped."""
    return sweep.direction.best(list(record.curve.values())) if record.value is None else record.value


class FinalistsStage(StageTurn):
    """Runs the finalists; a :class:`~orchestrator.runners.base.Controller`.

    Trainings begin in rounds: the first two fresh seeds of all, then one more of those still in the race. What is
    begun depends on rounds that have ended, so on no timing.

    Raises:
        NoFeasibleTrialError: the search has finished no trial.
    """

    def __init__(self, sweep: Sweep, visit: Visit) -> None:
        super().__init__(sweep, visit, ())
        config, before = sweep.config, earlier_trials(sweep, visit.key)
        self._race = config.finalists.race
        self._patience = config.finalists.patience
        self.search_epochs = config.trainer.epochs
        self.budget = round(config.finalists.budget_factor * self.search_epochs)
        self._bound = round(config.finalists.bound_factor * self.search_epochs)
        self.seeds = [shared_seed(config.seed, index) for index in range(config.finalists.seeds)]
        self.chosen = choose(sweep, before, config.finalists.top)
        self.previous = incumbent(before, sweep.direction)
        if self.previous is None:
            raise NoFeasibleTrialError(f"{visit.key}: no trial of the sweep has finished; run a search stage first")
        self._through: set[int] = set()
        self._begin()

    def _begin(self) -> None:
        sweep, key = self.sweep, self.visit.key
        tags = {"kind": "stage", "stage": self.visit.stage, "asks": self._settings.asks}
        sweep.tracker.begin(stage_key(key), SWEEP, key, {}, tags)
        listed = ", ".join(f"{r.number}{'' if r.feasible else ' (stopped)'}" for r in self.chosen)
        done = len(self.own) - len(self._resumable)
        again = f", {done} trainings done, {len(self._resumable)} to resume" if self.own else ""
        count, plural = len(self.seeds), "s of trials" if len(self.chosen) > 1 else " of trial"
        few = len(self.chosen) < sweep.config.finalists.top
        fewer = f" (finalists.top={sweep.config.finalists.top}: the search tried no more)" if few else ""
        sweep.progress.say(
            f"[{key}] {self._settings.asks} the configuration{plural} {listed}{fewer}, each with {count} fresh "
            f"seed{'s' if count > 1 else ''} and {self.budget} epochs, up to {self._bound} while they improve{again}"
        )

    def cell(self, finalist: TrialRecord, index: int) -> TrialRecord | None:
        """The training of ``finalist`` with fresh seed ``index``, or :data:`OWN`; None if it has not begun."""
        seed = finalist.seed if index == OWN else self.seeds[index]
        own = (record for record in self.records if record.repeats == finalist.number and record.seed == seed)
        return next(own, None)

    def costs(self, finalist: TrialRecord) -> list[float]:
        """Costs with the first fresh seeds, up to the first that is not complete."""
        found: list[float] = []
        for index in range(len(self.seeds)):
            record = self.cell(finalist, index)
            if record is None or not record.feasible or record.value is None:
                break
            found.append(self.sweep.direction.cost(record.value))
        return found

    def failure(self, finalist: TrialRecord) -> TrialRecord | None:
        """Its first infeasible training: who fails with one seed is no winner."""
        cells = (self.cell(finalist, index) for index in range(len(self.seeds)))
        return next((record for record in cells if record and record.state is TrialState.INFEASIBLE), None)

    def racing(self, rounds: int) -> list[TrialRecord]:
        """Those that are still in the race when ``rounds`` fresh seeds of them are through."""
        left = list(self.chosen)
        for count in range(_ROUND, rounds + 1):
            left = [finalist for finalist in left if self.failure(finalist) is None]
            costs = {finalist.number: self.costs(finalist)[:count] for finalist in left}
            through = {number: values for number, values in costs.items() if len(values) == count}
            out = losers(through, self._race) if self._race else set()
            left = [finalist for finalist in left if finalist.number not in out]
        return left

    @property
    def rounds(self) -> list[list[int]]:
        """Which seeds are begun together; what is dropped is decided between them."""
        count = len(self.seeds)
        found = [list(range(min(_ROUND, count))), *([index] for index in range(_ROUND, count))]
        found[-1].append(OWN)
        return found

    def ask(self) -> TrialSpec | None:
        """See :class:`~orchestrator.runners.base.Controller`."""
        if self._resumable:
            return self._hand_out(self.sweep.study[self._resumable.pop(0)])
        if self.late:
            return None
        for seeds in self.rounds:
            racing = self.racing(seeds[0])
            for index in seeds:
                for finalist in racing:
                    if self.cell(finalist, index) is None and self._worth(finalist, index):
                        return self._hand_out(self._start(finalist, index))
            if self._begun:
                return None
        return None

    def _worth(self, finalist: TrialRecord, index: int) -> bool:
        """Whether to train that seed: the search's own tells nothing new, so only where it is cheap."""
        return index != OWN or self._parent(finalist, finalist.seed) is not None

    def _start(self, finalist: TrialRecord, index: int) -> TrialRecord:
        seed = finalist.seed if index == OWN else self.seeds[index]
        schedule = from_flat(finalist.configuration).schedule
        covered = self.search_epochs if _lasts(finalist) else self.budget
        goes_on = multiplier(schedule, covered, covered) > 0
        record = self.sweep.study.start(
            finalist.configuration,
            stage=self.visit.key,
            seed=seed,
            epochs=self._bound if goes_on else self.budget,
            parent=self._parent(finalist, seed),
            repeats=finalist.number,
            schedule_epochs=covered,
        )
        self.own.append(record.number)
        return record

    def _parent(self, finalist: TrialRecord, seed: int) -> TrialRecord | None:
        """The training of the search that one with ``seed`` continues; None: it begins anew."""
        if not _lasts(finalist):
            return None
        same = (
            record
            for record in searched(self.sweep.study.records)
            if record.configuration == finalist.configuration and record.seed == seed and record.feasible
        )
        return next((record for record in same if self.sweep.promotable(record.number)), None)

    def report(self, number: int, result: EpochResult) -> Decision:
        """See :class:`~orchestrator.runners.base.Controller`."""
        record = self._note(number, result)
        if result.epoch >= record.epochs:
            return Decision.CONTINUE
        if result.epoch >= self.budget and not self._may_improve(record, result.epoch):
            self._through.add(number)
            return Decision.STOP
        return Decision.STOP if self.late else Decision.CONTINUE

    def _may_improve(self, record: TrialRecord, epoch: int) -> bool:
        """Whether its best epoch so far is so late that a better one may come."""
        # Not the whole curve: after a kill, a training reports again what is known already.
        known = {at: value for at, value in record.curve.items() if at <= epoch}
        best = min(known, key=lambda at: (self.sweep.direction.cost(known[at]), at))
        return epoch < self._patience * best

    def _end_of(self, number: int, outcome: Outcome) -> tuple[TrialState, Reason | None]:
        if outcome.end is End.STOPPED and number in self._through:
            return TrialState.COMPLETE, None
        return super()._end_of(number, outcome)

    def trainings(self, finalist: TrialRecord) -> list[TrialRecord]:
        """Its complete trainings with fresh seeds, the best by validation first."""
        own = [
            record for record in self.records if record.repeats == finalist.number and record.seed != finalist.seed
        ]
        return list(ranked(own, self.sweep.direction))

    def _kept(self) -> Collection[int]:
        best = [trained[0].number for finalist in self.chosen if (trained := self.trainings(finalist))]
        return {*super()._kept(), *best, *(finalist.number for finalist in self.chosen)}

    def _status(self) -> str:
        done = sum(record.state.finished for record in self.records)
        most = len(self.chosen) * (len(self.seeds) + 1)
        return f"[{self.visit.key}] {done} of at most {most} trainings done, {self.running} running"


def _lasts(record: TrialRecord) -> bool:
    """Whether its learning rate stays as it is after the warm-up, however long it is trained."""
    return record.configuration.get("schedule.kind", "constant") == "constant"
