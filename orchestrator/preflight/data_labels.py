"""Labels: how balanced, how noisy, and whether a single feature gives them away."""

import csv
from collections.abc import Iterable
from io import StringIO

import numpy as np
import torch

from orchestrator.config.checks_data import SingleFeature
from orchestrator.config.preflight import CheckSettings
from orchestrator.files import write_text
from orchestrator.preflight.classical import FOLDS, bin_skill, noise_of, out_of_fold, tree_skill
from orchestrator.preflight.data_table import Floats, Integers, distinct, part, rows
from orchestrator.preflight.forms import ideal
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.subject import Subject
from orchestrator.types import Direction

EXAMPLES = 2000
"""Most training examples given to a classical model here (our choice: about a second)."""


def labels_of(subject: Subject, split: str = "train") -> Integers | None:
    """One label per example, from 0; None where the task has not exactly one label per example."""
    targets = part(subject, split).targets
    if not subject.is_classification or targets.reshape(len(targets), -1).shape[1] != 1:
        return None
    result: Integers = targets.flatten().long().numpy()
    return result if len(result) and result.min() >= 0 else None


def no_single_label(subject: Subject) -> str | None:
    """Reason for checks that need one label per example."""
    return None if labels_of(subject) is not None else "an example does not have one class label"


def no_finite_table(subject: Subject) -> str | None:
    """Reason for checks that give inputs to a classical model."""
    inputs = part(subject, "train").inputs
    return None if bool(torch.isfinite(inputs.double()).all()) else "inputs are not finite, see finite_data"


@check(
    name="class_balance",
    group="data",
    title="no class is very rare, or a score sees it",
    source="recipe.md A3; cleanlab's 0.1/K; preflight.md",
    applies=no_single_label,
)
def class_balance(subject: Subject, settings: CheckSettings) -> Finding:
    """INFO where a class has less than a tenth of its fair share; WARN if every score is blind to that."""
    labels = labels_of(subject)
    assert labels is not None
    counts = np.bincount(labels, minlength=subject.form.classes)
    present = counts[counts > 0]
    share, limit = float(present.min() / present.sum()), settings.class_balance.share / len(present)
    values = {"rarest": share, "commonest": float(present.max() / present.sum())}
    text = f"the rarest of {len(present)} classes has {present.min()} examples, {share:.2%}"
    explanation = Explanation(
        meaning=f"Always answering the commonest class is right in {values['commonest']:.1%} of the cases.",
        causes=("the problem is like that", "a filter or a failed download removed most of a class"),
        advice="judge by balanced accuracy, average precision or the loss; set the last bias to the base rate; "
        "weight or sample the rare class",
    )
    if share >= limit:
        return passed(text, f"at least {limit:.2%}", values)
    blind = _blind_scores(subject, int(counts.argmax()), values["commonest"])
    if blind:
        text += f"; {' and '.join(blind)} would call the commonest class a success"
    return judged(Severity.WARN if blind else Severity.INFO, text, f"at least {limit:.2%}", explanation, values)


def _blind_scores(subject: Subject, commonest: int, share: float) -> list[str]:
    """The scores to be maximised, if all of them give the constant answer the commonest class's share."""
    inputs, targets = subject.train_examples(EXAMPLES)
    outputs = subject.outputs(subject.new_model(), inputs)
    form = subject.form
    answer = ideal(form, outputs, torch.full_like(targets, commonest), form.encoding)
    scores = subject.task.score(subject.task.predictions(answer).cpu(), targets.cpu())
    upward = [name for name, way in subject.task.directions.items() if way is Direction.MAXIMIZE]
    seen = [name for name in upward if not float(scores[name]) >= share - 0.05]
    return [] if seen else upward


@check(
    name="feature_leak",
    group="data",
    title="no single feature gives the label away",
    source="recipe.md A31; preflight.md (depth-4 tree, 4-fold, chance-corrected balanced accuracy)",
    applies=(no_single_label, no_finite_table),
)
def feature_leak(subject: Subject, settings: CheckSettings) -> Finding:
    """The class that is hardest to tell from the rest by its best feature; a leak tells all of them."""
    train = part(subject, "train")
    table, labels = _few(rows(train.inputs), labels_of(subject))
    counts = np.bincount(labels)
    kept = [label for label, count in enumerate(counts) if count >= 2 * FOLDS]
    if table.shape[1] < 2 or len(kept) < 2:
        return skipped("fewer than two features, or too few examples of the classes")
    chosen = bin_skill(table, labels, len(counts)).argmax(axis=1)
    skills = {label: tree_skill(table[:, chosen[label]], (labels == label).astype(np.int64)) for label in kept}
    hardest = min(skills, key=lambda label: skills[label])
    features = sorted({int(chosen[label]) for label in kept})
    skill = skills[hardest]
    limits = settings.feature_leak
    severity = _leak_gravity(table, labels, features, skill, limits, train.inputs.is_floating_point())
    explanation = Explanation(
        meaning="One feature alone is enough for every class: the network will read it and learn nothing else.",
        causes=("the target, or something computed from it, is among the inputs", "an identifier follows the label"),
        advice=f"drop feature {features[0]} if it is not known before the label is",
    )
    text = f"feature {_named(features)}: skill {skill:.3f} for the hardest class (0 chance, 1 perfect)"
    return judged(severity, text, f"below {limits.warn:g}", explanation, {"skill": skill})


def _named(features: list[int]) -> str:
    return ", ".join(str(feature) for feature in features[:5]) + (" ..." if len(features) > 5 else "")


