"""The gate: data, model, loss, gradient and scores can be had at all."""

import math
import traceback

import torch

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.registry import GATE, check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, passed
from orchestrator.preflight.subject import Subject

EXAMPLES = 16
"""Enough for batch norm, few enough for any network (our choice)."""


@check(
    name=GATE,
    group="code",
    title="data, model, loss, gradient and scores can be computed",
    source="recipe.md B24, B1",
)
def task_runs(subject: Subject, settings: CheckSettings) -> Finding:
    """One forward and backward pass and one scoring, as the training loop does them."""
    step = "splits()"
    try:
        subject.splits  # noqa: B018
        step = "model()"
        model = subject.new_model()
        step = "reading the examples of the splits"
        inputs, targets = subject.train_examples(EXAMPLES)
        others, other_targets = subject.validation_examples(EXAMPLES)
        step = "the model's forward pass on a training batch"
        outputs = model.train()(inputs)
        step = "loss()"
        loss = subject.loss(outputs, targets)
        if loss.shape != () or not loss.is_floating_point():
            return _broken(f"loss() gives a tensor of shape {tuple(loss.shape)}, {loss.dtype}, not one number")
        value = float(loss.detach())
        step = "the backward pass of the loss"
        if not loss.requires_grad:
            return _broken("the loss has no gradient: it does not depend on any trainable parameter")
        torch.autograd.backward(loss)
        step = "predictions() and score() on validation examples"
        scores = subject.task.score(
            subject.task.predictions(subject.outputs(model, others).float()).cpu(), other_targets.cpu()
        )
    except Exception as error:  # the user's code may raise anything
        return _broken(f"{step} raised {type(error).__name__}: {_line(error)}")
    missing = [name for name in subject.task.directions if name not in scores]
    if missing:
        return _broken(f"score() does not give {', '.join(missing)}, which directions names")
    if not math.isfinite(value):
        return _broken(f"the first loss is {value}")
    return passed("forward, backward and scores computed", values={"loss": value})


def _line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{text[0] if text else 'no message'} ({place.name}, line {place.lineno})"


def _broken(statistic: str) -> Finding:
    explanation = Explanation(
        meaning="No trial can train.",
        causes=("shapes of model, targets and loss do not fit together", "the loss is detached from the model"),
        advice="run one batch by hand: task.loss(task.model()(inputs), targets).backward()",
    )
    return judged(Severity.FAIL, statistic, "no error", explanation)
