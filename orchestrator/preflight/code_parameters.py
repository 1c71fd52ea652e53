"""Parameters: every one is used, reached by the gradient, in the optimizer, and starts differently."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch

import torch
from torch import Tensor, nn, optim

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.conditions import is_not_pretrained
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject
from orchestrator.training.loop import seed_everything

EXAMPLES = 64
"""Examples of each step (our choice)."""
STEPS = 5
"""Zero-initialised residual branches get gradients only after some steps (preflight.md: 12 tensors at
step 1, 0 at step 5)."""
OWN_RATE = 1e-3
"""Learning rate of the Adam with which gradients are looked at, whatever the user's (our choice)."""


@dataclass(frozen=True)
class Traffic:
    """What a few steps of Adam showed about each trainable parameter, by name."""

    without_gradient: tuple[str, ...]
    """No gradient at any step."""
    zero_gradient: tuple[str, ...]
    """A gradient that was zero at every step."""
    moving: tuple[str, ...]
    uncalled: tuple[str, ...]
    """Modules with parameters of their own that forward() never called."""


def traffic(subject: Subject) -> Traffic:
    """Gradients of all trainable parameters over :data:`STEPS` steps from two initialisations."""
    if "traffic" not in subject.kept:
        subject.kept["traffic"] = _traffic(subject)
    found: Traffic = subject.kept["traffic"]
    return found


def _traffic(subject: Subject) -> Traffic:
    seen: dict[str, str] = {}
    called: set[str] = set()
    uncalled: list[str] = []
    for repeat in range(2):
        model = subject.new_model(repeat).train()
        for name, state, names in _gradients(subject, model, called):
            uncalled = [item for item in names if item not in called]
            if seen.get(name) != "moving":
                seen[name] = state if state == "moving" or seen.get(name) is None else max(seen[name], state)
    by_state = {kind: tuple(n for n, s in seen.items() if s == kind) for kind in ("moving", "none", "zero")}
    return Traffic(by_state["none"], by_state["zero"], by_state["moving"], tuple(uncalled))


def _gradients(subject: Subject, model: nn.Module, called: set[str]) -> Iterator[tuple[str, str, list[str]]]:
    """(parameter, none, zero or moving, modules with own parameters) after each step."""
    owners = [name for name, module in model.named_modules() if any(True for _ in module.parameters(recurse=False))]
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.add(name)) for name, module in model.named_modules()
    ]
    trainable = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not trainable:
        return
    optimizer = optim.Adam([p for _, p in trainable], lr=OWN_RATE)
    inputs, targets = subject.train_examples(EXAMPLES)
    with untouched_globals():
        seed_everything(0)
        for _ in range(STEPS):
            optimizer.zero_grad()
            loss = subject.loss(model(inputs.clone()), targets)
            torch.autograd.backward(loss)
            optimizer.step()
            for name, parameter in trainable:
                yield name, _state(parameter.grad), owners
    for hook in hooks:
        hook.remove()


def _state(gradient: Tensor | None) -> str:
    if gradient is None:
        return "none"
    gradient = gradient.coalesce().values() if gradient.is_sparse else gradient
    return "moving" if bool(gradient.any()) else "zero"


def listed(names: tuple[str, ...] | list[str], most: int = 4) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


@check(
    name="gradient_reach",
    group="code",
    title="the gradient of the loss reaches the parameters",
    source="recipe.md B4, B5; preflight.md, loss detached",
)
def gradient_reach(subject: Subject, settings: CheckSettings) -> Finding:
    """Whether any trainable parameter gets a gradient that is not zero."""
    found = traffic(subject)
    total = len(found.moving) + len(found.without_gradient) + len(found.zero_gradient)
    explanation = Explanation(
        meaning="No parameter can learn anything.",
        causes=(
            "the loss is made into a new tensor (item(), torch.tensor, numpy) or computed under no_grad",
            "outputs are detached",
            "all parameters are frozen",
        ),
        advice="compute the loss from the model's outputs with PyTorch operations only",
    )
    severity = Severity.PASS if found.moving else Severity.FAIL
    statistic = f"{len(found.moving)} of {total} trainable tensors get a gradient in {STEPS} steps"
    return judged(severity, statistic, "at least one", explanation, {"reached": len(found.moving)})


@check(
    name="unused_parameters",
    group="code",
    title="every trainable parameter takes part",
    source="recipe.md B3, B30; preflight.md, unused or not updating",
)
def unused_parameters(subject: Subject, settings: CheckSettings) -> Finding:
    """Parameters without a gradient, or with one that is always zero, over a few steps and two networks."""
    found = traffic(subject)
    if not found.moving:
        return skipped("no parameter gets a gradient, see gradient_reach")
    if not found.without_gradient and not found.zero_gradient:
        return passed(f"all {len(found.moving)} trainable tensors get a gradient within {STEPS} steps")
    uncalled = [name for name in found.uncalled if any(p.startswith(name) for p in found.without_gradient)]
    parts = []
    if found.without_gradient:
        parts.append(f"no gradient: {listed(found.without_gradient)}")
    if found.zero_gradient:
        parts.append(f"always zero: {listed(found.zero_gradient)}")
    if uncalled:
        parts.append(f"never called: {listed(uncalled)}")
    explanation = Explanation(
        meaning="A part of the network has no influence on the loss and never learns.",
        causes=(
            "a layer is made in __init__ and not used in forward()",
            "a variable is overwritten, so that layers before it are skipped",
            "detach(), no_grad or a conversion to NumPy in forward()",
        )
        if found.without_gradient
        else ("units that are dead from the start", "a branch multiplied by zero", "a layer whose input is constant"),
        advice="remove it or use it; what is frozen on purpose gets requires_grad_(False) and frozen = (...)",
    )
    none = bool(found.without_gradient) and not subject.task.pretrained
    values = {"without_gradient": len(found.without_gradient), "zero_gradient": len(found.zero_gradient)}
    return judged(Severity.FAIL if none else Severity.WARN, "; ".join(parts), "none", explanation, values)


