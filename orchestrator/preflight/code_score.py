"""The scores, tried on predictions that are known to be right or wrong."""

from torch import Tensor

from orchestrator.config.preflight import CheckSettings
from orchestrator.preflight.code_loss import EXAMPLES, probe_outputs, right_outputs, wrong_targets
from orchestrator.preflight.conditions import has_known_form
from orchestrator.preflight.registry import check
from orchestrator.preflight.report import Explanation, Finding, Severity, judged, skipped
from orchestrator.preflight.subject import Subject


@check(
    name="score_direction",
    group="code",
    title="every score is better for right predictions than for wrong ones, and counts every example",
    source="recipe.md B25, L1; preflight.md, metric on last batch, wrong direction",
    applies=has_known_form,
)
def score_direction(subject: Subject, settings: CheckSettings) -> Finding:
    """Scores of right and wrong outputs, of the same examples in another order, and with a part made wrong."""
    outputs, targets = probe_outputs(subject, 4 * EXAMPLES)
    form = subject.form
    if form.flattened:
        return skipped("the outputs have one row per target of all examples together")
    right, wrong = right_outputs(form, outputs, targets), right_outputs(form, outputs, wrong_targets(form, targets))
    best, worst = _scores(subject, right, targets), _scores(subject, wrong, targets)
    reversed_names = [
        name for name, direction in subject.task.directions.items() if direction.better(worst[name], best[name])
    ]
    unchanged = [] if reversed_names else [n for n in subject.task.directions if best[n] == worst[n]]
    blind = [] if unchanged else _blind_parts(subject, right, wrong, targets, best)
    fault = ""
    if reversed_names:
        fault = f"better for wrong predictions: {', '.join(reversed_names)}"
    elif subject.task.objective in unchanged:
        fault = f"the objective {subject.task.objective} is the same for right and wrong predictions"
    elif blind:
        fault = f"the objective does not change when examples {blind[0]} become wrong"
    explanation = Explanation(
        meaning="The search would optimise a number that does not say how good the predictions are.",
        causes=(
            "directions gives the wrong direction for a score",
            "score() looks at a part of the examples only",
            "predictions() undoes or distorts the outputs",
        ),
        advice="call task.score(task.predictions(outputs), targets) on outputs that are right and on wrong ones",
    )
    values = {f"right_{name}": best[name] for name in subject.task.directions}
    statistic = fault or f"{subject.task.objective} {best[subject.task.objective]:.4g} when right"
    return judged(
        Severity.FAIL if fault else Severity.PASS, statistic, "right better than wrong", explanation, values
    )


def _scores(subject: Subject, outputs: Tensor, targets: Tensor) -> dict[str, float]:
    predictions = subject.task.predictions(outputs.float()).cpu()
    scores = subject.task.score(predictions, targets.cpu())
    return {name: float(value) for name, value in scores.items()}


def _blind_parts(
    subject: Subject, right: Tensor, wrong: Tensor, targets: Tensor, best: dict[str, float]
) -> list[str]:
    """The quarters of the examples that may become wrong without the objective noticing."""
    name, found = subject.task.objective, []
    for start in range(0, len(targets) - 3, max(1, len(targets) // 4)):
        end = start + max(1, len(targets) // 4)
        mixed = right.clone()
        mixed[start:end] = wrong[start:end]
        if _scores(subject, mixed, targets)[name] == best[name]:
            found.append(f"{start} to {min(end, len(targets)) - 1} of {len(targets)}")
    return found
