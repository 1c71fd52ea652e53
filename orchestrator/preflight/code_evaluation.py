"""The user's evaluation and loading: every example once, the right mode, the score of all at once."""

from collections import Counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.drill import MODAL, rebuilt
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject, collate
from orchestrator.training.data import size
from orchestrator.training.loop import predict, seed_everything


class Recorded(Dataset[Any]):
    """Some examples of a data set in a given order, counting how often each is read.

    Every read gives what the first one gave: data that change are the business of ``validation_random``.
    """

    def __init__(self, dataset: Dataset[Any], order: list[int]) -> None:
        self.dataset, self.order = dataset, order
        self.reads: Counter[int] = Counter()
        self.items: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        if not -len(self.order) <= index < len(self.order):
            raise IndexError(index)
        place = index % len(self.order)
        self.reads[place] += 1
        if place not in self.items:
            self.items[place] = self.dataset[self.order[place]]
        return self.items[place]


def _by_target(subject: Subject, count: int) -> list[int]:
    """Indices of validation examples sorted by target, so that batches differ from each other."""
    dataset = subject.splits.validation
    count = min(count, size(dataset))
    _, targets = collate(dataset, torch.arange(count))
    key = targets.reshape(count, -1).double().mean(dim=1)
    return [int(index) for index in key.argsort()]


