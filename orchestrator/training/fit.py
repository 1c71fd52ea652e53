"""One trial from where it stands to its end: resumed from the newest checkpoint that is whole."""

from collections.abc import Iterator
from dataclasses import replace

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import DamagedError
from orchestrator.stores import check_shared
from orchestrator.tasks.base import Splits, Task
from orchestrator.training import checkpoint
from orchestrator.training.loop import Loop, pick_device
from orchestrator.training.memory import MemoryMeter
from orchestrator.training.parallel import ALONE, Group
from orchestrator.types import EpochResult, TrialSpec


def restore(loop: Loop) -> str:
    """Continue the newest checkpoint that is whole: the trial's own, the one before, or that of the trial that it
    continues. Where there is none at all it begins.

    Returns:
        a line about what is damaged or gone and where the trial goes on instead; empty: all is as it should be.

    Raises:
        StorageError: none is whole, or one cannot be read.
    """
    spec = loop.spec
    if not spec.keep:
        return ""
    places = [(spec.directory, checkpoint.NAME), (spec.directory, checkpoint.PREVIOUS)]
    if spec.resume_from is not None:
        places.append((spec.resume_from, checkpoint.NAME))
    damaged: DamagedError | None = None
    for folder, name in places:
        if not checkpoint.exists(folder, name):
            continue
        try:
            loop.restore(checkpoint.load(folder, name))
        except DamagedError as error:
            damaged = damaged or error
            continue
        break
    else:
        if damaged is not None:
            raise damaged
    due = _last_saved(loop)
    if damaged is None and loop.epoch >= due:
        return ""
    wrong = (
        str(damaged).partition(";")[0]
        if damaged
        else f"{spec.directory}: the checkpoint of epoch {due} or later is gone"
    )
    on = f"the older one, of epoch {loop.epoch}" if loop.epoch else "the start: there is no older one"
    return f"{wrong}; it goes on from {on}"


def _last_saved(loop: Loop) -> int:
    """The last epoch of which there must be a checkpoint: it was reported after that was written."""
    spec, every = loop.spec, loop.config.checkpoint_epochs
    due = (epoch for epoch in range(spec.reported, 0, -1) if epoch % every == 0 or epoch in spec.save_at)
    # What the trial continues was saved, whenever that was.
    return next(due, min(1, spec.reported) if spec.resume_from is not None else 0)


def fit(
    task: Task,
    splits: Splits,
    hyperparameters: Hyperparameters,
    config: TrainerConfig,
    spec: TrialSpec,
    group: Group = ALONE,
) -> Iterator[EpochResult]:
    """Train one trial, yielding after each epoch; continues from where :func:`restore` finds it.

    The loop state is written every ``checkpoint_epochs``, at ``spec.save_at``, at the end, and when the iterator is
    closed early. A resumed trial first yields the checkpoint's own epoch again, and those since the checkpoint before
    that the driver does not have: it may have been killed, or the power lost, after the checkpoint and before it had
    noted them. Of several ranks this is the first one's part.

    Raises:
        StorageError: ``spec.directory`` is not where the driver has made room for it, or cannot be read or written.
    """
    if spec.keep:
        check_shared(spec.directory)
    meter = MemoryMeter(pick_device(config, group.rank))
    loop = Loop(task, splits, hyperparameters, config, spec, group)
    note = restore(loop)
    # A damaged file is not worth keeping in place of the one before it.
    sound, saved = not note, loop.epoch
    again = [result for result in loop.recent if result.epoch > spec.reported or result.epoch == saved]
    loop.recent = []
    for result in again:
        yield replace(result, saved=True, note=note)
        note = ""
    try:
        while not loop.finished:
            result = loop.run_epoch()
            due = loop.epoch % config.checkpoint_epochs == 0 or loop.epoch in spec.save_at
            if spec.keep and (due or loop.finished):
                checkpoint.save(spec.directory, loop.state(), keep_old=sound)
                sound, saved, loop.recent = True, loop.epoch, []
            yield replace(result, saved=saved == loop.epoch, note=note, memory=meter.read())
            note = ""
    except GeneratorExit:
        if spec.keep and saved < loop.epoch:
            checkpoint.save(spec.directory, loop.state(), keep_old=sound)
        raise
