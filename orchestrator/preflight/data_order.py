"""The order in which training visits the examples, and the randomness of reading them."""

import copy
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.data_labels import labels_of
from orchestrator.preflight.data_table import Floats, Integers, fingerprints, part
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.subject import Subject, collate
from orchestrator.training.data import size

LONGEST = 200_000
"""Most examples whose order is followed (our choice)."""


@check(
    name="training_order",
    group="data",
    title="every epoch visits the examples in a new random order",
    source="recipe.md B24; preflight.md (sorted data, shuffle off)",
)
def training_order(subject: Subject, settings: CheckSettings) -> Finding:
    """The loader is given example numbers instead of examples, so that their order can be read."""
    count = subject.train_size()
    if count > LONGEST:
        return skipped(f"more than {LONGEST} training examples")
    first, second = (_visited(subject, count, epoch) for epoch in (0, 1))
    if first is None or second is None:
        return skipped("the order cannot be read: the loader brings examples of its own, or separates the pairs")
    finding = _sortedness(subject, first, settings)
    if finding.severity is Severity.PASS and count > 2 and np.array_equal(first, second):
        kind = "the stored one" if np.array_equal(first, np.sort(first)) else "the same"
        return judged(Severity.WARN, f"the order of two epochs is {kind}", "a new one each epoch", UNSHUFFLED)
    return finding


UNSHUFFLED = Explanation(
    meaning="Batches are made of the same neighbours every time, and gradients of one batch resemble each other.",
    causes=("shuffle=True is missing", "the generator is seeded anew for every epoch with the same number"),
    advice="shuffle with a generator seeded by (seed, epoch)",
)
SORTED = Explanation(
    meaning="A batch holds mostly one kind of example: each step unlearns what the last one taught.",
    causes=("data stored by class and shuffle=False", "a shuffle buffer smaller than a class"),
    advice="draw a random permutation of all training examples for every epoch",
)


def _visited(subject: Subject, count: int, epoch: int) -> Integers | None:
    """Example numbers in the order of ``epoch``; None where the loader gives something else."""
    numbers = torch.arange(count)
    order: list[Tensor] = []
    for some, others in subject.procedure.loader(TensorDataset(numbers, numbers), train=True, epoch=epoch):
        if some.is_floating_point() or some.ndim != 1 or not torch.equal(some, others):
            return None
        order.append(some.cpu())
    if not order or int(torch.cat(order).max()) >= count:
        return None
    result: Integers = torch.cat(order).numpy()
    return result


def _sortedness(subject: Subject, order: Integers, settings: CheckSettings) -> Finding:
    """How alike the targets of neighbours in the training order are: 0 by chance, 1 when sorted."""
    targets = _one_target(subject)
    limits = settings.training_order
    if targets is None or len(targets) <= int(order.max()) or len(order) < limits.examples:
        return passed("a new order each epoch")
    likeness = neighbour_likeness(targets[order], subject.is_classification)
    doubt = 6.0 / np.sqrt(len(order))
    text = f"neighbours in the training order are alike by {likeness:.3f} (0 chance, 1 sorted)"
    severity = Severity.PASS
    if likeness > max(limits.warn, doubt):
        blocks = likeness > max(limits.fail, doubt) and subject.is_classification
        severity = Severity.FAIL if blocks else Severity.WARN
    return judged(severity, text, f"at most {limits.warn:g}", SORTED, {"likeness": likeness})


def _one_target(subject: Subject) -> Floats | Integers | None:
    train = part(subject, "train")
    if not train.whole:
        return None
    if subject.is_classification:
        return labels_of(subject)
    one = train.targets.is_floating_point() and train.targets.reshape(len(train.targets), -1).shape[1] == 1
    return train.targets.flatten().double().numpy() if one else None


def neighbour_likeness(targets: Floats | Integers, classes: bool) -> float:
    """Correlation of each target with the next one; for classes, of their indicator vectors."""
    if classes:
        shares = np.unique(targets, return_counts=True)[1] / len(targets)
        chance = float(np.square(shares).sum())
        return (float((targets[1:] == targets[:-1]).mean()) - chance) / (1 - chance) if chance < 1 else 0.0
    centred = targets - targets.mean()
    variance = float(np.square(centred).mean())
    return float((centred[1:] * centred[:-1]).mean()) / variance if variance > 0 else 0.0


