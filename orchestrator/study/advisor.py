"""What to do next: start a new configuration for an epoch or so, or train a stopped one further.

Both are judged alike, by the expected improvement of the cost at the end of the budget (Jones et al. 1998,
eq. 15) under one surrogate of everything the sweep has seen. That is freeze-thaw (Swersky et al. 2014, arXiv
1406.3896), with rungs in place of single epochs. A stage restricts what is *proposed*, never what is known:
new configurations lie around the few best ones, with the stage's hyperparameters varied over their whole
range and those tuned before within a window. Where configurations from anywhere promise more than ``open``
times as much, the windows are opened.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.config.schema import SamplerConfig
from orchestrator.seeds import derive_seed
from orchestrator.study.acquisition import log_expected_improvement
from orchestrator.study.candidates import Candidates, Focus
from orchestrator.study.encoding import Encoding
from orchestrator.study.feasibility import LIKELY, Feasibility
from orchestrator.study.knowledge import BASES, Belief, Knowledge
from orchestrator.study.pruners import next_rung, warming_up
from orchestrator.study.records import TrialRecord
from orchestrator.study.space import SearchSpace
from orchestrator.study.surrogate import Array
from orchestrator.study.threads import on_one_thread
from orchestrator.types import Configuration, Direction, TrialState

_LABELS = 400
"""Trainings from which it is learnt where trials fail, the latest ones: our guess."""
_GOOD = 1 / 3
"""The sweep's first configuration is kept as the base of a line if no more than this share of all were better
after its first epochs (search.md: "if it ranks among the best of them after an epoch"; the share is our guess):
somebody chose it, and one epoch says little of the others."""
_BESIDE = 2
"""From so many other trainings under way, the sweep's first configuration is finished beside them, if it is good. On
two workers that cost at 1 and 2 full trainings about what it brought at 5 (6 instances of benchmarks/search.py)."""
_COPY = 0.9
"""Likeness to a running trial from which a place counts less, in proportion to what is left to 1. The believed
outcome of that trial alone does not keep near-copies away, and eight workers filled up with them. Chosen among 0.7
to 0.98 on 6 instances of benchmarks/search.py, 8 workers, one seed. Where costs are smooth, all good places are
alike: to bar them would leave corners that promise nothing."""
_SAME = 1e-9
"""Least difference of two places that is told from none."""
_LOOK = 3
"""Full trainings' worth of epochs in which looking around counts as much as going on."""
_LEAN = 0.6
"""What the gain of a new training is multiplied by afterwards. Its first epochs do not settle how it will end: there
would always be another one that promises slightly more than what was stopped, and little would be finished. With it
the logarithm of cost over optimum at 5, 10, 20 full trainings went from 0.42, 0.26, 0.12 to 0.33, 0.17, 0.07 on a
first draft of benchmarks/landscapes.py; from the beginning it would cost 0.04 of regret at 2 full trainings on
benchmarks/search.py."""
_SHRUNK = 40
"""How many of the most promising configurations are made smaller where memory runs out: our guess."""


@dataclass(frozen=True)
class Proposal:
    """The next trial."""

    configuration: Configuration
    parent: int | None = None
    """The stopped trial to continue; None for a new configuration."""


@dataclass(frozen=True)
class _Options:
    """New configurations side by side."""

    places: Array
    gains: Array
    """Logarithm of the expected improvement of each, shape (rows,)."""
    opened: bool = False
    """Whether they come from the whole space rather than from the stage's focus."""


