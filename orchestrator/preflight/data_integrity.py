"""Are the examples well formed: finite, of one shape and type, with labels that the outputs can express?"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.data_table import SPLITS, Part, part, parts
from orchestrator.preflight.forms import Kind
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.subject import Subject
from orchestrator.training.data import size

NON_FINITE = Explanation(
    meaning="One value that is not finite makes the loss of its whole batch NaN, and with it all weights.",
    causes=(
        "missing values in the source that were never filled",
        "a division by zero or a logarithm of zero in the preprocessing",
        "an overflow in a conversion to half precision",
    ),
    advice="look at the examples named; fill, clip or drop them where the data are read",
)


@check(
    name="finite_data",
    group="data",
    title="inputs and targets have no NaN and no infinity",
    source="recipe.md A16; preflight.md",
)
def finite_data(subject: Subject, settings: CheckSettings) -> Iterable[Finding]:
    """A full scan; FAIL, unless the model and the loss give finite numbers on just these examples."""
    for split in parts(subject):
        for name, values in (("inputs", split.inputs), ("targets", split.targets)):
            bad = _bad_examples(values)
            if bad.any():
                yield _non_finite(subject, split, name, values, bad)
                return
    yield passed("every value of the three splits is finite")


def _bad_examples(values: Tensor) -> Tensor:
    """For each example whether any of its numbers is not finite."""
    if not (values.is_floating_point() or values.is_complex()):
        return torch.zeros(len(values), dtype=torch.bool)
    return ~torch.isfinite(values.reshape(len(values), -1)).all(dim=1)


def _non_finite(subject: Subject, split: Part, name: str, values: Tensor, bad: Tensor) -> Finding:
    numbers = int((~torch.isfinite(values)).sum())
    where = split.indices[bad][:5].tolist()
    statistic = f"{split.split} {name}: {numbers} values in {int(bad.sum())} of {len(bad)} examples, first {where}"
    handled = split.split != "test" and _handled(subject, split, bad)
    text = f"{statistic}; model and loss cope with them" if handled else statistic
    severity = Severity.WARN if handled else Severity.FAIL
    return judged(severity, text, "0", NON_FINITE, {"values": float(numbers), "examples": float(bad.sum())})


def _handled(subject: Subject, split: Part, bad: Tensor) -> bool:
    inputs, targets = split.inputs[bad][:16].to(subject.device), split.targets[bad][:16].to(subject.device)
    outputs = subject.outputs(subject.new_model(), inputs)
    with torch.no_grad():
        return bool(torch.isfinite(outputs).all()) and bool(torch.isfinite(subject.loss(outputs, targets)))


@check(
    name="shapes",
    group="data",
    title="inputs and targets have one shape and type in all splits, and no split is empty",
    source="recipe.md A6, A29; preflight.md",
)
def shapes(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL for an empty split or another number of axes or type; WARN for another length of an axis."""
    explanation = Explanation(
        meaning="The network is trained on one kind of input and judged on another.",
        causes=("the splits went through different preprocessing", "a division left a split without examples"),
        advice="build all splits with one function; print the first example of each",
    )
    empty = [split for split in SPLITS if size(getattr(subject.splits, split)) == 0]
    if empty:
        return judged(Severity.FAIL, f"{' and '.join(empty)} without examples", "at least 1", explanation)
    layouts = {item.split: _layout(item) for item in parts(subject)}
    first = layouts["train"]
    for name, layout in layouts.items():
        if [(len(shape), kind) for shape, kind in layout] != [(len(shape), kind) for shape, kind in first]:
            severity = Severity.FAIL
        elif layout != first:
            severity = Severity.WARN
        else:
            continue
        return judged(severity, f"train has {_said(first)}, {name} has {_said(layout)}", "the same", explanation)
    return passed(_said(first))


Layout = list[tuple[tuple[int, ...], torch.dtype]]


def _layout(item: Part) -> Layout:
    return [(tuple(values.shape[1:]), values.dtype) for values in (item.inputs, item.targets)]


def _said(layout: Layout) -> str:
    names = ("inputs", "targets")
    return ", ".join(
        f"{name} {shape} {str(kind).removeprefix('torch.')}"
        for name, (shape, kind) in zip(names, layout, strict=True)
    )


