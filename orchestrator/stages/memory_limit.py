"""Before a search: how large a batch may be, by trying in a worker (:mod:`orchestrator.batch_probe`)."""

from dataclasses import replace

from orchestrator.batch_probe import BATCH_SIZE, BatchProbe
from orchestrator.errors import ConfigError
from orchestrator.runners.base import Runner
from orchestrator.stages.sweep import Sweep
from orchestrator.types import NO_TRIAL, Decision, End, EpochResult, Outcome, TrialSpec


def limit_batch_size(sweep: Sweep, runner: Runner) -> None:
    """Let the search propose no batch size beyond what memory holds with the sweep's defaults.

    It is tried once a sweep; the ledger keeps what was found.

    Raises:
        ConfigError: the default batch size does not fit, or the smallest of the space.
    """
    if BATCH_SIZE not in sweep.space or sweep.config.recipe.probe_batch_size == "never":
        return
    limit = sweep.ledger.batch_limit
    if limit is None:
        limit = _probe(sweep, runner)
        if limit is None:
            return
        sweep.ledger.note_batch_limit(limit)
    _apply(sweep, limit)


def _probe(sweep: Sweep, runner: Runner) -> int | None:
    config, item = sweep.config, sweep.space[BATCH_SIZE].config
    probe = BatchProbe(
        config.task,
        config.trainer,
        config.runner.cpus_per_trial,
        highest=int(item.hard_limits[1]),
        anywhere=config.recipe.probe_batch_size == "always",
    )
    spec = TrialSpec(
        number=NO_TRIAL,
        stage="batch size",
        configuration=sweep.base,
        seed=0,
        epochs=1,
        directory=sweep.checkpoints.location(0),
        keep=False,
        timeout_s=config.failure.trial_timeout_s,
    )
    trying = _Trying(spec)
    runner.run(probe, trying)
    assert trying.outcome is not None
    reason = trying.outcome.reason
    if trying.outcome.end is not End.FINISHED and not (trying.largest or (reason is not None and reason.of_memory)):
        # Whatever is wrong, the trials will say it, and the failure policy deals with it.
        sweep.progress.say(f"the largest batch size was not found: {trying.outcome.detail.partition(chr(10))[0]}")
        return None
    return trying.largest


def _apply(sweep: Sweep, limit: int) -> None:
    item, base = sweep.space[BATCH_SIZE].config, int(sweep.base[BATCH_SIZE])
    low, high = item.hard_limits
    if limit >= high:
        return
    assert item.low is not None
    assert item.high is not None
    if limit < base or limit <= item.low:
        what = f"data.batch_size={base}" if limit < base else f"space.data.batch_size.low={item.low}"
        most = f"the largest batch that fits has {limit} examples" if limit else "not even one example fits"
        raise ConfigError(f"{what}: does not fit in memory: {most}; make it smaller, or the model")
    sweep.space = sweep.space.with_range(
        replace(item, high=min(int(item.high), limit), limits=(low, limit)), BATCH_SIZE
    )
    sweep.progress.say(f"memory holds batches of up to {limit} examples: no larger one is proposed")


class _Trying:
    """See :class:`~orchestrator.runners.base.Controller`."""

    def __init__(self, spec: TrialSpec) -> None:
        self._waiting = [spec]
        self.largest = 0
        self.outcome: Outcome | None = None

    def ask(self) -> TrialSpec | None:
        return self._waiting.pop() if self._waiting else None

    def report(self, number: int, result: EpochResult) -> Decision:
        self.largest = int(result.value)
        return Decision.CONTINUE

    def tell(self, number: int, outcome: Outcome) -> None:
        self.outcome = outcome

    def commit(self) -> None:
        pass
