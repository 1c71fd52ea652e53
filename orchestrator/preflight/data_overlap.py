"""Examples that occur more than once: within training, and in more than one split."""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Subset

from orchestrator.config.checks_data import Overlap
from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.data_table import SPLITS, Part, distinct, fingerprints, part, parts, rows
from orchestrator.preflight.data_twins import (
    Prints,
    collision_bits,
    conflicts,
    excess,
    inner_twin_share,
    more_often,
    nearest,
    twin_share,
)
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.subject import Subject

LEAK = Explanation(
    meaning="Validation rewards memory: the configuration that overfits most looks best.",
    causes=(
        "the splits were drawn from the same rows with replacement, or one is part of the other",
        "copies were made (oversampling, augmentation, several exports) before the division",
    ),
    advice="drop duplicates first, then divide; copies and augmentation belong after the division",
)


@check(
    name="duplicates",
    group="data",
    title="training examples are not copies of each other, and equal inputs have equal targets",
    source="recipe.md A5, A6; preflight.md",
)
def duplicates(subject: Subject, settings: CheckSettings) -> Finding:
    """WARN where copies abound though inputs are continuous, or copies disagree on their target."""
    train = part(subject, "train")
    prints = fingerprints(train.inputs)
    copies = inner_twin_share(prints)
    conflicting = conflicts(prints, fingerprints(train.targets)).mean()
    values = {"duplicates": copies, "conflicting": float(conflicting)}
    explanation = Explanation(
        meaning="Copies weigh an example several times over; copies with other targets cannot both be right.",
        causes=("rows were exported or oversampled twice", "a join multiplied rows", "annotators disagree"),
        advice="drop duplicates where the data are read, and look at the conflicting ones by hand",
    )
    text = f"{copies:.1%} of the training examples have an exact copy, {conflicting:.1%} one with another target"
    if copies == 0:
        return passed(text, values=values)
    limit = settings.duplicates
    wrong = copies > limit.copies or conflicting > limit.conflicting
    severity = Severity.WARN if wrong and not finite_space(train) else Severity.INFO
    return judged(severity, text, f"at most {limit.copies:.0%} and {limit.conflicting:.0%}", explanation, values)


def finite_space(train: Part) -> bool:
    """Whether equal inputs are natural: whole numbers, or few different values per feature."""
    if not train.inputs.is_floating_point():
        return True
    table = rows(train.inputs)
    return not _continuous(table) and collision_bits(table[:2000]) < 4 * np.log2(max(2, len(table)))


def _continuous(table: np.ndarray) -> bool:
    """Whether some feature has so many different values that equal examples cannot be chance."""
    different_rows = len(np.unique(table[:, : min(64, table.shape[1])], axis=0))
    return bool((distinct(table) >= max(20, 0.5 * different_rows)).any())


@check(
    name="split_overlap",
    group="data",
    title="no example is in two splits",
    source="recipe.md A18, A19; preflight.md",
)
def split_overlap(subject: Subject, settings: CheckSettings) -> Iterable[Finding]:
    """Exact copies by hash, and equal rows of one source. FAIL above 1 % beyond what the data repeat anyway."""
    yield from _shared_indices(subject)
    splits = parts(subject)
    prints = {item.split: fingerprints(item.inputs) for item in splits}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if first in prints and second in prints:
            yield _overlap(part(subject, first), second, prints[first], prints[second], settings.split_overlap)


def _shared_indices(subject: Subject) -> Iterable[Finding]:
    """FAIL where two subsets of one data set have an index in common: seen even if items are random."""
    subsets = {split: data for split in SPLITS if isinstance(data := getattr(subject.splits, split), Subset)}
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if first not in subsets or second not in subsets or subsets[first].dataset is not subsets[second].dataset:
            continue
        common = set(subsets[first].indices) & set(subsets[second].indices)
        if common:
            text = f"{len(common)} indices of the source are in {first} and in {second}"
            yield judged(Severity.FAIL, text, "0", LEAK, {"indices": float(len(common))})


def _overlap(base: Part, second: str, these: Prints, others: Prints, limits: Overlap) -> Finding:
    """Compare the share of ``second`` found in ``base`` with the share of ``base`` found elsewhere in ``base``."""
    share, inner = twin_share(others, these), inner_twin_share(these)
    values = {"share": share, "within": inner}
    text = f"{share:.2%} of {second} is also in {base.split}"
    if share == 0:
        return passed(text, values=values)
    if inner > 0:
        text += f" ({inner:.2%} of {base.split} occurs twice in itself)"
    p = more_often(int(share * len(others) + 0.5), len(others), int(inner * len(these) + 0.5), len(these))
    severity = _gravity(base, share, inner, p, len(others), limits)
    return judged(severity, text, f"at most {limits.fail:.0%}", LEAK, {**values, "p": p})