@check(
    name="frozen_parameters",
    group="code",
    title="what is frozen is what the task declares frozen",
    source="recipe.md D14; preflight.md, frozen/trainable ledger",
)
def frozen_parameters(subject: Subject, settings: CheckSettings) -> Finding:
    """Compare ``requires_grad`` with ``Task.frozen``."""
    patterns = subject.task.frozen
    states = {name: p.requires_grad for name, p in subject.model.named_parameters()}
    declared = {name for name in states if any(fnmatch(name, pattern) for pattern in patterns)}
    frozen = {name for name, trains in states.items() if not trains}
    accidental, training = sorted(frozen - declared), sorted(declared - frozen)
    useless = [pattern for pattern in patterns if not any(fnmatch(name, pattern) for name in states)]
    parts = []
    if accidental:
        parts.append(f"frozen but not declared: {listed(accidental)}")
    if training:
        parts.append(f"declared frozen but trainable: {listed(training)}")
    if useless:
        parts.append(f"frozen names no parameter: {listed(useless)}")
    if not parts:
        return passed(
            f"{len(frozen)} of {len(states)} tensors are frozen, all declared" if frozen else "nothing frozen"
        )
    explanation = Explanation(
        meaning="Layers keep their random weights, or weights that should stay are changed.",
        causes=("requires_grad_(False) left over from an experiment", "a pattern in frozen that fits no name"),
        advice="train the layers, or declare them: frozen = ('NAME.*',) on the task",
    )
    return judged(Severity.WARN, "; ".join(parts), "only what is declared", explanation, {"frozen": len(frozen)})


@check(
    name="optimizer_coverage",
    group="code",
    title="the optimizer has every trainable parameter, once",
    source="recipe.md B5; preflight.md, optimizer coverage",
)
def optimizer_coverage(subject: Subject, settings: CheckSettings) -> Finding:
    """Compare the tensors of the optimizer's groups with those of the model."""
    model = subject.new_model()
    optimizer = subject.procedure.optimizer(model)
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    names = {id(p): name for name, p in model.named_parameters()}
    missing = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    foreign = len(set(held) - set(names))
    twice = len(held) - len(set(held))
    parts = []
    if missing:
        parts.append(f"not in the optimizer: {listed(missing)}")
    if foreign:
        parts.append(f"{foreign} tensors of the optimizer are not in the model")
    if twice:
        parts.append(f"{twice} tensors are in it twice")
    explanation = Explanation(
        meaning="Parts of the model never change although they get gradients.",
        causes=("the optimizer was made before a layer was added or replaced", "a group was left out by its name"),
        advice="make the optimizer from model.parameters() after the model is complete",
    )
    severity = Severity.FAIL if missing or foreign else (Severity.WARN if twice else Severity.PASS)
    statistic = "; ".join(parts) or f"all {len(set(held))} tensors"
    return judged(severity, statistic, "exactly the trainable parameters", explanation)


@check(
    name="symmetry",
    group="code",
    title="the units of a layer start with different weights",
    source="recipe.md C6; preflight.md, symmetry, all-zero init",
    applies=is_not_pretrained,
)
def symmetry(subject: Subject, settings: CheckSettings) -> Finding:
    """Equal rows in trainable weight matrices; a last layer or a single branch that starts at zero is fine.

    Rows that are equal get equal gradients and stay equal, unless what follows tells them apart.
    """
    weights = [
        (name, p.detach().reshape(len(p), -1))
        for name, p in subject.model.named_parameters()
        if p.ndim >= 2 and p.requires_grad and len(p) > 1 and p.numel() > len(p)
    ]
    if not weights:
        return skipped("there is no weight matrix")
    equal = [name for name, rows in weights if bool((rows == rows[:1]).all())]
    zero = [name for name, rows in weights if not bool(rows.any())]
    partly = [n for n, rows in weights if n not in equal and _repeated(rows) > 0.5 and not _sparse(rows)]
    constant = [name for name in equal if name not in zero]
    severity, found = Severity.PASS, constant
    if constant or len(zero) > max(1, len(weights) // 2) or len(equal) == len(weights):
        severity, found = Severity.FAIL, equal
    elif partly:
        severity, found = Severity.WARN, partly
    explanation = Explanation(
        meaning="Units with equal weights get equal gradients and stay copies of each other.",
        causes=("weights filled with a constant or with zeros", "one initial row repeated"),
        advice="use a random initialisation: PyTorch's own, nn.init.kaiming_normal_ or xavier_uniform_",
    )
    statistic = f"{len(equal)} of {len(weights)} weight matrices have equal rows" + (
        f": {listed(found)}" if severity is not Severity.PASS else f", {len(zero)} of them zero"
    )
    return judged(severity, statistic, "none but layers that start at zero on purpose", explanation)


def _repeated(rows: Tensor) -> float:
    """Share of rows that equal another one."""
    return 1 - len(torch.unique(rows, dim=0)) / len(rows)


def _sparse(rows: Tensor) -> bool:
    """Whether most entries are zero, as in padding rows or identity-like initialisations."""
    return float((rows == 0).double().mean()) > 0.5
