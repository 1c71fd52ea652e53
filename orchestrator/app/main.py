"""The command: from words to an exit code."""

import logging
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from types import FrameType

from orchestrator.app.audit import audit
from orchestrator.app.distill import distill
from orchestrator.app.plan import describe_plan, stages_of, try_task
from orchestrator.app.predict import predict
from orchestrator.app.status import describe_status
from orchestrator.app.train import train
from orchestrator.app.ui import serve_ui
from orchestrator.app.wiring import (
    check_checkpoint_dir,
    check_storage,
    check_sweep_dir,
    check_tracking,
    code_version,
    make_program,
    make_runner,
    make_tracker,
)
from orchestrator.config.compose import to_plain, to_yaml
from orchestrator.config.entry import run_command, use_words
from orchestrator.config.schema import RunConfig, SweepConfig
from orchestrator.ensemble.distill import describe as describe_distill
from orchestrator.ensemble.result import describe as describe_ensemble
from orchestrator.ensemble.ship import ship, track_models
from orchestrator.ensemble.shipped import describe as describe_shipped
from orchestrator.ensemble.shipped import shipped
from orchestrator.ensemble.stage import choose_ensemble, judge_ensemble
from orchestrator.ensemble.winner import files, keep_predictions, track_data
from orchestrator.errors import InterruptedSweepError, NoFeasibleTrialError, OrchestratorError, StorageError
from orchestrator.files import is_storage_trouble, storage_trouble, write_text
from orchestrator.masking import Masking, mask, mask_addresses, masked
from orchestrator.preflight.registry import overview
from orchestrator.progress import Progress, log_to, short, table
from orchestrator.report.logbook import logbook
from orchestrator.report.page import REPORT_FILE, Report, write_report
from orchestrator.report.view import read_view, view_of
from orchestrator.stages.ledger import describe_reads
from orchestrator.stages.memory_limit import limit_batch_size
from orchestrator.stages.notes import over_seeds
from orchestrator.stages.preflight import baselines, check_names, compare_with_baselines, run_preflight_stage
from orchestrator.stages.recipe import StageSequence
from orchestrator.stages.sweep import Plan, Sweep, make_plan, open_sweep, retrain_command
from orchestrator.stages.visits import stage_of
from orchestrator.study.storage import quiet_optuna
from orchestrator.tracking.address import tracking_uri
from orchestrator.tracking.base import SWEEP, stage_key
from orchestrator.utilisation import Utilisation, added, shares
from orchestrator.utilisation import describe as describe_usage

_MASKING = Masking()


