"""``stage=status``: where a sweep stands, also while another process drives it."""

from collections import Counter

from orchestrator.ensemble.shipped import describe as describe_shipped
from orchestrator.ensemble.shipped import shipped
from orchestrator.progress import table
from orchestrator.stages.ledger import Ledger, best_of, describe_reads
from orchestrator.stages.sweep import LEDGER_FILE, Plan
from orchestrator.study.records import incumbent
from orchestrator.study.study import SweepStudy
from orchestrator.types import TrialState


def describe_status(plan: Plan) -> str:
    """A table of the recipe's stages. Reads, and writes nothing."""
    ledger = Ledger.read(plan.folder / LEDGER_FILE)
    storage = None if ledger is None else plan.study.read(ledger.sweep_id)
    if ledger is None or storage is None:
        return f"sweep {plan.name}: nothing has run yet in {plan.folder}"
    study = SweepStudy(storage, plan.study.study(ledger.sweep_id), plan.task.direction, plan.space)
    rows = [["stage", "state", "complete", "stopped early", "infeasible", "running", f"best {plan.task.objective}"]]
    for name in dict.fromkeys(
        [*plan.config.recipe.order, *(record.stage for record in study.records), *ledger.finished]
    ):
        own = [record for record in study.records if record.stage == name]
        counts = Counter(record.state for record in own)
        best = incumbent(own, plan.task.direction)
        result = ledger.finished.get(name)
        state = "-" if result is None and not own else "under way" if result is None else "finished"
        if result is not None and result.get("skipped"):
            state = "skipped"
        if result is not None and result.get("failed"):
            state = "failed"
        order = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.INFEASIBLE, TrialState.RUNNING)
        value = best.value if best else (result or {}).get("mean")
        rows.append([name, state, *(str(counts[kind]) for kind in order), "" if value is None else f"{value:.4g}"])
    best = best_of(ledger.finished, study.records, plan.task.direction)
    lines = [f"sweep {plan.name} in {plan.folder}", table(rows)]
    if best is not None:
        lines.append(
            f"best so far: trial {best.number} of stage {best.stage}, {plan.task.objective} {best.value:.4g}"
        )
    if models := shipped(plan.folder, plan.config, ledger.finished, best, plan.task.objective):
        lines.append(describe_shipped(models, plan.task.objective))
    if audited := ledger.finished.get("audit"):
        lines.append(audited["text"])
    if ledger.test_reads:
        lines.append(f"the test split was read {describe_reads(ledger.test_reads)}")
    return "\n".join(lines)
