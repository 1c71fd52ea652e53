"""New configurations to choose from, as places: around the best within a stage's focus, and from anywhere."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import qmc

from orchestrator.study.encoding import Encoding
from orchestrator.study.space import SearchSpace
from orchestrator.study.surrogate import Array
from orchestrator.types import Configuration

_LOCAL = 0.15
"""Standard deviation of a step around a good value, as a share of the searched range (search.md, 3)."""
_REACH = 0.15
"""How far beyond the searched range proposals go when the best one lies at its end: our guess."""


@dataclass(frozen=True)
class Focus:
    """What a stage may propose."""

    varies: Sequence[str]
    """Searched over their whole range."""
    windows: Mapping[str, float]
    """Tuned before and again: half-width of the window, as a share of the searched range."""
    singly: bool = False
    """Change one of ``varies`` at a time: each is kept only if it helps by itself."""
    opens: bool = True
    """Whether the windows may be opened where the incumbent looks poor."""
    closes: bool = False
    """Whether to train the most promising one to its end when the stage's budget runs out."""
    rungs: Sequence[int] = ()
    """Epochs at which a trial may be stopped."""


class Candidates:
    """Draws them.

    Args:
        encoding: of the search space.
        base: gives the optimizer, where it is not searched.
        focus: what the stage may propose.
        count: how many are drawn each time.
    """

    def __init__(self, encoding: Encoding, base: Configuration, focus: Focus, count: int) -> None:
        self._encoding = encoding
        self._base = base
        self._focus = focus
        self._count = count

    def _limits(self, bases: Array) -> tuple[Array, Array]:
        """The ends of what is proposed: the searched range, and a step beyond the best where that is at an end."""
        choices = np.array([len(item.choices) - 1 if item.is_choice else 1 for item in self._encoding.items])
        low = np.minimum(0.0, bases[0] - _REACH)
        high = np.maximum(choices, np.where(choices == 1, bases[0] + _REACH, choices))
        return np.maximum(low, self._encoding.bounds[:, 0]), np.minimum(high, self._encoding.bounds[:, 1])

    def around(self, bases: Array, rng: np.random.Generator) -> Array:
        """New places within the stage's focus."""
        count = self._count
        before = bases[rng.integers(len(bases), size=count)]
        places = before.copy()
        low, high = self._limits(bases)
        asked = self._asked(rng, count)
        for position, item in enumerate(self._encoding.items):
            if item.name in self._focus.varies:
                moved = self._drawn(position, before[:, position], low, high, rng)
                places[:, position] = np.where(asked[position], moved, places[:, position])
            elif item.name in self._focus.windows and not item.is_choice:
                reach = self._focus.windows[item.name] * rng.uniform(-1, 1, count) * (rng.random(count) < 0.7)
                places[:, position] += reach
        followed = self._encoding.follow(before, places, self._base.get("optimizer.name") == "sgd")
        places = np.where((rng.random(count) < 0.5)[:, None], followed, places)
        return np.clip(places, low, high)

    def _asked(self, rng: np.random.Generator, count: int) -> dict[int, Array]:
        """For each varied hyperparameter, in which candidates it is changed: one of them at least."""
        positions = [self._encoding.index[name] for name in self._focus.varies]
        one = rng.integers(len(positions), size=count)
        also = rng.random((len(positions), count)) < (0.0 if self._focus.singly else 0.25)
        return {position: (one == order) | also[order] for order, position in enumerate(positions)}

    def _drawn(self, position: int, before: Array, low: Array, high: Array, rng: np.random.Generator) -> Array:
        """New places of one hyperparameter: half anywhere, half near where it was."""
        count = len(before)
        if self._encoding.items[position].is_choice:
            return rng.integers(len(self._encoding.items[position].choices), size=count).astype(float)
        anywhere = rng.uniform(low[position], high[position], count)
        return np.where(rng.random(count) < 0.5, anywhere, before + _LOCAL * rng.normal(size=count))

    def anywhere(self, bases: Array, rng: np.random.Generator) -> Array:
        """New places from the whole space, half of them near the best."""
        count = self._count
        low, high = self._limits(bases)
        places = bases[rng.integers(len(bases), size=count)].copy()
        near = rng.random(count) < 0.5
        for position, item in enumerate(self._encoding.items):
            if item.is_choice:
                drawn = rng.integers(len(item.choices), size=count).astype(float)
                local = np.where(rng.random(count) < 0.2, drawn, places[:, position])
            else:
                drawn = rng.uniform(low[position], high[position], count)
                step = _LOCAL * rng.normal(size=count) * (rng.random(count) < 0.5)
                local = places[:, position] + step
            places[:, position] = np.where(near, local, drawn)
        return np.clip(places, low, high)


def sobol(
    space: SearchSpace, base: Configuration, names: Sequence[str], points: int, seed: int
) -> list[Configuration]:
    """``points`` space-filling configurations over ``names``, the rest as in ``base`` (scrambled Sobol, Owen
    1998)."""
    encoding = Encoding(space)
    exponent = max(0, math.ceil(math.log2(max(points, 1))))
    shares = qmc.Sobol(len(encoding.items), scramble=True, rng=seed).random_base2(exponent)[:points]
    sizes = np.array([len(item.choices) if item.is_choice else 1 for item in encoding.items])
    choice = np.array([item.is_choice for item in encoding.items])
    asked = np.array([item.name in names for item in encoding.items])
    drawn = np.where(choice, np.minimum(np.floor(shares * sizes), sizes - 1), shares)
    places = np.where(asked, drawn, encoding.place(base))
    return [encoding.configuration(place, base) for place in encoding.snap(places)]