def is_random(dataset: Dataset[Any], examples: int = 16) -> bool:
    """Whether reading the same examples twice gives different inputs."""
    if isinstance(dataset, TensorDataset):
        return False
    indices = torch.arange(min(examples, size(dataset)))
    first, second = collate(dataset, indices)[0], collate(dataset, indices)[0]
    return not torch.equal(torch.nan_to_num(first), torch.nan_to_num(second))


@check(
    name="validation_random",
    group="data",
    title="reading validation twice gives the same examples",
    source="recipe.md H1, H7; preflight.md (augmentation on validation)",
)
def validation_random(subject: Subject, settings: CheckSettings) -> Iterable[Finding]:
    """FAIL for inputs that change between two reads; WARN for tokens and where the target is the clean input."""
    explanation = Explanation(
        meaning="Scores change from one evaluation to the next, and are those of altered examples.",
        causes=("the training transforms are used for validation, too",),
        advice="give validation and test a data set without random transforms",
    )
    random = [split for split in ("validation", "test") if is_random(getattr(subject.splits, split))]
    if not random:
        yield passed("validation and test are read the same twice")
        return
    item = part(subject, "validation")
    change = _change(subject.splits.validation) if "validation" in random else 1.0
    wanted = not item.inputs.is_floating_point() or item.inputs.shape == item.targets.shape
    severity = Severity.WARN if wanted or change < settings.validation_random.fail else Severity.FAIL
    text = f"{' and '.join(random)} differ when read again, by {change:.2f} deviations"
    yield judged(severity, text, "the same", explanation, {"change": change})


def _change(dataset: Dataset[Any]) -> float:
    """Root mean square difference of two reads, in deviations of the inputs."""
    indices = torch.arange(min(64, size(dataset)))
    first, second = collate(dataset, indices)[0].double(), collate(dataset, indices)[0].double()
    return float((first - second).square().mean().sqrt() / first.std().clamp_min(1e-12))


class _OneExample(Dataset[Any]):
    """The first example of a data set at every index: only its randomness differs."""

    def __init__(self, dataset: Dataset[Any], length: int) -> None:
        self.dataset, self.length = dataset, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Any:
        return self.dataset[0]


def not_random(subject: Subject) -> str | None:
    """Reason for checks of random reading."""
    return None if is_random(subject.splits.train) else "training examples are read without randomness"


@check(
    name="worker_seeds",
    group="data",
    title="loader processes draw different random numbers, and so do epochs",
    source="preflight.md; PyTorch's note on data-loading randomness",
    applies=not_random,
)
def worker_seeds(subject: Subject, settings: CheckSettings) -> Finding:
    """Two worker processes read one example again and again; FAIL where both draw the same sequence."""
    procedure = copy.copy(subject.procedure)
    procedure.trainer = replace(subject.trainer, data_workers=2)
    length = 4 * max(2, subject.hyperparameters.data.batch_size)
    epochs = []
    for epoch in (0, 1):
        batches = procedure.loader(_OneExample(subject.splits.train, length), train=True, epoch=epoch)
        epochs.append([fingerprints(inputs) for inputs, _ in batches])
    explanation = Explanation(
        meaning="Augmentation repeats itself, so there is less of it than it seems.",
        causes=(
            "the data set keeps a generator that every worker process copies",
            "worker_init_fn or __getitem__ seeds with a constant",
        ),
        advice="draw from torch's global generator, or seed by torch.initial_seed() in the worker",
    )
    first, second = epochs
    if len(first) < 2 or len(second) < 1:
        return skipped("the loader gives fewer than two batches")
    if _same(first[0], first[1]):
        return judged(Severity.FAIL, "two workers draw the same random numbers", "different ones", explanation)
    if _same(first[0], second[0]):
        return judged(Severity.WARN, "two epochs draw the same random numbers", "different ones", explanation)
    return passed("workers and epochs draw different random numbers")


def _same(one: Any, other: Any) -> bool:
    """Equal sequences that are not constant: some draws may be 'leave as it is'."""
    return len(one) == len(other) and bool((one == other).all()) and len(np.unique(one)) > 2
