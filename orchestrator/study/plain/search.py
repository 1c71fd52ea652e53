"""The staged search on a plain Optuna study: whose turn it is, what to try, what to stop.

The same shape as ``stage=all``: space-filling points and a line over the first stage's hyperparameter, each
up to the first rung; then one stage after another and a joint one, in passes of growing length. Whose turn it
is follows from what the study's trials cost so far, so a restart or another process goes on where it stood.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna import Study
from optuna.trial import FrozenTrial

from orchestrator.config.schema import RecipeConfig, SamplerConfig
from orchestrator.errors import ConfigError
from orchestrator.seeds import derive_seed
from orchestrator.study.advisor import Advisor, Proposal
from orchestrator.study.candidates import Focus, sobol
from orchestrator.study.plain.space import Distributions, check_names
from orchestrator.study.plain.trials import PlainTrials, Plan, Visit
from orchestrator.types import Configuration, Direction, TrialState

OPENING: Visit = (0, 0)
JOINT = "joint"
"""Name of the last stage of each pass, which varies everything."""
_SOBOL, _LINE = 8, 7
"""Points of the opening (search.md, "what carried the gain", 2 and 3)."""
_JOINT_SHARE = 0.3
"""Of each pass (search.md, "what carried the gain", 5)."""
_RECIPE = RecipeConfig(order=(JOINT,))
_SAMPLER = SamplerConfig()


@dataclass(frozen=True)
class Settings:
    """What the user of a plain study says; see :class:`~orchestrator.study.plain.sampler.StagedSampler`."""

    epochs: int
    rungs: Sequence[int]
    stages: Sequence[Sequence[str]] | None
    start: Mapping[str, Any] | None
    space: Distributions | None
    seed: int
    first_step: int | None


class PlainSearch:
    """Decides for one study. It remembers only what it could read off the study again."""

    def __init__(self, settings: Settings, study: Study) -> None:
        self._settings = settings
        self._direction = Direction(study.direction.name.lower())
        marks = (*settings.rungs, settings.epochs)
        start = settings.start or {}
        self.trials = PlainTrials(study, settings.epochs, marks, settings.space, start, settings.first_step)
        self._current: tuple[Visit, Advisor] | None = None

    def plan(self, trial: FrozenTrial) -> Plan:
        """What trial ``trial``, which begins, is to do.

        Raises:
            ConfigError: ``start`` or ``stages`` name what the study does not have.
        """
        self._sync()
        enqueued: Mapping[str, Any] | None = trial.system_attrs.get("fixed_params")
        if not self.trials.space.distributions:
            if enqueued is not None:
                return Plan(visit=None)
            is_start = self._settings.start is not None and self.trials.is_first(trial)
            return Plan(visit=OPENING, opening=True, is_start=is_start)
        visit, opening, proposal = self._next(trial.number)
        if enqueued is not None:
            space = self.trials.space
            return Plan(visit=None, values=space.configuration({**space.params(proposal.configuration), **enqueued}))
        if proposal.parent is None:
            return Plan(visit=visit, opening=opening, values=proposal.configuration)
        return Plan(
            visit=visit,
            values=proposal.configuration,
            parent=proposal.parent,
            inherited=self.trials.records[proposal.parent].epochs_run,
            first_step=self.trials.first_steps[self.trials.stopped_at[proposal.parent]],
        )

    def goes_on(self, number: int) -> bool:
        """Whether trial ``number``, which stands at a rung, trains on."""
        self._sync()
        plans = self.trials.plans
        plan, record = plans.get(number), self.trials.records.get(number)
        visit = self._latest()
        if record is None or (plan is not None and plan.opening) or visit == OPENING:
            return False
        if all(other.opening for other in plans.values() if other.visit is not None):
            return False
        over = plan is not None and plan.visit is not None and self._used_up(plan.visit)
        return self._advisor(visit).goes_on(record, 0 if over else None)

    def label(self, visit: Visit | None) -> str:
        """What people call a stage's turn: ``lr``, ``lr@2``."""
        if visit is None:
            return "enqueued"
        if visit == OPENING:
            return "start"
        round_, index = visit
        name = "+".join(self._stages()[index]) if index < len(self._stages()) else JOINT
        return name if round_ == 1 else f"{name}@{round_}"

    def _sync(self) -> None:
        changed = self.trials.sync()
        if changed is None:
            self._current = None
            self._check_names()
        elif self._current is not None:
            for record in changed:
                self._current[1].observe(record)

    def _check_names(self) -> None:
        """Refuse misspelt names as soon as the study shows which there are."""
        check_names("start", self._settings.start or {}, self.trials.names)
        check_names("stages", [n for stage in self._settings.stages or () for n in stage], self.trials.names)

    def _stages(self) -> Sequence[Sequence[str]]:
        space = self.trials.space.distributions
        if self._settings.stages is None:
            # By name where the study gives no order: the stable sort keeps the user's own.
            return [[name] for name in sorted(space, key=lambda name: not _is_learning_rate(name))]
        return [[name for name in stage if name in space] for stage in self._settings.stages]

    def _latest(self) -> Visit:
        return max((plan.visit for plan in self.trials.plans.values() if plan.visit), default=OPENING)

    def _next(self, number: int) -> tuple[Visit, bool, Proposal]:
        refusals = 0
        for visit in self._turns():
            opening = self._opening(visit)
            if opening:
                return visit, True, Proposal(opening[0])
            if visit == OPENING or self._used_up(visit):
                continue
            proposal = self._advisor(visit).propose(number)
            if proposal is not None:
                return visit, False, proposal
            refusals += 1
            if refusals > len(self._stages()):
                break
        # Everything was tried, in every stage: a small space of choices. What is left is to repeat.
        seed = derive_seed(self._settings.seed, "again", number)
        space = self.trials.space
        [again] = sobol(space.space, space.base, list(space.distributions), 1, seed)
        return self._latest(), False, Proposal(again)

    def _turns(self) -> Iterator[Visit]:
        """The stage whose turn it was last, and those after it."""
        latest = self._latest()
        if latest == OPENING:
            yield OPENING
        for round_ in itertools.count(max(1, latest[0])):
            for index in range(len(self._stages()) + 1):
                if (round_, index) >= latest:
                    yield round_, index

    def _varies(self, visit: Visit) -> Sequence[str]:
        stages = self._stages()
        return stages[visit[1]] if visit[1] < len(stages) else list(self.trials.space.distributions)

    def _budget(self, visit: Visit) -> int:
        """Epochs that a turn may cost."""
        length = self._settings.epochs * _RECIPE.first_pass * _RECIPE.growth ** (visit[0] - 1)
        stages = self._stages()
        if visit[1] == len(stages):
            return round(length * _JOINT_SHARE)
        asking = sum(bool(stage) for stage in stages)
        return round(length * (1 - _JOINT_SHARE) / asking) if stages[visit[1]] else 0

    def _used_up(self, visit: Visit) -> bool:
        """Whether a turn has cost its share. Not counted is what came before the study's first finished
        trial, which every later stage starts from."""
        trials = self.trials
        own = [number for number, plan in trials.plans.items() if plan.visit == visit]
        since = min(own, default=0)
        finished = min((number for number, record in trials.records.items() if record.feasible), default=None)
        if finished is None:
            # With nothing to finish either, the stage is stuck where nothing works.
            stopped = any(record.state is TrialState.PRUNED for record in trials.records.values())
            since = max(trials.plans) + 1 if stopped else since
        elif own and finished >= since:
            since = finished + 1
        return sum(trials.paid[number] for number in own if number >= since) >= self._budget(visit)

    def _opening(self, visit: Visit) -> list[Configuration]:
        """What a turn begins with and has not tried yet, each up to the first rung."""
        own = [number for number, plan in self.trials.plans.items() if plan.visit == visit and plan.opening]
        if visit == OPENING:
            points, found = self._points()
        elif visit == (1, 0):
            points, found = _LINE, self._line(own)
        else:
            return []
        if len(own) >= points:
            return []
        tried = [record.configuration for record in self.trials.records.values()]
        return self._advisor((1, 0)).likeliest([item for item in found if item not in tried])

    def _points(self) -> tuple[int, list[Configuration]]:
        space = self.trials.space
        seed = derive_seed(self._settings.seed, "sobol")
        has_start = self._settings.start is not None
        start = [space.base] if has_start and not self.trials.start_runs else []
        # More than are tried: instead of those that would fail.
        points = sobol(space.space, space.base, list(space.distributions), 4 * _SOBOL, seed)
        return has_start + _SOBOL, [*start, *points]

    def _line(self, own: Sequence[int]) -> list[Configuration]:
        """Values of the first hyperparameter, evenly over its range, at the best of the points before."""
        stages = [stage for stage in self._stages() if stage]
        if not stages or self.trials.space.space[stages[0][0]].is_choice:
            return []
        name = stages[0][0]
        line = self._advisor((1, 0)).line(name, _LINE)
        begun = [self.trials.records[number].configuration for number in own if number in self.trials.records]
        # One line stays at one place, whatever its first points have taught.
        return [{**begun[0], name: point[name]} for point in line] if begun else list(line)

    def _advisor(self, visit: Visit) -> Advisor:
        if self._current is None or self._current[0] != visit:
            settings, space = self._settings, self.trials.space
            focus = Focus(varies=self._varies(visit), windows=self._windows(visit), rungs=settings.rungs)
            advisor = Advisor(
                space.space, space.base, self._direction, settings.epochs, _SAMPLER, settings.seed, focus
            )
            for number in sorted(self.trials.records):
                advisor.observe(self.trials.records[number])
            self._current = visit, advisor
        return self._current[1]

    def _windows(self, visit: Visit) -> Mapping[str, float]:
        """What earlier stages tuned, and is tuned again near the best."""
        stages = self._stages()
        before = {plan.visit[1] for plan in self.trials.plans.values() if plan.visit and OPENING < plan.visit < visit}
        tuned = [name for index in sorted(before) if index < len(stages) for name in stages[index]]
        return {name: _SAMPLER.window for name in tuned if name not in self._varies(visit)}


