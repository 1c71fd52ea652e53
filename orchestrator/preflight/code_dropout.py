"""Dropout that leaves too little of the signal."""

from torch.nn.modules.dropout import _DropoutNd

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, skipped
from orchestrator.preflight.subject import Subject

WARN = 0.8
"""WARN above this probability: of the published defaults none is above 0.5 (Srivastava et al. 2014, section 10:
0.2 for inputs, 0.5 for hidden units); 0.8 is our guess of where strong becomes a mistake for 1 - p."""


@check(
    name="dropout_strength",
    group="code",
    title="dropout leaves most of the signal",
    source="recipe.md G6; preflight.md, dropout 0.95",
)
def dropout_strength(subject: Subject, settings: CheckSettings) -> Finding:
    """The largest probability of any dropout module."""
    found = {name: module.p for name, module in subject.model.named_modules() if isinstance(module, _DropoutNd)}
    if not found:
        return skipped("there is no dropout module")
    name = max(found, key=found.__getitem__)
    severity = Severity.FAIL if found[name] >= 1 else Severity.WARN if found[name] > WARN else Severity.PASS
    explanation = Explanation(
        meaning="Hardly anything passes in training, so little is learned and slowly.",
        causes=("the share to keep was given where the share to drop is meant",),
        advice="start without dropout and add 0.1 to 0.5 once the network overfits",
    )
    return judged(
        severity,
        f"{name} drops {found[name]:.0%} of its inputs",
        f"at most {WARN:.0%}, blocked at 100%",
        explanation,
        {"largest": found[name]},
    )
