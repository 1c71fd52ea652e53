"""Reasons why checks do not apply, shared by several checks."""

from orchestrator.preflight.forms import Kind
from orchestrator.preflight.subject import Subject


def has_known_form(subject: Subject) -> str | None:
    """Needs to know what right outputs would be."""
    if subject.form.kind is not Kind.OTHER:
        return None
    if subject.task.mixes_batch:
        return "the loss mixes the examples of a batch (declared), so right outputs are not known"
    return "outputs and targets are neither classes, labels nor values, so right outputs are not known"


def is_classification(subject: Subject) -> str | None:
    """Needs classes or labels."""
    return has_known_form(subject) or (None if subject.is_classification else "the targets are not classes")


def is_not_pretrained(subject: Subject) -> str | None:
    """Needs random weights."""
    return "the model is pretrained (declared)" if subject.task.pretrained else None


def keeps_examples_apart(subject: Subject) -> str | None:
    """Needs outputs that depend on their own example only."""
    return "the task mixes the examples of a batch (declared)" if subject.task.mixes_batch else None