def _is_learning_rate(name: str) -> bool:
    """By its name: ``lr``, ``optimizer.lr``, ``sgd_lr``, ``learning_rate``, ``learning_rate_init``."""
    words = name.lower().replace(".", "_").replace("/", "_").replace("-", "_").split("_")
    return words[-1] in ("lr", "lr0") or "_".join(words).removesuffix("_init").endswith("learning_rate")


def check_settings(settings: Settings) -> None:
    """Refuse settings that no study could satisfy.

    Raises:
        ConfigError: they contradict themselves or each other.
    """
    if settings.epochs < 1:
        raise ConfigError(f"epochs={settings.epochs}: must be at least 1")
    rungs = list(settings.rungs)
    if rungs != sorted(set(rungs)) or any(not 1 <= rung < settings.epochs for rung in rungs):
        raise ConfigError(f"rungs={rungs}: must be rising epochs from 1, below epochs={settings.epochs}")
    if settings.first_step not in (None, 0, 1):
        raise ConfigError(f"first_step={settings.first_step}: must be 0, 1 or None")
    if settings.stages is not None:
        names = [name for stage in settings.stages for name in stage]
        if any(isinstance(stage, str) for stage in settings.stages) or not names:
            raise ConfigError(f"stages={settings.stages!r}: must be lists of names: [['lr'], ['batch_size']]")