def _leak_gravity(
    table: Floats, labels: Integers, features: list[int], skill: float, limits: SingleFeature, measured: bool
) -> Severity:
    """A code of the label is a leak, and so is a feature far better than the others; easy data are none."""
    if skill < limits.warn:
        return Severity.PASS
    grave = Severity.FAIL if skill >= limits.fail and measured else Severity.WARN
    if bool((distinct(table[:, features]) <= len(np.unique(labels))).all()):
        return grave
    rest = np.delete(table, features, axis=1)
    others = _skill_of(rest, labels) if rest.shape[1] else 1.0
    return grave if others < limits.others else Severity.INFO


def _skill_of(table: Floats, labels: Integers) -> float:
    kept = np.isin(labels, np.flatnonzero(np.bincount(labels) >= FOLDS))
    _, codes = np.unique(labels[kept], return_inverse=True)
    return noise_of(out_of_fold(table[kept], codes), codes).skill


def _few(table: Floats, labels: Integers | None) -> tuple[Floats, Integers]:
    assert labels is not None
    index = np.linspace(0, len(table) - 1, min(len(table), EXAMPLES)).astype(int)
    return table[index], labels[index]


@check(
    name="target_leak",
    group="data",
    title="no single feature is the target in another unit",
    source="recipe.md A31; exact linear dependence",
    applies=no_finite_table,
)
def target_leak(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL for a feature that is the target times a number plus a number, to rounding; WARN near that."""
    train = part(subject, "train")
    table, targets = rows(train.inputs), rows(train.targets)
    numbers = train.targets.is_floating_point() and not subject.is_classification and not subject.task.mixes_batch
    if not numbers or targets.shape[1] != 1 or table.shape[1] < 2 or len(table) < 20:
        return skipped("not a regression of one number on several features")
    limits = settings.target_leak
    deviation = table.std(axis=0) * targets.std()
    joint = np.abs(((table - table.mean(axis=0)) * (targets - targets.mean())).mean(axis=0))
    correlation = np.divide(joint, deviation, out=np.zeros_like(joint), where=deviation > 0)
    feature = int(correlation.argmax())
    largest = float(correlation[feature])
    severity = Severity.FAIL if largest > limits.fail else Severity.WARN if largest > limits.warn else Severity.PASS
    explanation = Explanation(
        meaning="The network copies this feature and learns nothing else.",
        causes=("the target, or something computed from it, is among the inputs",),
        advice=f"drop feature {feature} if it is not known before the target is",
    )
    text = f"feature {feature} correlates with the target by {largest:.6f}"
    return judged(severity, text, f"below {limits.warn:g}", explanation, {"correlation": largest})


@check(
    name="label_noise",
    group="data",
    title="where a classical model is surest, the labels agree",
    source="recipe.md A6, A7; preflight.md; out-of-fold forests",
    applies=(no_single_label, no_finite_table),
)
def label_noise(subject: Subject, settings: CheckSettings) -> Iterable[Finding]:
    """WARN where even the surest predictions are often contradicted; the ranked list is saved."""
    train = part(subject, "train")
    limits = settings.label_noise
    table, labels = _few(rows(train.inputs), labels_of(subject))
    index = np.linspace(0, len(train.indices) - 1, len(table)).astype(int)
    kept = np.isin(labels, np.flatnonzero(np.bincount(labels) >= FOLDS))
    names, codes = np.unique(labels[kept], return_inverse=True)
    if len(codes) < limits.examples or len(names) < 2:
        yield skipped(f"fewer than {limits.examples} examples")
        return
    probabilities = out_of_fold(table[kept], codes)
    found = noise_of(probabilities, codes)
    text = f"{found.floor:.1%} of the surest predictions contradict the label (of all: {found.error:.1%})"
    if subject.folder is not None:
        path = subject.folder / "label_noise.csv"
        write_text(path, suspects(train.indices.numpy()[index[kept]], names, codes, probabilities))
        subject.pictures.append(path)
        text += f"; ranked list in {path.name}"
    explanation = Explanation(
        meaning="About this share of the labels is wrong, or cannot be told from the inputs.",
        causes=("labels were joined to the wrong rows", "annotators were careless or the classes overlap"),
        advice="look at the top of the ranked list; check that inputs and labels are read in the same order",
    )
    values = {"floor": found.floor, "error": found.error, "skill": found.skill, "flatness": found.flatness}
    error = np.sqrt(found.floor * (1 - found.floor) / found.count)
    everywhere = (
        min(found.floor / max(found.error, 1e-9), found.flatness) > limits.flat and found.skill > limits.skill
    )
    noisy = found.floor > limits.warn and found.floor - 2 * error > limits.warn / 3 and everywhere
    yield judged(Severity.WARN if noisy else Severity.PASS, text, f"at most {limits.warn:.0%}", explanation, values)


def suspects(indices: Integers, names: Integers, codes: Integers, probabilities: Floats) -> str:
    """A table of the examples, likeliest wrong label first: index, label, suggested label and both probabilities."""
    given = probabilities[np.arange(len(codes)), codes]
    best = probabilities.argmax(axis=1)
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["index", "label", "suggested", "probability_of_label", "probability_of_suggested"])
    for row in np.argsort(given - probabilities.max(axis=1), kind="stable"):
        if best[row] != codes[row]:
            chances = [f"{given[row]:.3f}", f"{probabilities[row].max():.3f}"]
            writer.writerow([indices[row], names[codes[row]], names[best[row]], *chances])
    return text.getvalue()