@check(
    name="evaluation",
    group="code",
    title="the evaluation scores every example once, all together",
    source="recipe.md B25, L3; preflight.md, metric on last batch, mean of batch means",
)
def evaluation(subject: Subject, settings: CheckSettings) -> Finding:
    """The user's scores against the task's score of all predictions at once; batches are made to differ."""
    limits = settings.evaluation
    order = _by_target(subject, limits.examples)
    if len(order) < 4:
        return skipped("there are fewer than four validation examples")
    batch = max(2, len(order) // 3 - 1)
    procedure = rebuilt(subject, eval_batch_size=batch, data_workers=0)
    dataset, model = Recorded(subject.splits.validation, order), _spread_out(subject)
    with untouched_globals():
        given = procedure.evaluate(model, dataset)
    reads = Counter(dataset.reads)
    with untouched_globals():
        predictions, targets = predict(subject.task, model, dataset, procedure.trainer)
    true = {name: float(value) for name, value in subject.task.score(predictions, targets).items()}
    never, often = sum(reads[i] == 0 for i in range(len(order))), sum(count > 1 for count in reads.values())
    gaps = {n: abs(given[n] - v) / max(abs(v), 1e-3) for n, v in true.items() if n in given}
    worst = max(gaps, key=lambda name: gaps[name]) if gaps else ""
    fault = ""
    if never:
        fault = f"{never} of {len(order)} examples are left out"
    elif often and gaps and gaps[worst] > limits.fail:
        fault = f"{often} of {len(order)} examples are read more than once"
    elif gaps and not gaps[worst] <= limits.fail:
        fault = f"{worst} is {given[worst]:.6g}, over all examples at once it is {true[worst]:.6g}"
    if subject.task.objective not in given:
        fault = f"the objective {subject.task.objective} is missing"
    explanation = Explanation(
        meaning="Trials would be compared by a number that is not their score on the validation split.",
        causes=(
            "the score of the last batch is returned",
            "scores of batches of different size are averaged without weights",
            "drop_last, or a loop that ends early",
            "the model is not in evaluation mode",
        ),
        advice="collect predictions and targets of all batches, and call score() once",
    )
    threshold = f"every example once, scores within {limits.fail:g}"
    statistic = (
        fault or f"all {len(order)} examples once; largest relative difference {max(gaps.values(), default=0):.1g}"
    )
    return judged(Severity.FAIL if fault else Severity.PASS, statistic, threshold, explanation)


def _spread_out(subject: Subject) -> nn.Module:
    """A network whose outputs differ from example to example, even if its last layer starts at zero."""
    model = subject.new_model()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.ndim >= 2:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter.add_(noise * parameter.abs().mean().clamp_min(0.02))
    return model


@check(
    name="evaluation_mode",
    group="code",
    title="the evaluation runs in evaluation mode",
    source="recipe.md B8; preflight.md, never calls eval()",
)
def evaluation_mode(subject: Subject, settings: CheckSettings) -> Finding:
    """Modes of dropout and batch norm at the forward passes of the user's evaluation, from training mode."""
    model = subject.new_model().train()
    stuck: set[str] = set()

    def look(module: nn.Module, args: tuple[Any, ...]) -> None:
        stuck.update(name for name, part in module.named_modules() if isinstance(part, MODAL) and part.training)

    model.register_forward_pre_hook(look)
    dataset = Recorded(subject.splits.validation, _by_target(subject, 64))
    with untouched_globals():
        seed_everything(1)
        first = rebuilt(subject, data_workers=0).evaluate(model, dataset)
        seed_everything(2)
        second = rebuilt(subject, data_workers=0).evaluate(model, dataset)
    noisy = [name for name in first if _differ(first[name], second.get(name, first[name]))]
    parts = []
    if stuck:
        parts.append(f"{len(stuck)} modules in training mode: {', '.join(sorted(stuck)[:4])}")
    if noisy:
        parts.append(f"two evaluations give different scores: {', '.join(noisy)}")
    explanation = Explanation(
        meaning="Scores are noisy and do not belong to the model that will be used.",
        causes=("model.eval() is not called before the evaluation",),
        advice="call model.eval() before and model.train() after the evaluation",
    )
    severity = Severity.FAIL if parts else Severity.PASS
    return judged(severity, "; ".join(parts) or "evaluation mode throughout", "evaluation mode", explanation)


def _differ(one: float, other: float) -> bool:
    return abs(one - other) > 1e-6 * max(1.0, abs(one))


@check(
    name="evaluation_side_effects",
    group="code",
    title="an evaluation leaves the model as it was",
    source="recipe.md B24",
)
def evaluation_side_effects(subject: Subject, settings: CheckSettings) -> Finding:
    """Parameters and buffers before and after the user's evaluation."""
    model = subject.new_model().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    order = _by_target(subject, 64)
    with untouched_globals():
        rebuilt(subject, data_workers=0).evaluate(model, Recorded(subject.splits.validation, order))
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    explanation = Explanation(
        meaning="The network learns from the validation split.",
        causes=("batch norm in training mode at evaluation", "an optimizer step inside the evaluation"),
        advice="evaluate in evaluation mode and under torch.inference_mode()",
    )
    severity = Severity.FAIL if changed else Severity.PASS
    return judged(severity, f"{len(changed)} tensors change: {', '.join(changed[:4])}", "none", explanation)


@check(
    name="loader_pairs",
    group="code",
    title="batches hold inputs with their own targets",
    source="recipe.md A17",
)
def loader_pairs(subject: Subject, settings: CheckSettings) -> Finding:
    """The first batches of the user's loader against the data set at the same indices."""
    with untouched_globals():
        seed_everything(0)
        order = subject.procedure.training_order(subject.train_size(), 0)
        loader = subject.procedure.loader(subject.splits.train, True, 0)
        checked = wrong = 0
        for indices, (inputs, targets) in zip(order[:3], loader, strict=False):
            own_inputs, own_targets = collate(subject.splits.train, torch.as_tensor(indices))
            if own_inputs.shape != inputs.shape or own_targets.shape != targets.shape:
                continue
            same = _rows_equal(own_inputs, inputs)
            checked += int(same.sum())
            wrong += int((same & ~_rows_equal(own_targets, targets)).sum())
    if checked == 0:
        return skipped("inputs of the loader cannot be matched with the data set (augmented, or in another order)")
    explanation = Explanation(
        meaning="The network is trained on targets of other examples.",
        causes=("inputs and targets are shuffled independently", "targets are shifted by one"),
        advice="shuffle indices, and take inputs and targets by the same index",
    )
    share = wrong / checked
    severity = Severity.PASS if share == 0 else (Severity.FAIL if share > 0.02 else Severity.WARN)
    statistic = f"{wrong} of {checked} inputs come with another target than in the data set"
    return judged(severity, statistic, "none", explanation, {"share": share})


def _rows_equal(one: Tensor, other: Tensor) -> Tensor:
    equal = one == other
    return equal.reshape(len(one), -1).all(dim=1)


@check(
    name="epoch_coverage",
    group="code",
    title="five epochs show (nearly) all training examples",
    source="recipe.md B24",
)
def epoch_coverage(subject: Subject, settings: CheckSettings) -> Finding:
    """The share of training examples in five epochs' orders: sampling with replacement shows 99 % of them."""
    with untouched_globals():
        order = [
            batch for epoch in range(5) for batch in subject.procedure.training_order(subject.train_size(), epoch)
        ]
    seen = {int(index) for batch in order for index in torch.as_tensor(batch)}
    share = len(seen) / max(1, subject.train_size())
    limits = settings.epoch_coverage
    severity = Severity.PASS if share >= limits.warn else (Severity.FAIL if share < limits.fail else Severity.WARN)
    if not seen:
        return judged(Severity.FAIL, "an epoch has no batch", f"at least {limits.warn:.0%}", _COVERAGE)
    if max(seen) >= subject.train_size():
        return judged(
            Severity.FAIL, f"index {max(seen)} is beyond the split", f"below {subject.train_size()}", _COVERAGE
        )
    if severity is Severity.PASS:
        return passed(f"five epochs show {share:.1%} of the training examples", f"at least {limits.warn:.0%}")
    statistic = f"five epochs show {share:.1%} of the training examples"
    return judged(severity, statistic, f"at least {limits.warn:.0%}", _COVERAGE, {"share": share})


_COVERAGE = Explanation(
    meaning="Most of the data is never trained on.",
    causes=(
        "the iterator is made anew for every step",
        "drop_last with a large batch",
        "a subset left from debugging",
    ),
    advice="go through a permutation of all indices in every epoch",
)
