"""From arrays to splits: stratified division and scaling by training statistics."""

from collections.abc import Mapping

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import TensorDataset

from orchestrator.tasks.base import Splits

SHARES = (0.6, 0.2, 0.2)
"""Training, validation and test shares of every shipped task (our choice)."""


def divide(examples: int, seed: int, strata: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Disjoint random index sets of the sizes in ``SHARES``, stratified by ``strata`` if given."""
    rest_share = SHARES[1] + SHARES[2]
    train, rest = train_test_split(np.arange(examples), test_size=rest_share, random_state=seed, stratify=strata)
    validation, test = train_test_split(
        rest,
        test_size=SHARES[2] / rest_share,
        random_state=seed,
        stratify=None if strata is None else strata[rest],
    )
    return train, validation, test


def standardised(values: np.ndarray, train: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and deviation 1 over the rows ``train``; near-constant columns are only centred."""
    statistics = column_statistics(values, train)
    scaled: np.ndarray = (values - statistics["mean"].numpy()) / statistics["deviation"].numpy()
    return scaled


def column_statistics(values: np.ndarray, train: np.ndarray) -> Mapping[str, Tensor]:
    """``mean`` and ``deviation`` of each column over the rows ``train``; near-constant columns have deviation 1."""
    mean, deviation = values[train].mean(axis=0), values[train].std(axis=0)
    return {"mean": torch.as_tensor(mean), "deviation": torch.as_tensor(np.where(deviation > 1e-6, deviation, 1.0))}


def standardised_by(statistics: Mapping[str, Tensor], values: Tensor) -> Tensor:
    """``values`` less the ``mean``, over the ``deviation``: in float64, given as float32."""
    return ((values.double() - statistics["mean"]) / statistics["deviation"]).float()


def tensor_splits(
    inputs: np.ndarray | Tensor, targets: np.ndarray, parts: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> Splits:
    """The three parts as data sets of float32 inputs; whole-number targets stay whole."""
    whole = np.issubdtype(targets.dtype, np.integer)
    kind = torch.int64 if whole else torch.float32
    sets = [
        TensorDataset(torch.as_tensor(inputs[part], dtype=torch.float32), torch.as_tensor(targets[part], dtype=kind))
        for part in parts
    ]
    return Splits(*sets)