def _gravity(base: Part, share: float, inner: float, p: float, count: int, limits: Overlap) -> Severity:
    """Copies across the splits beyond those within training are a fault of the division; else of the data."""
    excess_share = share - inner
    if p < limits.improbable and excess_share > limits.fail:
        return Severity.FAIL
    if finite_space(base) or (excess_share > 0 and p > 0.01):
        return Severity.INFO
    many = share > limits.fail and share * count >= 5
    return Severity.FAIL if many and _continuous(rows(base.inputs)) else Severity.WARN


@check(
    name="group_overlap",
    group="data",
    title="no group is in two splits",
    source="recipe.md A18; design: task.groups",
)
def group_overlap(subject: Subject, settings: CheckSettings) -> Iterable[Finding]:
    """FAIL where a group id of ``task.groups`` occurs in two splits."""
    groups = {split: ids for split in SPLITS if (ids := subject.task.groups(split)) is not None}
    if not groups:
        yield skipped("the task declares no groups")
        return
    explanation = Explanation(
        meaning="Examples of one group (patient, site, text) resemble each other, so validation rewards memory.",
        causes=("rows were divided at random instead of groups",),
        advice="divide by group (scikit-learn's GroupShuffleSplit)",
    )
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        if first in groups and second in groups:
            common = sorted(set(groups[first].tolist()) & set(groups[second].tolist()))
            severity = Severity.FAIL if common else Severity.PASS
            text = f"{len(common)} groups are in {first} and in {second}" + (f": {common[:5]}" if common else "")
            yield judged(severity, text, "0", explanation, {"groups": float(len(common))})


@check(
    name="near_duplicates",
    group="data",
    title="validation examples are not closer to training than training examples to each other",
    source="recipe.md A5; preflight.md; exchangeability of a random division, Fisher's exact test",
)
def near_duplicates(subject: Subject, settings: CheckSettings) -> Finding:
    """Never FAIL: CIFAR-10's test set has 3.3 % near copies (Barz & Denzler 2020, arXiv 1902.00423)."""
    train, validation = part(subject, "train"), part(subject, "validation")
    if not train.inputs.is_floating_point() or train.inputs.shape[1:] != validation.inputs.shape[1:]:
        return skipped("inputs are not numbers of one shape")
    if not bool(torch.isfinite(train.inputs).all()) or not bool(torch.isfinite(validation.inputs).all()):
        return skipped("inputs are not finite, see finite_data")
    limits = settings.near_duplicates
    base, others = _comparable(train.inputs, validation.inputs, limits.examples)
    if len(base) < 20 or not len(others):
        return skipped("too few examples that are not exact copies")
    inner, between = nearest(base, base, same=True), nearest(others, base, same=False)
    unit = float(np.median(inner))
    share, p = excess(between, inner)
    close = {"validation": float((between < 0.1 * unit).mean()), "train": float((inner < 0.1 * unit).mean())}
    values = {"excess": share, "p": p, "close_validation": close["validation"], "close_train": close["train"]}
    explanation = Explanation(
        meaning="Almost the same examples are on both sides of the division.",
        causes=("augmented or jittered copies were made before the division", "frames, patients or sites were split"),
        advice="look at the closest pairs; divide by what they have in common (task.groups)",
    )
    text = f"{share:.1%} more validation than training examples lie very near a training example (p = {p:.1e})"
    if share > limits.excess and p < limits.improbable:
        return judged(Severity.WARN, text, f"excess at most {limits.excess:.0%}", explanation, values)
    crowded = close["validation"] > limits.crowded and base.shape[1] >= limits.features
    if crowded:
        text = (
            f"{close['validation']:.1%} of validation lies within a tenth of the usual distance of a training example"
        )
        return judged(Severity.WARN, text, f"at most {limits.crowded:.0%}", explanation, values)
    return passed(text, f"excess at most {limits.excess:.0%}", values)


def _comparable(train: Tensor, validation: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """At most ``count`` training examples and half as many of validation, scaled and projected to 64 features.

    Exact copies are left out of both: they are the business of split_overlap. A random projection keeps
    distances within about a fifth (Johnson & Lindenstrauss 1984).
    """
    first = _unique(torch.as_tensor(rows(train), dtype=torch.float32))[:count]
    second = torch.as_tensor(rows(validation), dtype=torch.float32)[: count // 2]
    mean, std = first.mean(dim=0), first.std(dim=0, correction=0)
    live = std > 1e-6 * std.square().mean().sqrt()
    first, second = ((part[:, live] - mean[live]) / std[live] for part in (first, second))
    if first.shape[1] > 64:
        generator = torch.Generator().manual_seed(0)
        project = torch.randn(first.shape[1], 64, generator=generator) / 8
        first, second = first @ project, second @ project
    second = second[~torch.as_tensor(np.isin(fingerprints(second), fingerprints(first)))]
    return first, second


def _unique(table: Tensor) -> Tensor:
    _, index = np.unique(fingerprints(table), return_index=True)
    return table[np.sort(index)]
