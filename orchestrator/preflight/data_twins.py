"""Statistics of equal and nearly equal examples; no check of its own."""

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import hypergeom
from torch import Tensor

from orchestrator.preflight.data_table import Floats

Prints = npt.NDArray[np.uint64]

RADII = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Distances at which nearest neighbours are counted, as shares of the median distance within training
(our choice: from a copy with 1 % noise to a copy with noise of a third of the neighbours' distance)."""


def twin_share(these: Prints, others: Prints) -> float:
    """Share of ``these`` that also occur among ``others``."""
    return float(np.isin(these, others).mean()) if len(these) else 0.0


def inner_twin_share(prints: Prints) -> float:
    """Share of examples that occur more than once."""
    _, inverse, counts = np.unique(prints, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).mean()) if len(prints) else 0.0


def conflicts(inputs: Prints, targets: Prints) -> npt.NDArray[np.bool_]:
    """For each example whether an equal input has another target."""
    _, group = np.unique(inputs, return_inverse=True)
    pairs = np.unique(np.stack([group.astype(np.int64), targets.view(np.int64)], axis=1), axis=0)
    targets_of_group = np.bincount(pairs[:, 0], minlength=int(group.max(initial=-1)) + 1)
    result: npt.NDArray[np.bool_] = targets_of_group[group] > 1
    return result


def collision_bits(table: Floats) -> float:
    """Bits of collision (Renyi-2) entropy of the features, added up as if they were independent.

    Two examples drawn at random agree in all features with probability 2 to the minus this at least.
    """
    total = 0.0
    for column in table.T:
        _, counts = np.unique(column, return_counts=True)
        total -= float(np.log2(np.square(counts / len(column)).sum()))
    return total


def nearest(these: Tensor, others: Tensor, *, same: bool, chunk: int = 512) -> Floats:
    """Euclidean distance of each of ``these`` to its nearest of ``others``; ``same``: not to itself.

    Both are (examples, features); float64 would be slow, and float32's cancellation is far below the
    radii looked at because close pairs are measured again exactly.
    """
    found = []
    for start in range(0, len(these), chunk):
        part = these[start : start + chunk]
        distances = torch.cdist(part, others)
        if same:
            distances[torch.arange(len(part)), torch.arange(start, start + len(part))] = torch.inf
        index = distances.argmin(dim=1)
        found.append((part.double() - others[index].double()).norm(dim=1))
    result: Floats = torch.cat(found).numpy()
    return result


def more_often(hits: int, count: int, usual: int, base: int) -> float:
    """One-sided p-value (Fisher) of ``hits`` of ``count`` where ``usual`` of ``base`` are the rule."""
    return float(hypergeom.sf(hits - 1, count + base, hits + usual, count))


def excess(validation: Floats, train: Floats) -> tuple[float, float]:
    """How much more often validation examples lie very close to training than training examples to each other.

    Both hold nearest-neighbour distances. Returns the largest excess share over ``RADII`` and its
    one-sided Fisher p-value, times the number of radii. A random split has an excess near 0 whatever
    the data, because the two parts are exchangeable.
    """
    unit = float(np.median(train))
    best = (0.0, 1.0)
    for radius in RADII:
        close, usual = int((validation < radius * unit).sum()), int((train < radius * unit).sum())
        p = more_often(close, len(validation), usual, len(train)) * len(RADII)
        share = close / len(validation) - usual / len(train)
        if share > 0 and p < best[1]:
            best = (share, p)
    return best