@check(
    name="validation_size",
    group="data",
    title="validation has enough examples to tell configurations apart",
    source="recipe.md B25; standard error of a share, sqrt(p(1-p)/n)",
)
def validation_size(subject: Subject, settings: CheckSettings) -> Finding:
    """INFO below ``least`` examples: the standard error of an accuracy of 0.5 is 0.5/sqrt(n)."""
    limit = settings.validation_size.least
    count = size(subject.splits.validation)
    error = 0.5 / max(1, count) ** 0.5
    explanation = Explanation(
        meaning=f"An accuracy measured on it has a standard error of up to {error:.2f}.",
        causes=("little data", "a small validation share"),
        advice="prefer the loss to the accuracy as objective, and several seeds to one",
    )
    severity = Severity.PASS if count >= limit else Severity.INFO
    return judged(severity, f"{count} examples", f"at least {limit}", explanation, {"examples": float(count)})


def not_classes(subject: Subject) -> str | None:
    """Reason for checks of class labels."""
    return None if subject.form.kind is Kind.CLASSES else "targets are not class numbers"


def class_targets(values: Tensor) -> Tensor:
    """All class numbers in ``values``; negative ones mark positions to be ignored."""
    flat = values.flatten()
    return flat[flat >= 0]


@check(
    name="label_range",
    group="data",
    title="every class label has an output, in every split",
    source="recipe.md A6; preflight.md",
)
def label_range(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL for a label that is not in [0, outputs), unless the loss takes it (an index to be ignored)."""
    outputs, limit = _class_outputs(subject)
    if not limit:
        return skipped("targets are not class numbers")
    explanation = Explanation(
        meaning="The loss raises or reads memory that is not its own.",
        causes=("labels count from 1", "the model has fewer outputs than there are classes", "a wrong label file"),
        advice=f"map the labels to 0 ... {limit - 1}, or give the model more outputs",
    )
    for item in parts(subject):
        values = item.targets.reshape(len(item.targets), -1)
        wrong = (values >= limit) | (values < 0)
        examples = wrong.any(dim=1)
        if examples.any() and not _taken(subject, outputs, item.targets[examples][0]):
            shown, share = sorted(set(values[wrong].tolist()))[:5], float(wrong.double().mean())
            text = f"{item.split}: labels {shown} in {share:.2%} of the targets"
            return judged(Severity.FAIL, text, f"0 ... {limit - 1}", explanation, {"share": share})
    return passed(f"all labels within 0 ... {limit - 1}")


def _class_outputs(subject: Subject) -> tuple[Tensor, int]:
    """Outputs of a few training examples on the CPU, and the length of their class axis; 0 where there is none."""
    inputs, targets = subject.train_examples(4)
    outputs = subject.outputs(subject.new_model(), inputs).cpu()
    if targets.is_floating_point() or subject.task.mixes_batch or not outputs.is_floating_point():
        return outputs, 0
    for axis in range(1, outputs.ndim):
        if [*outputs.shape[:axis], *outputs.shape[axis + 1 :]] == list(targets.shape):
            return outputs, outputs.shape[axis]
    flattened = outputs.ndim == 2 and targets.ndim > 1 and len(outputs) == targets.numel()
    return outputs, outputs.shape[1] if flattened else 0


def _taken(subject: Subject, outputs: Tensor, wrong: Tensor) -> bool:
    """Whether the loss gives a number where one target is ``wrong``; asked on the CPU, where a bad index raises."""
    some = subject.train_examples(4)[1].cpu()
    some[0] = wrong
    try:
        return bool(torch.isfinite(subject.loss(outputs, some)))
    except (IndexError, RuntimeError, ValueError):
        # The refusal is what is asked for.
        return False


@check(
    name="label_sets",
    group="data",
    title="training and validation have the same classes in similar shares",
    source="recipe.md A3; preflight.md (label set difference); probabilities of a random division",
    applies=not_classes,
)
def label_sets(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL for a class that is missing in training though a random division would hardly ever lose it.

    WARN where it would do so with up to 1 %, and for a class improbably missing in validation; INFO for a
    class that is missing in training by likely chance.
    """
    train, validation = (_class_counts(part(subject, name).targets, subject.form.classes) for name in SPLITS[:2])
    improbable = settings.label_sets.improbable
    axes = part(subject, "train").targets.ndim
    for severity, limit in ((Severity.FAIL, improbable), (Severity.WARN, 0.01), (Severity.INFO, np.inf)):
        absent = _absent(train, validation, limit)
        if absent and (axes == 1 or severity is not Severity.INFO):
            return _missing(severity, "training", absent, train, validation)
    absent = _absent(validation, train, improbable)
    if absent:
        return _missing(Severity.WARN, "validation", absent, train, validation)
    return _shares(train, validation, axes, settings)


def _class_counts(targets: Tensor, classes: int) -> torch.Tensor:
    return torch.bincount(class_targets(targets).long(), minlength=classes)


def _absent(these: Tensor, others: Tensor, limit: float) -> list[int]:
    """Classes with no example in ``these`` for which a random division would leave none with less than ``limit``.

    All m examples of a class fall into the other part with probability at most (its share)**m.
    """
    share = float(others.sum() / (these.sum() + others.sum()).clamp_min(1))
    chance = torch.tensor(share, dtype=torch.float64) ** others
    return torch.nonzero((these == 0) & (others > 0) & (chance * len(these) < limit)).flatten().tolist()


def _missing(severity: Severity, where: str, absent: list[int], train: Tensor, validation: Tensor) -> Finding:
    explanation = Explanation(
        meaning=f"The network is {'judged on what it never saw' if where == 'training' else 'not judged on all'}.",
        causes=("data sorted by class were cut without shuffling", "a filter dropped a class in one split"),
        advice="divide with stratification (train_test_split(..., stratify=labels))",
    )
    counts = ", ".join(f"class {label}: {int(train[label])} and {int(validation[label])}" for label in absent[:5])
    text = f"missing in {where}: {counts} examples in training and validation"
    return judged(severity, text, "the same classes", explanation, {"absent": float(len(absent))})


def _shares(train: Tensor, validation: Tensor, axes: int, settings: CheckSettings) -> Finding:
    """WARN where the class shares differ by much and beyond chance (not for one label per position)."""
    first, second = train / train.sum(), validation / validation.sum()
    distance = float((first - second).abs().sum() / 2)
    pooled = (train + validation) / (train + validation).sum()
    error = (pooled * (1 - pooled) * (1 / train.sum() + 1 / validation.sum())).sqrt()
    beyond = float(((first - second).abs() / error.clamp_min(1e-12)).max())
    limit = settings.label_sets.distance
    explanation = Explanation(
        meaning="The classes are not as frequent in validation as in training.",
        causes=("data cut without shuffling", "one split was balanced or filtered by class, the other was not"),
        advice="divide with stratification; if the difference is wanted, leave the check out",
    )
    severity = Severity.WARN if distance > limit and beyond > 5 and axes == 1 else Severity.PASS
    text = (
        f"the class shares differ by a total variation of {distance:.3f}, one class by {beyond:.1f} standard errors"
    )
    return judged(severity, text, f"at most {limit:g}, or 5", explanation, {"distance": distance, "errors": beyond})


@check(
    name="constant_targets",
    group="data",
    title="there is more than one target value",
    source="recipe.md A2; preflight.md",
)
def constant_targets(subject: Subject, settings: CheckSettings) -> Finding:
    """FAIL where all training targets are equal and the loss reads them."""
    targets = part(subject, "train").targets
    rows = targets.reshape(len(targets), -1)
    if bool((rows != rows[:1]).any()):
        return passed("targets vary")
    if _ignored(subject, targets):
        return skipped("the loss does not read the targets")
    explanation = Explanation(
        meaning="A constant answers everything: there is nothing to learn.",
        causes=("the wrong column was taken for the target", "a filter left one class only"),
        advice="look at the targets where they are read",
    )
    value = np.array2string(rows[0].numpy(), threshold=4)
    return judged(Severity.FAIL, f"all {len(rows)} training targets are {value}", "at least 2 values", explanation)


def _ignored(subject: Subject, targets: Tensor) -> bool:
    inputs, some = subject.train_examples(16)
    outputs = subject.outputs(subject.new_model(), inputs)
    changed = 1 - some if not some.is_floating_point() else some + 1
    with torch.no_grad():
        return bool(subject.loss(outputs, some) == subject.loss(outputs, changed.clamp_min(0)))
