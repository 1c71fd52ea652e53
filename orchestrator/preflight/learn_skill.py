"""Is there something to learn: does a short training beat predictions that ignore the inputs?"""

from dataclasses import dataclass

import torch
from torch import Tensor

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.conditions import has_known_form
from orchestrator.preflight.forms import Kind
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed, skipped
from orchestrator.preflight.shorts import input_independent_loss, loss_on, trained
from orchestrator.preflight.subject import Subject
from orchestrator.training.data import Batch

RATE = 3e-3
"""Learning rate of Adam in short trainings (preflight.md: 0 of 170 failed to overfit with it)."""


@dataclass(frozen=True)
class Skill:
    """What short trainings reached on validation examples."""

    gain: float
    """1 - loss / loss of the best constant; the best of the checkpoints."""
    shuffled: tuple[float, ...]
    """The same with shuffled training targets, one per repeat."""
    loss: float
    constant: float
    examples: int
    """Training examples used."""


def skill(subject: Subject, settings: CheckSettings) -> Skill:
    """Short trainings with right and with shuffled targets, run once."""
    if "skill" not in subject.kept:
        subject.kept["skill"] = _skill(subject, settings)
    found: Skill = subject.kept["skill"]
    return found


def _skill(subject: Subject, settings: CheckSettings) -> Skill:
    limits = settings.skill
    train, val = subject.train_examples(limits.examples), subject.validation_examples(limits.examples)
    constant = input_independent_loss(subject, train, val)
    scale = max(abs(constant), 1e-12)

    def gain(loss: float) -> float:
        return (constant - loss) / scale

    shuffled = [gain(_best(subject, _shuffled(train, 0), val, limits.checkpoints[:2], 1))]
    best, reached = float("inf"), -float("inf")
    for _, model in trained(subject, train, limits.checkpoints, RATE):
        best = min(best, loss_on(subject, model, val))
        reached = gain(best)
        if reached > limits.clear and reached > 5 * shuffled[0]:
            break
    if reached <= max(limits.clear, 5 * shuffled[0]):
        shuffled = [gain(_best(subject, _shuffled(train, r), val, limits.checkpoints, 1 + r)) for r in range(3)]
    return Skill(reached, tuple(shuffled), best, constant, len(train[1]))


def _best(subject: Subject, train: Batch, val: Batch, checkpoints: tuple[int, ...], repeat: int) -> float:
    """The smallest validation loss at the checkpoints of one training."""
    models = trained(subject, train, checkpoints, RATE, repeat=repeat)
    return min((loss_on(subject, model, val) for _, model in models), default=float("inf"))


def _shuffled(batch: Batch, repeat: int) -> Batch:
    inputs, targets = batch
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(repeat)).to(targets.device)
    return inputs, targets[order]


@check(
    name="skill",
    group="learn",
    title="a short training beats the best constant prediction",
    source="recipe.md B17, B16, A17; preflight.md, skill",
    applies=has_known_form,
)
def skill_beats_constant(subject: Subject, settings: CheckSettings) -> Finding:
    """Gain over the best constant against the gain of trainings on shuffled targets."""
    if subject.train_size() < 8:
        return skipped("there are fewer than eight training examples")
    found, limits = skill(subject, settings), settings.skill
    chance = max(0.0, *found.shuffled)
    needed = max(limits.fail, 2 * chance)
    few = found.examples < limits.few
    severity = Severity.PASS
    if found.gain < needed:
        # Where shuffled targets already gain much, twice as much may not be possible.
        clear = found.gain < max(limits.fail, min(2 * chance, chance + limits.fail))
        severity = Severity.FAIL if clear and not few else Severity.WARN
    explanation = Explanation(
        meaning="The network learns nothing from its inputs that carries over to validation examples.",
        causes=(
            "targets do not belong to the inputs (shuffled or shifted independently)",
            "inputs are constant, destroyed by preprocessing, or do not reach the network",
            "there is nothing to learn, or far too little data",
        ),
        advice="look at decoded pairs of input and target; compare with the classical baselines",
    )
    statistic = (
        f"the loss of a short training is {found.loss:.4g}, of the best constant {found.constant:.4g}: "
        f"a gain of {found.gain:.3f}, with shuffled targets {chance:.3f}"
    )
    values = {"gain": found.gain, "shuffled": chance}
    return judged(severity, statistic, f"a gain of at least {needed:.3f}", explanation, values)