class Advisor:
    """Decides for one stage.

    Args:
        space: all hyperparameters of the sweep.
        base: configuration that gives every value that is not searched.
        direction: of the objective.
        epochs: budget of a trial.
        config: settings.
        seed: of the sweep.
        focus: what the stage may propose.
        resumable: whether a stopped trial, by its number, can be continued.
    """

    def __init__(
        self,
        space: SearchSpace,
        base: Configuration,
        direction: Direction,
        epochs: int,
        config: SamplerConfig,
        seed: int,
        focus: Focus,
        resumable: Callable[[int], bool] = lambda number: True,
    ) -> None:
        self._resumable = resumable
        self._space = space
        self._encoding = Encoding(space)
        self._base = base
        self._direction = direction
        self._epochs = epochs
        self._config = config
        self._seed = seed
        self._focus = focus
        self._candidates = Candidates(self._encoding, base, focus, config.candidates)
        self._known = Knowledge(self._encoding, direction, epochs, tuple(r for r in focus.rungs if r < epochs))
        self._targets: dict[tuple[int, int], int] = {}
        self.opened = 0
        """How many proposals came from the whole space."""

    def observe(self, record: TrialRecord) -> None:
        """Take in a trial of whatever stage as it stands now."""
        self._known.observe(record)

    @on_one_thread
    def propose(self, number: int, left: int | None = None) -> Proposal | None:
        """The trial ``number`` of the sweep; None if nothing is affordable.

        Args:
            number: seeds what is drawn. No later trial is continued: where several threads ask, a trial may have
                begun and been stopped before an earlier one is decided about.
            left: epochs that the stage may still begin; None: as many as it likes.
        """
        belief = self._believe()
        rng = np.random.default_rng(derive_seed(self._seed, "advise", number))
        if belief is None:
            return self._new(self._unseen(rng), left)
        earlier = (root for root in self._promotable(belief) if self._known.trainings[root].last.number < number)
        stopped = [root for root in earlier if self._affords(root, left)]
        urgent = self._urgent(belief, stopped, left)
        if urgent is not None:
            return self._promotion(urgent)
        old = _gains_of(belief, stopped)
        new = self._options(belief, rng)
        best_old = max(range(len(stopped)), key=lambda i: old[i], default=None)
        if best_old is not None and old[best_old] >= new.gains.max() + self._lean():
            return self._promotion(stopped[best_old])
        found = self._new(new, left)
        if found is not None:
            self.opened += new.opened
            return found
        return self._promotion(stopped[best_old]) if best_old is not None else None

    @on_one_thread
    def goes_on(self, record: TrialRecord, left: int | None = None) -> bool:
        """Whether ``record``, which has just reported, is the best use of its worker.

        Args:
            record: a running trial that stands at a rung.
            left: epochs that the stage may still begin.
        """
        root = self._known.root(record.number)
        if warming_up(record):
            return True
        belief = self._believe(without=root)
        if belief is None or root not in belief.seen or not self._affords(root, left):
            return False
        if self._closing(left):
            return root == _most_promising(belief, [root, *self._promotable(belief)])
        if not self.any_complete():
            beside = [other for other in self._running(belief) if other != root]
            if len(beside) >= _BESIDE and root == self._good_start():
                return True
            return root == self._furthest(belief, [root, *self._promotable(belief), *beside])
        rng = np.random.default_rng(derive_seed(self._seed, "go on", record.number, record.epochs_run))
        others = [other for other in self._promotable(belief) if other != root]
        rivals = [float(self._options(belief, rng).gains.max()) + self._lean(), *_gains_of(belief, others)]
        return bool(_gains_of(belief, [root])[0] >= max(rivals))

    @on_one_thread
    def seed_noise(self, value: float) -> float | None:
        """The surrogate's estimate of the standard deviation between seeds around ``value``."""
        belief = self._believe()
        return None if belief is None else belief.seed_noise(value)

    def _lean(self) -> float:
        """What is added to the gain of a new training, as a logarithm, before it is compared with going on."""
        spent = sum(training.epochs for training in self._known.trainings.values())
        return math.log(_LEAN) if spent >= _LOOK * self._epochs else 0.0

    def _believe(self, without: int | None = None) -> Belief | None:
        running = sorted(self._known.by_state[TrialState.RUNNING] - {without})
        return self._known.believe({root: self._target(root) for root in running})

    @on_one_thread
    def likeliest(self, configurations: Sequence[Configuration]) -> list[Configuration]:
        """Those that will hardly fail, by what has failed so far; if there is none, that with the best chance."""
        chances = self._chances(configurations)
        found = [item for item, chance in zip(configurations, chances, strict=True) if chance >= LIKELY]
        return found or [configurations[at] for at in np.argsort(-chances)[:1]]

    @on_one_thread
    def likely(self, configuration: Configuration) -> bool:
        """Whether it will hardly fail, by what has failed so far."""
        return bool(self._chances([configuration])[0] >= LIKELY)

    def _chances(self, configurations: Sequence[Configuration]) -> Array:
        feasible = self._feasibility()
        if feasible is None or not configurations:
            return np.ones(len(configurations))
        return feasible.probability(np.array([self._encoding.place(item) for item in configurations]))

    def any_complete(self) -> bool:
        """Whether any trial of the sweep was trained to its end."""
        return bool(self._known.by_state[TrialState.COMPLETE])

    def _closing(self, left: int | None) -> bool:
        return self._focus.closes and left is not None and left < 1.5 * self._epochs

    def _urgent(self, belief: Belief, stopped: Sequence[int], left: int | None) -> int | None:
        """Of those stopped the one to finish before anything else: the sweep needs a first finished one early, and a
        stage should not end with its best unfinished. Where other workers are on their way to a first finished one,
        the sweep's first configuration too, if it is good: else all of eight workers train what learns fast at
        first, and it takes a full training to see that this is not what ends best."""
        if not self.any_complete():
            running = self._running(belief)
            best = self._furthest(belief, [*stopped, *running])
            if best in running and len(running) >= _BESIDE:
                best = self._good_start()
        elif self._closing(left):
            complete = [root for root in belief.seen if root in self._known.by_state[TrialState.COMPLETE]]
            best = _most_promising(belief, [*stopped, *complete, *self._running(belief)])
        else:
            return None
        return best if best in stopped else None

    def _furthest(self, belief: Belief, roots: Sequence[int]) -> int | None:
        """The one to finish first: of the most promising quarter of ``roots`` the one that was trained longest."""
        means = belief.means
        ordered = sorted(set(roots), key=lambda root: means[belief.seen[root]])
        best = ordered[: max(BASES, len(ordered) // 4)]
        return max(best, key=lambda root: self._known.trainings[root].epochs, default=None)

    def _good_start(self) -> int | None:
        """The sweep's first training, if few others were better after its first epochs; else None."""
        first = min(self._known.trainings)
        rank = self._known.rank(first, next_rung(self._focus.rungs, self._base, 0, self._epochs))
        return first if rank is not None and rank < _GOOD else None

    def _running(self, belief: Belief) -> list[int]:
        """Trainings under way that have reported."""
        return [root for root in self._known.by_state[TrialState.RUNNING] if root in belief.seen]

    def _promotion(self, root: int) -> Proposal:
        last = self._known.trainings[root].last
        return Proposal(last.configuration, parent=last.number)

    def _promotable(self, belief: Belief) -> list[int]:
        """Trainings that were stopped and can be continued."""
        found = ((root, self._known.trainings[root]) for root in belief.seen)
        return [root for root, training in found if training.promotable and self._resumable(training.last.number)]

    def _target(self, root: int) -> int:
        training = self._known.trainings[root]
        key = root, training.epochs
        if key not in self._targets:
            self._targets[key] = next_rung(self._focus.rungs, training.last.configuration, key[1], self._epochs)
        return self._targets[key]

    def affords(self, configuration: Configuration, left: int | None) -> bool:
        """Whether a new trial of it may begin when the stage may begin ``left`` epochs."""
        target = next_rung(self._focus.rungs, configuration, 0, self._epochs)
        return left is None or target + self._kept(None, target) <= left

    def _affords(self, root: int, left: int | None) -> bool:
        """Whether a training may go on to its next rung."""
        target = self._target(root)
        cost = target - self._known.trainings[root].epochs
        return left is None or cost + self._kept(root, target) <= left

    def _kept(self, root: int | None, target: int) -> int:
        """Epochs that a stage by itself keeps to finish a first trial, once ``root`` has come to ``target``."""
        if not self._focus.closes or self.any_complete():
            return 0
        others = [(r, t) for r, t in self._known.trainings.items() if r != root]
        stopped = [t.epochs for _, t in others if t.promotable]
        running = [self._target(r) for r, t in others if not t.last.state.finished]
        return self._epochs - max([target, *stopped, *running])

    def _options(self, belief: Belief, rng: np.random.Generator) -> _Options:
        """New configurations: those of the focus, or from anywhere where these promise more (``open``)."""
        bases = _bases(belief)
        feasible = self._feasibility()
        inside = self._judged(belief, self._candidates.around(bases, rng), feasible)
        if not self._focus.opens:
            return inside
        outside = self._judged(belief, self._candidates.anywhere(bases, rng), feasible)
        if outside.gains.max() > math.log(self._config.open) + inside.gains.max():
            return replace(outside, opened=True)
        return inside

    def _judged(self, belief: Belief, places: Array, feasible: Feasibility | None) -> _Options:
        places = self._encoding.snap(places)
        gains = self._promised(belief, places)
        if feasible is None:
            return _Options(places, gains)
        if self.any_complete():
            best = np.argsort(-gains, kind="stable")[:_SHRUNK]
            smaller = feasible.smaller(places[best])
            places, gains = (
                np.concatenate([places, smaller]),
                np.concatenate([gains, self._promised(belief, smaller)]),
            )
        return _Options(places, feasible.worth(gains, places, self.any_complete()))

    def _promised(self, belief: Belief, places: Array) -> Array:
        """Gains of new configurations that do not fail, shape (rows,)."""
        inputs = self._encoding.inputs(places)
        return _beside_pending(belief, inputs, _gains(belief, *belief.of_new(inputs)))

    def _feasibility(self) -> Feasibility | None:
        """Where configurations are feasible; None while nothing failed and no memory was measured."""
        known = self._known
        if not known.by_state[TrialState.INFEASIBLE] and not known.measured:
            return None
        ended = self._known.newest(_LABELS)
        return Feasibility(self._encoding, np.array([t.place for t in ended]), [t.last for t in ended])

    def _new(self, options: _Options, left: int | None) -> Proposal | None:
        """The most promising option that was not tried before and is affordable."""
        if left is not None and left < min(self._focus.rungs, default=self._epochs):
            return None
        for index in np.argsort(-options.gains, kind="stable"):
            configuration = self._encoding.configuration(options.places[index], self._base)
            if self.affords(configuration, left) and not self._known.tries(self._encoding.place(configuration)):
                return Proposal(configuration)
        return None

    def _unseen(self, rng: np.random.Generator) -> _Options:
        """Before anything is known: the stage's hyperparameters at random, the rest as in the base."""
        start = self._encoding.place(self._base)[None, :]
        places = self._encoding.snap(self._candidates.around(start, rng))
        feasible = self._feasibility()
        return _Options(places, np.zeros(len(places)) if feasible is None else feasible.probability(places))

    def line(self, name: str, points: int) -> list[Configuration]:
        """``points`` values of one hyperparameter, evenly over its range: at the sweep's first configuration if that
        is good, else at the most promising one."""
        start = self._best_place()
        places = np.repeat(start[None, :], points, axis=0)
        places[:, self._encoding.index[name]] = (np.arange(points) + 0.5) / points
        return [self._encoding.configuration(place, self._base) for place in self._encoding.snap(places)]

    def _best_place(self) -> Array:
        belief = self._believe()
        if belief is None:
            return self._encoding.place(self._base)
        start = self._good_start()
        return np.asarray(_bases(belief)[0]) if start is None else self._known.trainings[start].place


def _bases(belief: Belief) -> Array:
    """The places of the best few, shape (at most ``BASES``, hyperparameters)."""
    return belief.places[belief.best(BASES)]


def _most_promising(belief: Belief, roots: Sequence[int]) -> int | None:
    """The training with the best posterior mean among ``roots``, which were seen; None of none."""
    return min(roots, key=lambda root: belief.means[belief.seen[root]], default=None)


def _gains_of(belief: Belief, roots: Sequence[int]) -> Array:
    """Logarithm of the expected improvement of trainings that were seen, shape (roots,)."""
    positions = np.array([belief.seen[root] for root in roots], dtype=np.int64)
    if not len(positions):
        return np.empty(0)
    return _beside_pending(belief, belief.inputs[positions], _gains(belief, *belief.of_seen(positions)))


def _beside_pending(belief: Belief, inputs: Array, gains: Array) -> Array:
    """``gains`` at ``inputs``, less beside a running trial that tells nearly the same, shape (rows,)."""
    different = np.maximum(1 - belief.likeness_to_pending(inputs), _SAME)
    return gains + np.minimum(np.log(different / (1 - _COPY)), 0.0)


def _gains(belief: Belief, mean: Array, deviation: Array) -> Array:
    """Logarithm of the expected improvement over the best posterior mean."""
    return log_expected_improvement(mean, deviation, float(belief.means.min()))
