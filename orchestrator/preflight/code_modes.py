"""Modes and seeds: evaluation is deterministic, training flags follow the model, seeds decide everything."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.code_dependency import difference
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject
from orchestrator.training.loop import seed_everything

EXAMPLES = 64
"""Examples of a pass; dropout shows on a single one (our choice)."""


@check(
    name="eval_determinism",
    group="code",
    title="two passes in evaluation mode give the same outputs",
    source="recipe.md B8; preflight.md, eval determinism",
)
def eval_determinism(subject: Subject, settings: CheckSettings) -> Finding:
    """Compare evaluation passes under different seeds, and under the same one to tell noise from hardware."""
    inputs, _ = subject.validation_examples(EXAMPLES)
    model = subject.new_model().eval()
    passes = [_seeded_pass(model, inputs, seed) for seed in (1, 2, 1)]
    worst = difference(passes[0], passes[1])
    by_seed = worst > 1e-6 and difference(passes[0], passes[2]) < worst / 10
    severity = Severity.PASS if worst <= 1e-6 else (Severity.FAIL if by_seed else Severity.WARN)
    moved = _moved_buffers(model, inputs)
    if severity is Severity.PASS and moved:
        return judged(Severity.FAIL, f"an evaluation pass changes {moved[0]}", "nothing changes", _NOISY)
    return judged(
        severity,
        f"outputs of two evaluation passes differ by {worst:.2g} of their size",
        "at most 1e-06",
        _NOISY,
        {"change": worst},
    )


_NOISY = Explanation(
    meaning="Validation scores are noisy or depend on earlier passes, so trials cannot be compared.",
    causes=(
        "functional dropout without training=self.training",
        "eval() does not reach a submodule (kept in a plain list, or train() overridden)",
        "batch norm that keeps updating",
    ),
    advice="call F.dropout(x, p, self.training); keep submodules in ModuleList; do not override train()",
)


def _seeded_pass(model: nn.Module, inputs: Tensor, seed: int) -> Tensor:
    with untouched_globals(), torch.no_grad():
        seed_everything(seed)
        outputs: Tensor = model(inputs).double()
        return outputs


def _moved_buffers(model: nn.Module, inputs: Tensor) -> list[str]:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        model(inputs)
    return [name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])]


@check(
    name="module_modes",
    group="code",
    title="train() and eval() reach every module",
    source="preflight.md, frozen/trainable ledger, BN stuck in eval",
)
def module_modes(subject: Subject, settings: CheckSettings) -> Finding:
    """Flags of all modules after train() and after eval(), also after a forward pass."""
    inputs, _ = subject.train_examples(16)
    model = subject.new_model()
    stuck: dict[str, list[str]] = {"train": [], "eval": []}
    for mode in ("train", "eval", "train"):
        model.train(mode == "train")
        with torch.no_grad():
            model(inputs)
        wrong = [
            f"{name or 'the model'} ({type(module).__name__})"
            for name, module in model.named_modules()
            if module.training != (mode == "train")
        ]
        stuck[mode] += [name for name in wrong if name not in stuck[mode]]
    modal = [name for name in stuck["train"] + stuck["eval"] if "Norm" in name or "Dropout" in name]
    if not stuck["train"] and not stuck["eval"]:
        return passed("every module follows train() and eval()")
    declared = bool(subject.task.frozen) and not stuck["eval"]
    severity = Severity.INFO if declared or not modal else Severity.WARN
    # Dropout or batch norm in training mode at evaluation is never meant.
    if any(name in modal for name in stuck["eval"]):
        severity = Severity.FAIL
    if _own_norm_stuck(model, stuck["train"]) and not declared:
        severity = Severity.FAIL
    words = [f"not in {mode} mode: {', '.join(names[:4])}" for mode, names in stuck.items() if names]
    explanation = Explanation(
        meaning="Batch norm never learns its statistics, or dropout stays on, unlike the rest of the model.",
        causes=("train() is overridden and does not call super().train(mode)", "eval() is called in forward()"),
        advice="let train() and eval() reach every module; declare a frozen backbone with frozen = ('NAME.*',)",
    )
    return judged(severity, "; ".join(words), "none", explanation)


def _own_norm_stuck(model: nn.Module, stuck: list[str]) -> bool:
    """Whether a batch norm with trainable parameters stays in evaluation mode, with nothing around it frozen."""
    names = {entry.partition(" (")[0] for entry in stuck}
    frozen = any(not p.requires_grad for p in model.parameters())
    return not frozen and any(
        (name or "the model") in names and isinstance(module, _BatchNorm) for name, module in model.named_modules()
    )


@check(
    name="new_model",
    group="code",
    title="model() builds a new network with random weights at every call",
    source="recipe.md B22; preflight.md, seed determinism",
)
def new_model(subject: Subject, settings: CheckSettings) -> Finding:
    """Two calls share no parameter; the same seed gives the same weights, another seed others."""
    one, same, other = subject.new_model(), subject.new_model(), subject.new_model(1)
    shared = {id(p) for p in one.parameters()} & {id(p) for p in same.parameters()}
    if shared:
        explanation = Explanation(
            meaning="Every trial would go on with the weights of the trial before it.",
            causes=("the model, or a layer, is built once and returned again",),
            advice="build all layers inside model()",
        )
        return judged(Severity.FAIL, f"{len(shared)} tensors are shared by two calls", "none", explanation)
    if not _equal(one, same):
        explanation = Explanation(
            meaning="The same seed does not give the same network, so no trial can be repeated.",
            causes=("a random generator of its own without a fixed seed", "a seed from the clock"),
            advice="draw initial weights from PyTorch's global generator",
        )
        return judged(Severity.FAIL, "the same seed gives different weights", "the same", explanation)
    if _equal(one, other) and not subject.task.pretrained and any(p.requires_grad for p in one.parameters()):
        explanation = Explanation(
            meaning="Every trial starts from the same weights, so differences between seeds are not seen.",
            causes=("model() sets a seed", "all weights start at constants"),
            advice="remove manual_seed from model(); declare pretrained = True if the weights are loaded",
        )
        return judged(Severity.WARN, "different seeds give the same weights", "different ones", explanation)
    return passed("new weights at every call, decided by the seed")


def _equal(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in pairs)


@check(
    name="splits_determinism",
    group="code",
    title="splits() gives the same data at every call",
    source="recipe.md B22",
)
def splits_determinism(subject: Subject, settings: CheckSettings) -> Finding:
    """A few examples of a second call, under another seed, against those of the first."""
    with untouched_globals():
        seed_everything(12345)
        again = subject.task.splits()
        for name in ("train", "validation"):
            first, second = getattr(subject.splits, name), getattr(again, name)
            if len(first) != len(second):
                return judged(
                    Severity.FAIL, f"{name} has {len(first)} examples, then {len(second)}", "the same", _UNSTABLE
                )
            for index in {0, len(first) // 3, len(first) - 1}:
                if not torch.equal(torch.as_tensor(first[index][1]), torch.as_tensor(second[index][1])):
                    return judged(Severity.FAIL, f"{name}: target {index} differs", "the same", _UNSTABLE)
    return passed("the same examples twice")


_UNSTABLE = Explanation(
    meaning="Every worker would train and validate on other data; validation examples end up in training.",
    causes=("a random split without a fixed seed",),
    advice="give the split a seed of its own",
)


@check(
    name="seed_determinism",
    group="code",
    title="training twice with the same seed gives the same weights",
    source="recipe.md B22; preflight.md, seed determinism",
)
def seed_determinism(subject: Subject, settings: CheckSettings) -> Finding:
    """A few training steps twice."""
    if subject.train_size() < 4:
        return skipped("there are fewer than four training examples")
    results = [_train_a_little(subject, settings.seed_determinism.steps) for _ in range(2)]
    worst = max(difference(a, b) for a, b in zip(*results, strict=True))
    limit = 0.0 if subject.device.type == "cpu" else 1e-3
    severity = Severity.PASS if worst <= limit else (Severity.FAIL if subject.device.type == "cpu" else Severity.WARN)
    explanation = Explanation(
        meaning="No trial can be repeated, and differences between trials are partly chance.",
        causes=("a random generator that the seed does not reach", "state kept from an earlier call"),
        advice="draw from PyTorch's, NumPy's or Python's global generators only",
    )
    statistic = f"weights of two trainings of {settings.seed_determinism.steps} steps differ by {worst:.2g}"
    return judged(severity, statistic, f"at most {limit:g}", explanation, {"change": worst})


def _train_a_little(subject: Subject, steps: int) -> list[Tensor]:
    model = subject.new_model().train()
    # A copy, because a procedure may count its steps.
    procedure = copy.copy(subject.procedure)
    optimizer = procedure.optimizer(model)
    inputs, targets = subject.train_examples(EXAMPLES)
    with untouched_globals():
        seed_everything(1)
        for _ in range(steps):
            procedure.step(model, optimizer, inputs.clone(), targets.clone())
    return [parameter.detach().double() for parameter in model.parameters()]