@check(
    name="shuffled_source",
    group="learn",
    title="with targets shuffled at the source nothing can be learned",
    source="recipe.md B15, B16; preflight.md, shuffled labels reach chance",
    applies=has_known_form,
)
def shuffled_source(subject: Subject, settings: CheckSettings) -> Finding:
    """Gain of short trainings on ``Task.shuffled``: what is learned there came from the targets into the inputs."""
    limits, gains = settings.shuffled_source, []
    for repeat in range(limits.repeats):
        task = subject.task.shuffled(repeat)
        if task is None:
            return skipped("the task does not offer its data with targets shuffled at the source (Task.shuffled)")
        other = Subject(task, subject.hyperparameters, trainer=subject.trainer, seed=subject.seed)
        train, val = (get(settings.skill.examples) for get in (other.train_examples, other.validation_examples))
        constant = input_independent_loss(other, train, val)
        best = _best(other, train, val, settings.skill.checkpoints, 0)
        gains.append((constant - best) / max(abs(constant), 1e-12))
    gain = min(gains)
    explanation = Explanation(
        meaning="The inputs carry the targets: preprocessing has used them.",
        causes=("target encoding or feature selection on all data", "a column made from the target"),
        advice="fit every step of preprocessing on training examples only, and without their targets",
    )
    severity = Severity.FAIL if gain > limits.fail else Severity.PASS
    statistic = f"with shuffled targets a short training gains {gain:.3f} over the best constant"
    return judged(severity, statistic, f"at most {limits.fail}", explanation, {"gain": gain})


@check(
    name="zero_input",
    group="learn",
    title="a network that sees its inputs beats one that does not",
    source="recipe.md B17; preflight.md, zero-input net",
)
def zero_input(subject: Subject, settings: CheckSettings) -> Finding:
    """Best validation loss of short trainings on the inputs against those on inputs that are all zero."""
    limits = settings.zero_input
    if subject.train_size() < 8:
        return skipped("there are fewer than eight training examples")
    train, val = subject.train_examples(settings.skill.examples), subject.validation_examples(settings.skill.examples)
    steps = settings.skill.checkpoints
    blind = _best(subject, _blind(train), _blind(val), steps[:2], 0)
    if not 0 < blind < float("inf"):
        return skipped(f"the loss without inputs is {blind:.3g}, which gives no ratio")
    real = (
        skill(subject, settings).loss if subject.form.kind is not Kind.OTHER else _best(subject, train, val, steps, 0)
    )
    ratio = real / blind
    severity = Severity.PASS if ratio <= limits.warn else Severity.WARN
    if ratio > limits.fail and len(train[1]) >= settings.skill.few and not subject.task.mixes_batch:
        severity = Severity.FAIL
    explanation = Explanation(
        meaning="The inputs do not help: the network does as well without them.",
        causes=("inputs are constant or destroyed before the network", "targets do not belong to the inputs"),
        advice="look at what enters the network, just before model(inputs)",
    )
    statistic = f"validation loss {real:.4g} with inputs, {blind:.4g} without: ratio {ratio:.3f}"
    return judged(severity, statistic, f"at most {limits.warn}", explanation, {"ratio": ratio})


def _blind(batch: Batch) -> Batch:
    inputs, targets = batch
    zeros: Tensor = torch.zeros_like(inputs)
    return zeros, targets


@check(
    name="capacity",
    group="learn",
    title="twice the width fits the training examples at least as well",
    source="recipe.md B18; preflight.md, capacity",
    applies=has_known_form,
)
def capacity(subject: Subject, settings: CheckSettings) -> Finding:
    """Training loss of networks of one and two widths after equal steps, mean of three seeds; INFO at most."""
    width = subject.arguments.get("width")
    if not isinstance(width, int):
        return skipped("the model takes no width")
    train = subject.train_examples(settings.skill.examples)
    steps = settings.capacity.steps
    losses = {}
    for factor in (1, 2):
        found = []
        for repeat in range(settings.capacity.seeds):
            model = subject.new_model(repeat, width=factor * width)
            for _, last in trained(subject, train, (steps,), RATE, repeat=repeat, model=model):
                found.append(loss_on(subject, last, train))
        losses[factor] = sum(found) / len(found) if found else float("nan")
    worse = losses[2] > settings.capacity.info * losses[1] and losses[2] > 1e-3
    explanation = Explanation(
        meaning="More capacity should lower the training loss.",
        causes=("the learning rate of the wider network is too high", "width does not reach the layers"),
        advice="check what width changes in the model",
    )
    severity = Severity.INFO if worse else Severity.PASS
    statistic = f"training loss {losses[1]:.4g} at width {width}, {losses[2]:.4g} at {2 * width} after {steps} steps"
    return judged(severity, statistic, "not larger", explanation, {"single": losses[1], "double": losses[2]})


@check(
    name="width_matters",
    group="learn",
    title="the width and depth of the model change its number of parameters",
    source="recipe.md B18, D4",
)
def width_matters(subject: Subject, settings: CheckSettings) -> Finding:
    """Number of parameters at the given and at the doubled width and depth."""
    names = [n for n in ("width", "depth") if isinstance(subject.arguments.get(n), int)]
    if not names:
        return skipped("the model takes neither width nor depth")
    count = sum(p.numel() for p in subject.model.parameters())
    idle = []
    for name in names:
        larger = subject.new_model(**{name: 2 * max(1, subject.arguments[name])})
        if sum(p.numel() for p in larger.parameters()) == count:
            idle.append(name)
    if not idle:
        return passed(f"{' and '.join(names)} change the number of parameters ({count:,})")
    explanation = Explanation(
        meaning="A stage that searches this hyperparameter compares equal networks.",
        causes=("the argument is accepted and not used",),
        advice="use the argument in model(), or leave it out of its signature",
    )
    return judged(Severity.WARN, f"no effect: {', '.join(idle)}", "more parameters", explanation)
