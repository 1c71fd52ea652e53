"""Classical models from scikit-learn on flattened examples, behind one door; no check of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from orchestrator.preflight.data_table import Floats, Integers

FOLDS = 4
"""Parts of a cross-validation (preflight.md)."""


def out_of_fold(table: Floats, labels: Integers, trees: int = 60) -> Floats:
    """Class probabilities of each example by forests that did not see it, (examples, classes).

    Extremely randomised trees with leaves of 3 (Geurts et al. 2006): they need no scaling, and wrong
    labels average out in their leaves. ``labels`` must be 0 ... classes-1, each at least ``FOLDS`` times.
    """
    forest = ExtraTreesClassifier(trees, min_samples_leaf=3, random_state=0, n_jobs=1)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    result: Floats = cross_val_predict(forest, table, labels, cv=folds, method="predict_proba")
    return result


def forest_of(
    versions: Sequence[Floats], labels: Integers, judged: Sequence[Floats], trees: int = 40
) -> list[Floats]:
    """As :func:`out_of_fold`, trained on several versions of each example and judged on each of ``judged``.

    No version of an example is in the training of the forest that predicts it.
    """
    results = [np.zeros((len(labels), int(labels.max()) + 1)) for _ in judged]
    for train, rest in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(judged[0], labels):
        forest = ExtraTreesClassifier(trees, min_samples_leaf=3, random_state=0, n_jobs=1)
        forest.fit(np.concatenate([version[train] for version in versions]), np.tile(labels[train], len(versions)))
        for result, table in zip(results, judged, strict=True):
            result[rest] = forest.predict_proba(table[rest])
    return results


def tree_skill(column: Floats, labels: Integers) -> float:
    """How well one feature alone tells a class from the rest, out of fold: 0 is chance, 1 is perfect.

    Twice the balanced accuracy of a tree of depth 4, minus 1; ``labels`` are 0 and 1.
    """
    tree = DecisionTreeClassifier(max_depth=4, class_weight="balanced", random_state=0)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    predicted = cross_val_predict(tree, column[:, None], labels, cv=folds)
    recalls = [float((predicted[labels == label] == label).mean()) for label in (0, 1)]
    return sum(recalls) - 1.0


def bin_skill(table: Floats, labels: Integers, classes: int, bins: int = 16) -> Floats:
    """For every class and feature, how well quantile bins of the feature tell the class from the rest.

    In sample, so a little optimistic: meant to choose candidates for :func:`tree_skill`. The sum over
    bins of the larger of the two shares, minus 1. Shape (classes, features).
    """
    result = np.zeros((classes, table.shape[1]))
    totals = np.bincount(labels, minlength=classes).astype(float)
    for feature, column in enumerate(table.T):
        edges = np.unique(np.quantile(column, np.linspace(0, 1, bins + 1)[1:-1]))
        place = np.searchsorted(edges, column, side="left")
        counts = np.zeros((classes, bins + 1))
        np.add.at(counts, (labels, place), 1.0)
        own = counts / np.maximum(totals, 1)[:, None]
        rest = (counts.sum(axis=0) - counts) / np.maximum(totals.sum() - totals, 1)[:, None]
        result[:, feature] = np.maximum(own, rest).sum(axis=1) - 1.0
    return result


@dataclass(frozen=True)
class Noise:
    """What out-of-fold predictions say about wrong labels."""

    floor: float
    """Error among the 30 % most confident predictions: with wrong labels it does not fall to 0."""
    error: float
    """Error of all predictions."""
    skill: float
    """1 - error / error of the most frequent class."""
    flatness: float
    """Error among the more confident half of the predictions over that among the other half."""
    count: int
    """Number of most confident predictions."""


CONFIDENT = 0.3
"""Share of the predictions taken as sure. Measured on 11 healthy tasks: error among them 0 to 0.13; with 30 % of
the labels changed 0.16 to 0.47."""


def noise_of(probabilities: Floats, labels: Integers) -> Noise:
    """The floor of the error where the classifier is surest."""
    wrong = probabilities.argmax(axis=1) != labels
    count = max(1, int(CONFIDENT * len(labels)))
    ranked = wrong[np.argsort(-probabilities.max(axis=1), kind="stable")]
    first, second = ranked[: len(ranked) // 2].mean(), ranked[len(ranked) // 2 :].mean()
    chance = 1.0 - float(np.bincount(labels).max()) / len(labels)
    error = float(wrong.mean())
    skill = 1.0 - error / chance if chance > 0 else 0.0
    return Noise(float(ranked[:count].mean()), error, skill, float(first / max(second, 1e-9)), count)
