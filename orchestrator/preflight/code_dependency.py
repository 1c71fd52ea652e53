"""What depends on what: each example on itself only, each position on its past, outputs on inputs."""

import torch
from torch import Tensor, nn

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.conditions import keeps_examples_apart
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.state import untouched_globals
from orchestrator.preflight.subject import Subject
from orchestrator.training.loop import seed_everything

EXAMPLES = 8
"""Examples of a dependency check (our choice: every pair of them is looked at)."""

EXACT = 1e-6
"""Relative difference in float64 above which outputs differ (preflight.md: healthy exactly 0, faults above 0.2)."""
ROUNDED = 1e-3
"""The same in float32, for models that do not run in float64 (our guess: a thousand times its rounding)."""


class Double:
    """A network in evaluation mode, in float64 where it runs so."""

    def __init__(self, subject: Subject, inputs: Tensor) -> None:
        self.model = subject.new_model().eval()
        self.limit = EXACT
        self.exact = True
        try:
            self.model.double()
            self(inputs[:2])
        except (RuntimeError, TypeError, ValueError):
            # Not a fault: code that makes float32 tensors of its own does not run in float64.
            self.model = subject.new_model().eval()
            self.limit, self.exact = ROUNDED, False

    def __call__(self, inputs: Tensor) -> Tensor:
        """Outputs in float64."""
        if inputs.is_floating_point() and self.exact:
            inputs = inputs.double()
        # One seed for all passes: noise in evaluation is another check's business.
        with untouched_globals(), torch.no_grad():
            seed_everything(0)
            result: Tensor = self.model(inputs)
        return result.double()


def difference(one: Tensor, other: Tensor) -> float:
    """Largest absolute difference as a share of the typical size of ``one``."""
    scale = one.abs().mean().clamp_min(1e-12)
    return float((one - other).abs().max() / scale)


