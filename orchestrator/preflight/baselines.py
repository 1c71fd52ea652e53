"""Classical models on flattened inputs, scored by the task's own scores: what a network should beat."""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.data_labels import no_finite_table
from orchestrator.preflight.data_table import Floats, Integers, Part, part, rows
from orchestrator.preflight.forms import Encoding, Form, Kind
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Baseline, Explanation, Finding, Severity, judged
from orchestrator.preflight.subject import Subject

TREES = 40
"""Boosting rounds (our choice: seconds on 5,000 examples; enough to beat a constant where there is signal)."""

Predictor = Callable[[Floats], Floats]
"""From a table (examples, features) to probabilities (examples, classes) or values (examples, targets)."""


@dataclass(frozen=True)
class Model:
    """A classical model: its name, and how it is fitted."""

    name: str
    fit: Callable[[Floats, Floats], Predictor]


def no_answers(subject: Subject) -> str | None:
    """Reason where it is not known what an answer looks like."""
    if subject.task.mixes_batch or (subject.form.kind is Kind.OTHER and _values_shape(subject) is None):
        return "outputs and targets are neither classes, labels nor values"
    return None


def _values_shape(subject: Subject) -> torch.Size | None:
    """Shape of one example's predictions, where they are numbers like the targets; None otherwise."""
    inputs, targets = subject.validation_examples(2)
    made = subject.task.predictions(subject.outputs(subject.new_model(), inputs).float())
    alike = targets.is_floating_point() and made.is_floating_point() and made.numel() == targets.numel()
    return made.shape[1:] if alike else None


@check(
    name="baselines",
    group="learn",
    title="classical models are measured, and they beat a constant",
    source="recipe.md B27, B28, B29; preflight.md (classical baseline)",
    applies=(no_answers, no_finite_table),
)
def baselines(subject: Subject, settings: CheckSettings) -> Finding:
    """Fill the table of baselines. INFO where no classical model beats the constant answer; never more."""
    limits = settings.baselines
    train, validation = part(subject, "train"), part(subject, "validation")
    found = list(_measured(subject, train, validation, limits.examples, limits.features))
    subject.baselines.extend(found)
    ceiling = {name: float(value) for name, value in subject.task.ceiling().items()}
    if ceiling:
        subject.baselines.append(Baseline("ceiling (given)", ceiling, 0.0))
    objective, way = subject.task.objective, subject.task.direction
    constant = found[0].scores[objective]
    others = [model for model in found[1:] if way.better(model.scores[objective], constant)]
    best = min(found, key=lambda model: way.cost(model.scores[objective]))
    text = f"{objective} on validation: " + ", ".join(f"{m.name} {m.scores[objective]:.4g}" for m in found)
    explanation = Explanation(
        meaning="Nothing in the inputs tells these models about the target.",
        causes=(
            "the problem needs structure that flattened inputs hide",
            "inputs and targets do not belong together",
        ),
        advice="see the checks of learnability; look at the gallery",
    )
    severity = Severity.PASS if others or len(found) == 1 else Severity.INFO
    return judged(severity, text, f"better than {constant:.4g}", explanation, {"best": best.scores[objective]})


def _measured(subject: Subject, train: Part, validation: Part, count: int, features: int) -> Iterator[Baseline]:
    """The constant first, then what the form of the task allows."""
    form = subject.form if subject.form.kind is not Kind.OTHER else Form(Kind.VALUES)
    like = subject.outputs(subject.new_model(), validation.inputs[:2].to(subject.device)).cpu()
    targets = _wanted(form, train.targets)
    tables = _features(train, validation, features)
    # A forecast at every position, an autoencoder: flattened inputs hold the answers.
    copied = tables[0].shape == targets.shape and bool((tables[0] == targets).all())
    for model in _models(form, train, validation, targets.shape[1], copied or subject.task.causal):
        started = time.perf_counter()
        index = np.linspace(0, len(targets) - 1, min(count, len(targets))).astype(int)
        answers = model.fit(tables[0][index], targets[index])(tables[1])
        predictions = _predictions(subject, form, answers, like, validation.targets)
        scores = {name: float(value) for name, value in subject.task.score(predictions, validation.targets).items()}
        yield Baseline(model.name, scores, time.perf_counter() - started)


def _wanted(form: Form, targets: Tensor) -> Floats:
    """Targets as (examples, targets); class numbers and labels stay numbers."""
    return rows(targets.clamp_min(0) if form.kind is Kind.CLASSES else targets)


def _features(train: Part, validation: Part, most: int) -> tuple[Floats, Floats]:
    """Tables for the models: whole numbers become counts of each number, wide tables principal components."""
    if not train.inputs.is_floating_point():
        return _counts(train.inputs, train.inputs, most), _counts(train.inputs, validation.inputs, most)
    first, second = rows(train.inputs), rows(validation.inputs)
    if first.shape[1] > most:
        reduced = PCA(min(most, len(first)), svd_solver="randomized", random_state=0).fit(first)
        return reduced.transform(first), reduced.transform(second)
    return first, second


def _counts(known: Tensor, tokens: Tensor, most: int) -> Floats:
    """How often each of the ``most`` commonest numbers occurs in an example (a bag of words)."""
    names, frequency = np.unique(known.numpy(), return_counts=True)
    names = np.sort(names[np.argsort(-frequency, kind="stable")[:most]])
    flat = tokens.reshape(len(tokens), -1).numpy()
    place = np.searchsorted(names, flat).clip(max=len(names) - 1)
    result = np.zeros((len(flat), len(names)))
    example, _ = np.nonzero(names[place] == flat)
    np.add.at(result, (example, place[names[place] == flat]), 1.0)
    return result