def main(words: list[str] | None = None) -> int:
    """Run the command given by ``words`` (default: the process's arguments); returns the exit code."""
    use_words(words)
    quiet_optuna()
    # The tracker logs here, addresses and all.
    logging.getLogger("orchestrator").addFilter(_MASKING)
    try:
        return run_command(_dispatch)
    except OrchestratorError as error:
        print(f"orchestrator: {mask_addresses(str(error))}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if not is_storage_trouble(error):
            raise
        print(f"orchestrator: {storage_trouble(error.filename or 'a file', error)}", file=sys.stderr)
        return StorageError.exit_code
    except KeyboardInterrupt:
        print("orchestrator: interrupted", file=sys.stderr)
        return InterruptedSweepError.exit_code


def _dispatch(config: RunConfig) -> int:
    if config.preflight.list:
        print(overview())
        return 0
    if config.stage.name == "predict":
        print(predict(config))
        return 0
    plan = make_plan(config)
    stages = stages_of(config)
    check_names(config.preflight)
    tracking_uri(config)
    if config.stage.name == "status":
        print(describe_status(plan))
    elif config.stage.name == "audit":
        audit(plan, run_stages)
    elif config.stage.name == "report":
        print(f"report: {write_report(read_view(plan)).page}")
    elif config.stage.name == "logbook":
        print(logbook(read_view(plan), config.logbook))
    elif config.stage.name == "ui":
        serve_ui(plan)
    else:
        try_task(plan)
        if config.dry_run:
            print(mask_addresses(describe_plan(plan, stages, tracking_uri(config))))
        elif config.stage.name == "train":
            print(train(plan))
        else:
            run_stages(plan, stages)
    return 0


def run_stages(plan: Plan, names: list[str]) -> None:
    """Run or continue the stages ``names`` of the plan's sweep.

    Raises:
        OrchestratorError: see :mod:`orchestrator.errors`.
    """
    needing = ("finalists", "ensemble", "distill")
    if all(plan.config.stages[name].kind in needing for name in names) and not plan.exists:
        raise NoFeasibleTrialError(f"sweep {plan.name} has no trained checkpoint; run a search stage first")
    if not plan.exists:
        # Later MLflow may be away: trials go on without it.
        check_tracking(plan.config)
        check_checkpoint_dir(plan.config)
        check_storage(plan.config)
    check_sweep_dir(plan)
    progress = Progress()
    with open_sweep(plan, progress) as sweep, log_to(sweep.folder / "orchestrator.log"):
        _note_command(sweep)
        _announce(sweep, names)
        _run_tracked(sweep, names)


def _run_tracked(sweep: Sweep, names: list[str]) -> None:
    finished = sweep.ledger.finished
    sweep.begin_tracking(make_tracker(sweep), code_version())
    if (report := sweep.folder / REPORT_FILE).exists():
        # MLflow may have been away when it was written.
        sweep.tracker.file(SWEEP, "report", report)
    status = "KILLED"
    try:
        with graceful_interrupt() as stopping:
            for name in names:
                if sweep.config.stages[name].kind == "preflight":
                    run_preflight_stage(sweep, name, stopping, again=names == [name])
            trained = ("search", "finalists")
            _train(sweep, [name for name in names if sweep.config.stages[name].kind in trained], stopping)
            _combine(sweep, names, stopping)
            if stopping():
                raise InterruptedSweepError(
                    "interrupted; running trials were checkpointed, and the same command goes on from here"
                )
        status = "FINISHED"
        _conclude(sweep)
    except OrchestratorError as error:
        status = "KILLED" if isinstance(error, InterruptedSweepError) else "FAILED"
        raise
    finally:
        if sweep.ledger.finished != finished:
            _ship(sweep)
            _report(sweep)
        if status == "FINISHED":
            # Once a command: a winner on the way is no model of its own. The tracker skips those that it has.
            track_models(sweep)
        best = sweep.best
        metrics = {"best": best.value} if best is not None and best.value is not None else {}
        for name, scores in baselines(sweep).items():
            metrics |= {f"baseline/{name}/{score}": value for score, value in scores.items()}
        workers = [worker for command in sweep.ledger.usage for worker in command["workers"]]
        metrics |= {f"workers/{use}": share for use, share in shares(added(workers)).items()}
        sweep.tracker.end(SWEEP, status, metrics, {})
        sweep.tracker.close()


def _train(sweep: Sweep, names: list[str], stopping: Callable[[], bool]) -> None:
    if all(name in sweep.ledger.finished for name in names):
        for name in names:
            sweep.progress.say(f"[{name}] finished before; skipped")
        return
    began = time.monotonic()
    runner = make_runner(sweep.config, sweep.progress, stopping)
    try:
        limit_batch_size(sweep, runner)
        usage = Utilisation(runner.workers, began=began)
        stages = StageSequence(sweep, names, stopping, runner.workers, usage)
        try:
            runner.run(make_program(sweep.config), stages)
        finally:
            stages.note_usage()
        sweep.progress.say(describe_usage(usage.workers, usage.seconds))
    finally:
        runner.close()
        sweep.checkpoints.tidy(sweep.study.records)


def _combine(sweep: Sweep, names: Sequence[str], stopping: Callable[[], bool]) -> None:
    """The stages after the trainings. Where a student is to come, the ensemble is judged when that is trained: the
    test split is read once, for both."""
    kinds = {name: sweep.config.stages[name].kind for name in names}
    students = [name for name in names if kinds[name] == "distill"]
    coming = next((name for name in students if name not in sweep.ledger.finished), None)
    judge: Callable[[], None] | None = None
    for name in names:
        if kinds[name] == "ensemble" and not stopping():
            judge = _ensemble(sweep, name)
            if judge is not None and coming is None:
                judge()
    try:
        for name in students:
            if not stopping():
                _distill(sweep, name, stopping, judge if name == coming else None)
    except OrchestratorError as error:
        # No student: the ensemble is there all the same. (A full disk stops its judge, too.)
        if judge is not None and not isinstance(error, (InterruptedSweepError, StorageError)):
            judge()
        raise


def _ensemble(sweep: Sweep, name: str) -> Callable[[], None] | None:
    """Choose the ensemble; returns what judges it on test, where that may be."""
    reader = sweep.ledger.test_reader
    if reader is not None and not sweep.config.ensemble.read_test_again:
        read = describe_reads(sweep.ledger.test_reads)
        done = "finished before; skipped" if reader == name else "not run"
        sweep.progress.say(
            f"[{name}] {done}: the test split is read once, and was read by {reader} {read}; "
            "ensemble.read_test_again=true reads it again"
        )
        return None
    chosen = choose_ensemble(sweep, name)

    @cache
    def judge() -> None:
        result = judge_ensemble(sweep, chosen)
        text = f"[{name}] verdict:\n{describe_ensemble(result, list(sweep.task.directions))}"
        sweep.ledger.finish(name, result, text)
        sweep.track_stage_end(name)
        sweep.progress.say(text)

    return judge


def _distill(sweep: Sweep, name: str, stopping: Callable[[], bool], judge: Callable[[], None] | None) -> None:
    if name in sweep.ledger.finished:
        sweep.progress.say(f"[{name}] finished before; skipped")
        return
    result = distill(sweep, name, stopping, judge)
    text = f"[{name}] verdict:\n{describe_distill(sweep, result)}"
    sweep.ledger.finish(name, result, text)
    sweep.track_stage_end(name)
    sweep.progress.say(text)


def _ship(sweep: Sweep) -> None:
    """Make the models to ship; a failure to do so must not hide how the command ended."""
    try:
        ship(sweep)
        if models := shipped(sweep.folder, sweep.config, sweep.ledger.finished, sweep.best, sweep.task.objective):
            sweep.progress.say(describe_shipped(models, sweep.task.objective))
    except Exception as error:
        logging.getLogger("orchestrator.files").exception("a model to ship could not be made")
        sweep.progress.say(
            f"a model to ship could not be made ({type(error).__name__}: {error}); the log has the traceback"
        )


def _report(sweep: Sweep) -> None:
    """Write the report, and say where; a failure to do so must not hide how the command ended."""
    try:
        keep_predictions(sweep)
        track_data(sweep)
        report = write_report(view_of(sweep))
    except Exception as error:
        logging.getLogger("orchestrator.files").exception("the report could not be written")
        sweep.progress.say(
            f"the report could not be written ({type(error).__name__}: {error}); the log has the traceback, and "
            "python run.py stage=report tries again"
        )
        return
    track_report(sweep, report)
    sweep.progress.say(f"report: {report.page}")


def track_report(sweep: Sweep, report: Report) -> None:
    """The page and all pictures for the sweep's run; the pictures of a stage for the run of its last visit too."""
    sweep.tracker.file(SWEEP, "report", report.page)
    for path in files(sweep.folder):
        sweep.tracker.file(SWEEP, "report", path)
    last = {stage_of(key): key for key in sweep.ledger.finished}
    for part, paths in report.pictures.items():
        visit = last.get(part.removeprefix("stage-"))
        for path in paths:
            sweep.tracker.file(SWEEP, "pictures", path)
            if visit is not None:
                sweep.tracker.file(stage_key(visit), "pictures", path)


def _announce(sweep: Sweep, names: list[str]) -> None:
    """Say what begins, and from what, where the recipe's earlier stages have not run."""
    say = sweep.progress.say
    say(f"sweep {sweep.name} in {sweep.folder}")
    order = list(sweep.config.recipe.order)
    if names[0] in order:
        settings = sweep.config.stages
        # A stage without a budget only opens the whole recipe.
        asking = [name for name in order if settings[name].kind == "search" and settings[name].budget != 0]
        earlier = order[: order.index(names[0])]
        missing = [name for name in asking if name in earlier and name not in sweep.ledger.finished]
        if missing:
            origin = f"trial {sweep.best.number}" if sweep.best else "the task's defaults"
            say(f"not run yet: {', '.join(missing)}; {names[0]} starts from {origin}")


def _conclude(sweep: Sweep) -> None:
    best = sweep.best
    if best is None:
        return
    sweep.write_winner()
    say = sweep.progress.say
    changed = [name for name in sweep.space.hyperparameters if best.configuration[name] != sweep.base[name]]
    rows = [["hyperparameter", "default", "best"]]
    rows += [[name, short(sweep.base[name]), short(best.configuration[name])] for name in changed]
    seeds = over_seeds(sweep.ledger.finished)
    told = f"; its configuration has {seeds}" if seeds else ""
    say(f"best so far: trial {best.number}, {sweep.task.objective} {best.value:.4g} on validation{told}")
    if len(rows) > 1:
        say(table(rows))
    if comparison := compare_with_baselines(sweep):
        say(comparison)
        sweep.tracker.artifact(SWEEP, "baselines.txt", comparison + "\n")
    say(f"best learning rate: {best.configuration['optimizer.lr']:.4g}")
    say(f"train it again: {retrain_command(sweep.folder)}")
    if sweep.config.tracking.name == "mlflow":
        say(f"look at it: {mask(_ui_command(sweep.config))}")


def _ui_command(config: RunConfig) -> str:
    """The command that serves MLflow's pages of the sweep's store and task."""
    words = ["stage=ui", f"task={config.task.option}"]
    if config.task.option == "custom":
        words += [f"task.name={config.task.name}", f"task._target_={config.task.target}"]
    if config.sweep.dir != SweepConfig().dir:
        words.append(f"sweep.dir={config.sweep.dir}")
    if config.tracking.uri is not None:
        words.append(f"tracking.uri={config.tracking.uri}")
    return f"python run.py {shlex.join(words)}"


def _note_command(sweep: Sweep) -> None:
    """Keep each command's words and composed configuration."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
    words = f"# {mask(shlex.join(sys.argv))}\n"
    write_text(sweep.folder / "commands" / f"{stamp}.yaml", words + to_yaml(masked(to_plain(sweep.config))))


@contextmanager
def graceful_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C (or SIGTERM) has come; a second one ends at once."""
    asked = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        # os.write: printing from a signal handler may find the stream's lock taken.
        os.write(2, b"\norchestrator: stopping after the running epochs; once more to stop at once\n")

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