def other_values(inputs: Tensor, replacement: Tensor) -> Tensor:
    """Inputs of the same kind that differ from ``inputs``: other real numbers, or tokens of other examples.

    Columns of whole numbers may be numbers of categories: only values seen in them are put there.
    """
    if inputs.is_floating_point():
        changed = replacement + torch.randn_like(replacement) * replacement.std().clamp_min(1e-3)
        return torch.where(fractional(torch.cat([inputs, replacement])), changed, replacement)
    known = torch.unique(torch.cat([inputs.flatten(), replacement.flatten()]))
    place = torch.searchsorted(known, inputs)
    shift = max(1, len(known) // 2)
    others: Tensor = known[(place + shift) % len(known)]
    return others


def fractional(inputs: Tensor) -> Tensor:
    """Which features have a value that is not whole, for any example; all of them if none has."""
    found = (inputs != inputs.round()).any(dim=0)
    return found if bool(found.any()) else torch.ones_like(found)


@check(
    name="batch_dependency",
    group="code",
    title="the output of an example does not depend on the other examples of its batch",
    source="recipe.md B19; preflight.md, batch dependency",
    applies=keeps_examples_apart,
)
def batch_dependency(subject: Subject, settings: CheckSettings) -> Finding:
    """Replace one example, in evaluation mode, and compare the outputs of the others; works for tokens too."""
    inputs, _ = subject.train_examples(2 * EXAMPLES)
    half = len(inputs) // 2
    inputs, spare = inputs[:half], inputs[half : 2 * half]
    if half < 2:
        return skipped("there are fewer than four training examples")
    model = Double(subject, inputs)
    before = model(inputs)
    if len(before) % half:
        return skipped(f"the outputs have {len(before)} rows for {half} examples")
    worst = 0.0
    for row in (0, half // 2, half - 1):
        changed = inputs.clone()
        changed[row] = other_values(inputs, spare)[row]
        # Rows of one example stay together, or the outputs are rows of a sequence for each example.
        after, kept = _by_example(model(changed), half), [i for i in range(half) if i != row]
        worst = max(worst, difference(_by_example(before, half)[kept], after[kept]))
    explanation = Explanation(
        meaning="Examples leak into each other, so predictions depend on what else is in the batch.",
        causes=(
            "softmax, normalisation or mean over the axis of the examples",
            "view or reshape where permute was meant",
            "batch_first not set on a recurrent or attention layer",
        ),
        advice="look for dim=0, .view and batch_first; if it is meant, declare mixes_batch = True on the task",
    )
    return judged(
        Severity.FAIL if worst > model.limit else Severity.PASS,
        f"replacing one example changes the others' outputs by {worst:.2g} of their size",
        f"at most {model.limit:g}",
        explanation,
        {"change": worst},
    )


def _by_example(outputs: Tensor, examples: int) -> Tensor:
    return outputs.reshape(examples, -1)


def _is_causal(subject: Subject) -> str | None:
    return None if subject.task.causal else "the task is not declared causal"


@check(
    name="causality",
    group="code",
    title="the output at a position does not depend on later inputs",
    source="recipe.md B20; preflight.md, causality",
    applies=_is_causal,
)
def causality(subject: Subject, settings: CheckSettings) -> Finding:
    """Change the inputs from four positions on and compare the outputs before them."""
    inputs, _ = subject.train_examples(EXAMPLES)
    if inputs.ndim < 2 or inputs.shape[1] < 2:
        return skipped("the inputs have no axis of positions")
    model = Double(subject, inputs)
    length = inputs.shape[1]
    before = model(inputs)
    positions = before.reshape(len(inputs), length, -1) if before.numel() % (len(inputs) * length) == 0 else None
    if positions is None:
        return skipped("the outputs have no axis of positions")
    worst = 0.0
    for position in sorted({1, length // 3, 2 * length // 3, length - 1} - {0}):
        changed = inputs.clone()
        changed[:, position:] = other_values(inputs, inputs.flip(0))[:, position:]
        after = model(changed).reshape(positions.shape)
        worst = max(worst, difference(positions[:, :position], after[:, :position]))
    explanation = Explanation(
        meaning="The model reads what it is to predict, and will be useless where the future is not known.",
        causes=("no causal mask", "a causal mask off by one", "a convolution or normalisation across positions"),
        advice="mask every position above the diagonal: torch.triu(..., diagonal=1), or is_causal=True",
    )
    return judged(
        Severity.FAIL if worst > model.limit else Severity.PASS,
        f"changing later inputs changes earlier outputs by {worst:.2g} of their size",
        f"at most {model.limit:g}",
        explanation,
        {"change": worst},
    )


@check(
    name="target_in_input",
    group="code",
    title="the target at a position is not the input at that position",
    source="preflight.md, target in input",
)
def target_in_input(subject: Subject, settings: CheckSettings) -> Finding:
    """Share of targets that equal the input at the same place."""
    inputs, targets = subject.train_examples(256)
    if inputs.shape != targets.shape or inputs.ndim < 2:
        return skipped("inputs and targets have different shapes")
    if inputs.is_floating_point() or targets.is_floating_point():
        return skipped("reconstructing the input may be the task")
    share = float((inputs == targets)[targets >= 0].double().mean())
    explanation = Explanation(
        meaning="The model can copy its input instead of predicting.",
        causes=("the targets of a language model are not shifted by one position",),
        advice="inputs = tokens[:, :-1], targets = tokens[:, 1:]",
    )
    severity = Severity.FAIL if share >= settings.target_in_input.fail else Severity.PASS
    threshold = f"below {settings.target_in_input.fail:.0%}"
    return judged(severity, f"{share:.1%} of the targets equal the input", threshold, explanation, {"share": share})


@check(
    name="input_dependency",
    group="code",
    title="the outputs depend on the inputs, and differ from unit to unit",
    source="recipe.md B17, B21; preflight.md, all-zero init, attention mask ignored",
)
def input_dependency(subject: Subject, settings: CheckSettings) -> Finding:
    """How much outputs of untrained networks differ between different examples, as a share of their size."""
    inputs, targets = subject.train_examples(2 * EXAMPLES)
    if bool((inputs == inputs[:1]).all()):
        return skipped("all examples drawn have the same input")
    # In units of the targets where there are any; logits have 1.
    unit = float(targets.double().std()) if subject.is_regression and len(targets) > 1 else 1.0
    spreads = []
    for repeat in range(3):
        outputs = subject.outputs(subject.new_model(repeat), inputs).double()
        spreads.append(float((outputs - outputs[:1]).abs().max()))
    best = max(spreads)
    zero_last = _is_zero_initialised(subject.new_model())
    explanation = Explanation(
        meaning="The prediction is the same whatever the input is.",
        causes=(
            "inputs are not used in forward()",
            "all units are dead, or initial weights are far too small for the depth",
            "an axis of length 1 is normalised",
        ),
        advice="follow one example through forward() and find where its value is lost",
    )
    limit = settings.input_use.spread * max(unit, 1e-12)
    if best <= limit and zero_last:
        return passed("outputs are constant because some layer starts at zero")
    severity = Severity.FAIL if best <= limit else Severity.PASS
    statistic = f"outputs of different inputs differ by up to {best:.3g}"
    return judged(severity, statistic, f"above {limit:.1g}", explanation, {"spread": best})


def _is_zero_initialised(model: nn.Module) -> bool:
    """Whether some weight starts at zero, as the last layer of a branch or of a network often does."""
    return any(p.ndim >= 2 and not bool(p.any()) for p in model.parameters())


@check(
    name="input_use",
    group="code",
    title="every part of the input that varies has an influence on the outputs",
    source="recipe.md B21, B33; preflight.md, attention mask ignored",
)
def input_use(subject: Subject, settings: CheckSettings) -> Finding:
    """Share of varying inputs that change no output when other examples' values are put there, in three networks."""
    limits = settings.input_use
    inputs, _ = subject.train_examples(limits.examples)
    if len(inputs) < 4 or inputs[0].numel() < 2:
        return skipped("there are fewer than two inputs or four examples")
    networks = [subject.new_model(repeat).eval() for repeat in range(3)]
    flat = inputs.reshape(len(inputs), -1)
    varying = [int(i) for i in (flat != flat[:1]).any(dim=0).nonzero().flatten()]
    if not varying:
        return skipped("the inputs do not vary")
    suspects = _untouched_by_gradient(networks, inputs, varying) if inputs.is_floating_point() else varying
    step = max(1, len(suspects) // limits.features)
    unread = [i for i in suspects[::step] if not any(_reads(network, inputs, [i]) for network in networks)]
    share = len(unread) * step / len(varying)
    severity = Severity.PASS if not unread else (Severity.FAIL if share >= limits.fail else Severity.WARN)
    if share < limits.warn and severity is not Severity.PASS:
        severity = Severity.INFO
    explanation = Explanation(
        meaning="The network cannot use this part of its input.",
        causes=(
            "a slice or an index in forward() that leaves inputs out",
            "only the first or the last step of a sequence is used",
            "tokens or categories are clamped or cast",
            "a mask that is made and not used",
        ),
        advice="follow the input through forward(); leave out of the data what is not meant to be used",
    )
    statistic = f"about {share:.0%} of {len(varying)} varying inputs have no influence" + (
        f", the first at {tuple(int(i) for i in torch.unravel_index(torch.tensor(unread[0]), inputs.shape[1:]))}"
        if unread
        else ""
    )
    return judged(severity, statistic, f"below {limits.warn:.0%}", explanation, {"unread": share})


def _untouched_by_gradient(networks: list[nn.Module], inputs: Tensor, varying: list[int]) -> list[int]:
    """Those of ``varying`` for which no network's outputs have a gradient, for any example."""
    touched = torch.zeros(inputs[0].numel(), dtype=torch.bool, device=inputs.device)
    for network in networks:
        probe = inputs.clone().requires_grad_(True)
        outputs = network(probe)
        weights = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0)).to(outputs)
        if outputs.requires_grad:
            (gradient,) = torch.autograd.grad((outputs * weights).sum(), probe, allow_unused=True)
            if gradient is not None:
                touched |= (gradient != 0).reshape(len(inputs), -1).any(dim=0)
    return [i for i in varying if not bool(touched[i])]


def _reads(network: nn.Module, inputs: Tensor, features: list[int]) -> bool:
    """Whether the outputs change when ``features`` get the values of other examples."""
    flat = inputs.reshape(len(inputs), -1).clone()
    flat[:, features] = flat[:, features].flip(0)
    with torch.no_grad(), untouched_globals():
        seed_everything(0)
        before = network(inputs)
        seed_everything(0)
        after = network(flat.reshape(inputs.shape))
    return not torch.equal(before, after)


_NO_ACTIVATION = Explanation(
    meaning="All layers together do no more than a single one would.",
    causes=("no activation function between the layers", "activations defined in __init__ but not called"),
    advice="put an activation function after every layer but the last",
)


def _graph_nonlinearity(subject: Subject, inputs: Tensor) -> Finding:
    """For inputs that cannot be changed a little: whether the graph has any step that is not linear."""
    names = _step_names(subject.new_model().eval()(inputs))
    bent = sorted(names - {*LINEAR_STEPS, "Embedding"})
    if bent:
        return passed(f"steps that are not linear: {', '.join(bent[:4])}")
    statistic = "every step from the embedding to the outputs is linear"
    return judged(Severity.FAIL, statistic, "an activation function", _NO_ACTIVATION)


LINEAR_STEPS = (
    "AccumulateGrad", "Addmm", "Mm", "Bmm", "Matmul", "Linear", "Convolution", "MkldnnConvolution", "Add", "Sub",
    "Neg", "View", "UnsafeView",
    "Reshape", "ReshapeAlias", "T", "Transpose", "Permute", "Expand", "Squeeze", "Unsqueeze",
    "Select", "Slice", "Cat", "Stack", "Mean", "Sum", "Clone", "ToCopy", "Alias", "AsStrided", "Unbind", "Split",
    "AvgPool1D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "MkldnnAdaptiveAvgPool2D", "NativeBatchNorm",
    "ConstantPadNd", "Flatten", "Index",
)  # fmt: skip
"""Steps of PyTorch's graph that are linear in what passes through them, in evaluation mode."""
POOLING = ("MaxPool2DWithIndices", "MaxPool3DWithIndices", "AdaptiveMaxPool2D", "AdaptiveMaxPool3D")


def _only_pooling(subject: Subject, inputs: Tensor) -> bool:
    """Whether the graph of the outputs has max-pooling and otherwise only linear steps."""
    names = _step_names(subject.new_model().eval()(inputs))
    if not any(name.startswith(("Convolution", "MkldnnConvolution")) for name in names):
        return False
    return all(name in LINEAR_STEPS or name in POOLING for name in names)


def _step_names(outputs: Tensor) -> set[str]:
    """Names of all steps in the graph, without PyTorch's suffixes."""
    names, waiting, seen = set(), [outputs.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        names.add(node.name().rstrip("0123456789").removesuffix("Backward").split("::")[-1])
        waiting += [following for following, _ in node.next_functions]
    return names


def _layers(subject: Subject) -> int:
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return sum(isinstance(module, kinds) for module in subject.model.modules())


@check(
    name="nonlinearity",
    group="code",
    title="a network of several layers is not a linear function",
    source="recipe.md D9; preflight.md, nonlinearity",
)
def nonlinearity(subject: Subject, settings: CheckSettings) -> Finding:
    """Second difference of the outputs along random directions, as a share of the first, in float64."""
    if _layers(subject) < 2:
        return skipped("the network has fewer than two linear layers")
    inputs, _ = subject.train_examples(2 * EXAMPLES)
    if not inputs.is_floating_point():
        return _graph_nonlinearity(subject, inputs)
    model = Double(subject, inputs)
    if not model.exact:
        return skipped("the model does not run in float64")
    ratios = []
    for _ in range(3):
        step = torch.randn_like(inputs) * inputs.abs().mean().clamp_min(1e-3) * fractional(inputs)
        # In float64, or the sums would carry the rounding of float32.
        centre, step = inputs.double(), step.double()
        ahead, behind, here = model(centre + step), model(centre - step), model(centre)
        first = (ahead - behind).norm()
        if float(first) == 0:
            continue
        ratios.append(float((ahead + behind - 2 * here).norm() / first))
    if not ratios:
        return skipped("the outputs do not depend on the inputs")
    ratio = max(ratios)
    severity = Severity.FAIL if ratio < settings.nonlinearity.fail else Severity.PASS
    threshold = f"above {settings.nonlinearity.fail:g}"
    if severity is Severity.PASS and _only_pooling(subject, inputs):
        statistic = "nothing but max-pooling is not linear: no activation function is called"
        return judged(Severity.FAIL, statistic, "an activation function", _NO_ACTIVATION, {"ratio": ratio})
    statistic = f"the second difference is {ratio:.2g} of the first"
    return judged(severity, statistic, threshold, _NO_ACTIVATION, {"ratio": ratio})
