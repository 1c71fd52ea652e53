"""Does the task's augmentation keep what it should: form, finiteness, and the label?"""

from collections.abc import Iterable

import numpy as np
import torch

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.classical import FOLDS, forest_of, noise_of
from orchestrator.preflight.data_labels import no_finite_table, no_single_label
from orchestrator.preflight.data_table import Bools, Floats, Integers, rows
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task

EXAMPLES = 800
"""Most training examples augmented (our choice: about a second)."""
COPIES = 2
"""Augmented versions of each (our choice)."""


def no_augmentation(subject: Subject) -> str | None:
    """Reason for checks of ``task.augment``."""
    if type(subject.task).augment is Task.augment and "augment" not in vars(subject.task):
        return "the task has no augmentation"
    return None if subject.hyperparameters.data.augmentation > 0 else "augmentation is off"


@check(
    name="augmentation",
    group="data",
    title="augmented batches keep shape, type and finiteness, and the original is left alone",
    source="recipe.md H7; preflight.md",
    applies=no_augmentation,
)
def augmentation(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL for another shape or type, numbers that are not finite, or a change of the data set itself."""
    inputs, targets = subject.train_examples(256)
    kept, kept_targets = inputs.clone(), targets.clone()
    changed, labels = subject.task.augment(inputs, targets, subject.hyperparameters.data.augmentation)
    explanation = Explanation(
        meaning="Training sees something else than evaluation, or wears out the data set it augments.",
        causes=("a transform works in place", "a conversion changes type or layout", "a division by zero"),
        advice="run task.augment on one batch and compare it with the original",
    )
    faults = [
        (changed.shape != kept.shape, f"inputs become {tuple(changed.shape[1:])} from {tuple(kept.shape[1:])}"),
        (changed.dtype != kept.dtype, f"inputs become {changed.dtype} from {kept.dtype}"),
        (len(labels) != len(changed), f"{len(changed)} inputs come with {len(labels)} targets"),
        (_broken(kept, changed), "inputs are no longer finite"),
        (not _equal(inputs, kept) or not _equal(targets, kept_targets), "the batch it is given is overwritten"),
    ]
    for wrong, text in faults:
        if wrong:
            return judged(Severity.FAIL, text, "as before", explanation)
    if _equal(changed, kept) and _equal(labels, kept_targets):
        return judged(Severity.WARN, "augmentation changes nothing", "some examples change", explanation)
    return passed("shape, type and finiteness are kept")


def _broken(before: torch.Tensor, after: torch.Tensor) -> bool:
    return bool(torch.isfinite(before.double()).all()) and not bool(torch.isfinite(after.double()).all())


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


@check(
    name="augmented_labels",
    group="data",
    title="an augmented example still has its label",
    source="recipe.md H7; preflight.md (augmentation destroys the label); our test by out-of-fold forests",
    applies=(no_augmentation, no_single_label, no_finite_table),
)
def augmented_labels(subject: Subject, settings: CheckSettings) -> Iterable[Finding]:
    """Compare forests trained on augmented with forests trained on plain examples, out of fold."""
    inputs, targets = subject.train_examples(EXAMPLES)
    labels: Integers = targets.flatten().long().cpu().numpy()
    strength = subject.hyperparameters.data.augmentation
    versions = []
    for _ in range(COPIES):
        # Batch by batch, as in training: an augmentation may draw one change for a whole batch.
        parts = zip(torch.split(inputs, 64), torch.split(targets, 64), strict=True)
        made = [subject.task.augment(some, others, strength) for some, others in parts]
        if any(
            not torch.equal(after, others) for (_, after), others in zip(made, torch.split(targets, 64), strict=True)
        ):
            yield skipped("the augmentation changes the targets, too")
            return
        versions.append(rows(torch.cat([changed for changed, _ in made])))
    kept = np.isin(labels, np.flatnonzero(np.bincount(labels) >= 2 * FOLDS))
    names, codes = np.unique(labels[kept], return_inverse=True)
    if len(names) < 2 or len(codes) < settings.augmented_labels.examples:
        yield skipped("too few examples of the classes")
        return
    yield _judged(rows(inputs)[kept], [version[kept] for version in versions], codes, names, settings)


def _judged(
    plain: Floats, versions: list[Floats], codes: Integers, names: Integers, settings: CheckSettings
) -> Finding:
    limits = settings.augmented_labels
    before, changed = forest_of([plain], codes, [plain, versions[0]])
    after = forest_of(versions, codes, [versions[0]])[0]
    floor = noise_of(after, codes).floor - noise_of(before, codes).floor
    share, label, taken_for = mistaken(before, changed, codes, (plain != versions[0]).any(axis=1))
    explanation = Explanation(
        meaning="The network is taught wrong labels.",
        causes=(
            "the change turns one class into another (a 6 on its head is a 9)",
            "inputs are shuffled or mixed and the targets are not",
        ),
        advice="look at augmented examples beside their labels; leave out changes that a person could not undo",
    )
    text = (
        f"the surest predictions contradict the label {floor:.1%} more often when trained on augmented examples; "
        f"{share:.0%} of the changed examples of class {names[label]} are surely taken for class {names[taken_for]}"
    )
    threshold = f"at most {limits.floor:.0%} and {limits.mistaken:.0%}"
    severity = Severity.FAIL if floor > limits.fail else Severity.PASS
    if severity is Severity.PASS and (floor > limits.floor or share > limits.mistaken):
        severity = Severity.WARN
    return judged(severity, text, threshold, explanation, {"floor": floor, "mistaken": share})


def mistaken(before: Floats, after: Floats, codes: Integers, changed: Bools) -> tuple[float, int, int]:
    """The pair of classes most often confused through the change: share, true class, class seen instead.

    ``before`` and ``after`` are probabilities by forests trained on plain examples, of plain examples and
    of changed ones. Only predictions as sure as three quarters of the right ones on plain examples count:
    a change that merely makes examples hard makes predictions unsure, one that makes another class does not.
    What plain examples are confused already is subtracted. Classes with fewer than 20 changed examples
    are left out.
    """
    right = before.argmax(axis=1) == codes
    sure = float(np.quantile(before.max(axis=1)[right], 0.25)) if right.any() else 1.0
    best = (0.0, 0, 0)
    for label in range(before.shape[1]):
        some = changed & (codes == label)
        if some.sum() < 20:
            continue
        shares = _sure_shares(after[some], sure) - _sure_shares(before[codes == label], sure)
        shares[label] = 0.0
        if shares.max() > best[0]:
            best = (float(shares.max()), label, int(shares.argmax()))
    return best


def _sure_shares(probabilities: Floats, sure: float) -> Floats:
    """For each class the share of examples that are surely predicted to be it."""
    chosen = probabilities.argmax(axis=1)[probabilities.max(axis=1) > sure]
    result: Floats = np.bincount(chosen, minlength=probabilities.shape[1]) / len(probabilities)
    return result