def _models(form: Form, train: Part, validation: Part, targets: int, sees_targets: bool) -> list[Model]:
    """The constant, and what is affordable for this many targets per example.

    ``sees_targets``: the inputs of one position or of all hold the targets of another.
    """
    if form.kind is Kind.VALUES:
        trees = [Model("boosted trees", _boosted_values)] if targets <= 4 else []
        return [Model("mean", _mean), *([] if sees_targets else [Model("ridge", _ridge), *trees])]
    if form.kind is Kind.CLASSES and targets > 1:
        paired = not train.inputs.is_floating_point() and train.inputs.shape == train.targets.shape
        pairs = (
            [Model("token at the position", lambda _, y: _pairs(form.classes, train, validation))] if paired else []
        )
        return [Model("base rates", lambda _, y: _rates(form.classes, y)), *pairs]
    classes = form.classes if form.kind is Kind.CLASSES else 2
    trees = [Model("boosted trees", lambda x, y: _each(classes, x, y, _boosted_classes))] if targets <= 10 else []
    linear = Model("logistic regression", lambda x, y: _each(classes, x, y, _logistic))
    return [Model("base rates", lambda _, y: _rates(classes, y)), linear, *trees]


def _mean(table: Floats, targets: Floats) -> Predictor:
    return lambda other: np.repeat(targets.mean(axis=0)[None], len(other), axis=0)


def _ridge(table: Floats, targets: Floats) -> Predictor:
    scaler = StandardScaler().fit(table)
    model = RidgeCV(alphas=np.logspace(-2, 4, 13)).fit(scaler.transform(table), targets)
    low, high = targets.min(axis=0), targets.max(axis=0)
    # Within the range of training: a negative count has no likelihood.
    return lambda other: np.clip(
        np.asarray(model.predict(scaler.transform(other))).reshape(len(other), -1), low, high
    )


def _boosted_values(table: Floats, targets: Floats) -> Predictor:
    models = [
        HistGradientBoostingRegressor(max_iter=TREES, max_leaf_nodes=15, early_stopping=False, random_state=0).fit(
            table, column
        )
        for column in targets.T
    ]
    return lambda other: np.stack([model.predict(other) for model in models], axis=1)


def _rates(classes: int, targets: Floats) -> Predictor:
    """Share of each class; for several targets per example, one table per position."""
    labels = targets.astype(np.int64)
    shares = np.stack([np.bincount(column, minlength=classes) / len(column) for column in labels.T])
    return lambda other: np.repeat(shares[None], len(other), axis=0)


def _pairs(classes: int, train: Part, validation: Part) -> Predictor:
    """How often each target occurs where a token stands: for a language model, its bigrams (one count added)."""
    tokens = int(max(train.inputs.max(), validation.inputs.max())) + 1
    counts = np.ones((tokens, classes))
    np.add.at(counts, (train.inputs.flatten().numpy(), train.targets.clamp_min(0).flatten().numpy()), 1.0)
    shares = counts / counts.sum(axis=1, keepdims=True)
    seen = validation.inputs.reshape(len(validation.inputs), -1).numpy()
    return lambda other: shares[seen]


def _logistic(table: Floats, labels: Integers) -> Predictor:
    scaler = StandardScaler().fit(table)
    model = LogisticRegression(max_iter=200)
    with warnings.catch_warnings():
        # 200 iterations are enough for a baseline, converged or not.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaler.transform(table), labels)
    return lambda other: np.asarray(model.predict_proba(scaler.transform(other)))


def _boosted_classes(table: Floats, labels: Integers) -> Predictor:
    model = HistGradientBoostingClassifier(
        max_iter=TREES, max_leaf_nodes=15, early_stopping=False, random_state=0
    ).fit(table, labels)
    return lambda other: np.asarray(model.predict_proba(other))


def _each(classes: int, table: Floats, targets: Floats, fit: Callable[[Floats, Integers], Predictor]) -> Predictor:
    """One classifier per target; classes that training lacks get probability 0."""
    parts = []
    for column in targets.T:
        names, codes = np.unique(column.astype(np.int64), return_inverse=True)
        parts.append((names, fit(table, codes) if len(names) > 1 else None))

    def predict(other: Floats) -> Floats:
        result = np.zeros((len(other), len(parts), classes))
        for position, (names, model) in enumerate(parts):
            result[:, position, names] = model(other) if model else 1.0
        return result

    return predict


def _predictions(subject: Subject, form: Form, answers: Floats, like: Tensor, targets: Tensor) -> Tensor:
    """What ``task.predictions`` would give for a network that answers so."""
    if form.kind is Kind.VALUES:
        made = subject.task.predictions(like)
        return torch.as_tensor(answers).reshape(len(answers), *made.shape[1:])
    outputs = as_outputs(form, answers, like, targets)
    return subject.task.predictions(outputs.to(like.dtype)).cpu()


def as_outputs(form: Form, probabilities: Floats, like: Tensor, targets: Tensor) -> Tensor:
    """Probabilities (examples, targets, classes) in the layout and encoding of the network's outputs."""
    given = torch.as_tensor(probabilities).clamp(1e-7, 1 - 1e-7)
    if form.kind is Kind.BINARY:
        chance = given[..., 1].reshape(len(given), *like.shape[1:])
        return chance if form.encoding is Encoding.PROBABILITIES else chance.logit()
    shaped = given.reshape(*targets.shape, form.classes)
    moved = shaped.flatten(0, -2) if form.flattened else shaped.movedim(-1, form.axis)
    return moved if form.encoding is Encoding.PROBABILITIES else moved.log()
