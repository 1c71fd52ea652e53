"""``stage=train``: one training of exactly the composed configuration."""

from orchestrator.app.wiring import make_program
from orchestrator.errors import InfeasibleTrialError, NoFeasibleTrialError
from orchestrator.files import exclusive_lock
from orchestrator.progress import Progress
from orchestrator.seeds import derive_seed
from orchestrator.stages.sweep import Plan
from orchestrator.training import checkpoint
from orchestrator.types import TrialSpec


def train(plan: Plan) -> str:
    """Train from scratch in this process and keep the best weights; returns what came of it.

    Raises:
        NoFeasibleTrialError: the training diverged.
    """
    config = plan.config
    folder = plan.folder / "train"
    seed = config.train.seed if config.train.seed is not None else derive_seed(config.seed, "train")
    spec = TrialSpec(
        number=0, stage="train", configuration=plan.base, seed=seed, epochs=config.trainer.epochs, directory=folder,
        schedule_epochs=config.train.schedule_epochs,
    )  # fmt: skip
    progress = Progress()
    best, best_epoch = plan.task.direction.worst, 0
    with exclusive_lock(folder / "lock"):
        checkpoint.remove(folder)
        try:
            for result in make_program(config)(spec):
                if plan.task.direction.better(result.value, best):
                    best, best_epoch = result.value, result.epoch
                progress.update(
                    f"[train] epoch {result.epoch}/{spec.epochs}, {plan.task.objective} {result.value:.4g}"
                )
        except InfeasibleTrialError as failed:
            raise NoFeasibleTrialError(f"train: {failed}") from None
    return (
        f"trained {config.task.name} with seed {seed}: best {plan.task.objective} {best!r} on validation after epoch "
        f"{best_epoch}\nweights: {folder / checkpoint.NAME} (key best.model)"
    )
