"""One run of one method: started as a process, watched from outside, ended at the target or the cap."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import psutil

from live_methods.problems import Problem, problem
from live_methods.recording import LogReader, Note
from orchestrator.files import write_text
from orchestrator.tasks.loading import load_once
from orchestrator.training.data import size

BENCHMARKS = Path(__file__).parents[1]
POLL_S = 0.05


@dataclass(frozen=True)
class Job:
    """What a method is to do."""

    method: str
    task: str
    seed: int
    folder: Path
    """An empty folder for whatever the method writes."""
    workers: int = 2
    extra: tuple[str, ...] = ()
    """Words that change the problem for all methods (smaller trainings in a test)."""

    @property
    def log(self) -> Path:
        """Where the recorded task writes."""
        return self.folder / "epochs.jsonl"

    @property
    def problem(self) -> Problem:
        """The problem with its task recorded."""
        target = problem(self.task, *self.extra).config.task.target
        words = ("task._target_=live_methods.recording.recorded", f"+task.args.target={target}")
        return problem(self.task, *self.extra, *words, f"+task.args.log={self.log}")


@dataclass(frozen=True)
class Report:
    """Where a run stood after one epoch of one of its trials."""

    method: str
    task: str
    seed: int
    epochs: float
    """Trained so far by all workers together."""
    seconds: float
    """Since the method's process was started."""
    best: float
    """Lowest validation loss so far."""


@dataclass(frozen=True)
class Run:
    """A finished run, as it is kept."""

    method: str
    task: str
    seed: int
    workers: int
    target: float
    cap_epochs: int
    quiet: bool
    """Whether the machine did nothing else: only then seconds mean something."""
    end: str
    """target, cap, timeout, or exit: the method ended by itself."""
    reports: tuple[Report, ...]

    @property
    def epochs_to_target(self) -> float:
        return self._first("epochs")

    @property
    def seconds_to_target(self) -> float:
        return self._first("seconds")

    def _first(self, what: str) -> float:
        """Infinite if the target was not reached."""
        return next((float(getattr(row, what)) for row in self.reports if row.best <= self.target), math.inf)


Command = Callable[[Job], Sequence[str]]
"""The words of the process that does a job."""


def perform(job: Job, command: Command, *, target: float, cap_epochs: int, quiet: bool, timeout_s: float) -> Run:
    """Start the method, watch it, end it.

    Raises:
        SystemExit: the method failed before the target and the cap.
    """
    examples = size(load_once(problem(job.task, *job.extra).config.task)[1].train)
    output = job.folder / "output.txt"
    path = os.pathsep.join([str(BENCHMARKS.parent), str(BENCHMARKS)])
    # One thread a training: these networks are too small for two. Ray would run its workers at a lower priority.
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
    environment = {**os.environ, **own}
    reader, notes, end = LogReader(job.log), list[Note](), ""
    with output.open("wb") as sink:
        began = time.time()
        process = subprocess.Popen(
            list(command(job)), cwd=job.folder, env=environment, stdout=sink, stderr=subprocess.STDOUT
        )
        try:
            while not end:
                alive = process.poll() is None
                notes += reader.new()
                end = _end(notes, target, cap_epochs * examples, time.time() - began > timeout_s, alive)
                time.sleep(0 if end else POLL_S)
        finally:
            end_tree(process)
    if end == "exit" and process.returncode != 0:
        tail = output.read_text(errors="replace")[-3000:]
        sys.exit(f"{job.method} on {job.task}, seed {job.seed}, ended with {process.returncode}:\n{tail}")
    reports = tuple(follow(job, notes, began, examples))
    return Run(job.method, job.task, job.seed, job.workers, target, cap_epochs, quiet, end, reports)


def _end(notes: Sequence[Note], target: float, cap_examples: int, late: bool, alive: bool) -> str:
    """Why the run is over; empty if it goes on."""
    if any(note.loss <= target for note in notes):
        return "target"
    if sum(note.examples for note in notes) >= cap_examples:
        return "cap"
    if not alive:
        return "exit"
    return "timeout" if late else ""


def end_tree(process: subprocess.Popen[bytes], patience_s: float = 5.0) -> None:
    """End the process and every process that it started."""
    try:
        tree = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    except psutil.NoSuchProcess:
        tree = []
    for one in reversed(tree):
        _send(one.terminate)
    _, alive = psutil.wait_procs(tree, timeout=patience_s)
    for one in alive:
        _send(one.kill)
    process.wait()


def _send(signal: Callable[[], None]) -> None:
    try:
        signal()
    except psutil.NoSuchProcess:
        return


def follow(job: Job, notes: Sequence[Note], began: float, examples: int) -> list[Report]:
    """Reports from the log's lines, in the order of their times."""
    reports: list[Report] = []
    seen, best = 0, math.inf
    for note in sorted(notes, key=lambda note: note.time):
        seen += note.examples
        best = min(best, note.loss) if math.isfinite(note.loss) else best
        epochs, seconds = round(seen / examples, 2), round(note.time - began, 3)
        reports.append(Report(job.method, job.task, job.seed, epochs, seconds, best))
    return reports


def run_path(folder: Path, method: str, task: str, seed: int) -> Path:
    """Where a run is kept."""
    return folder / "runs" / f"{task}-{method}-seed{seed}.jsonl"


def write_run(path: Path, run: Run) -> None:
    """The run's facts, then a line a report."""
    head = asdict(replace(run, reports=()))
    rows = [head, *(asdict(report) for report in run.reports)]
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_run(path: Path) -> Run:
    """Undo :func:`write_run`."""
    head, *rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return Run(**{**head, "reports": tuple(Report(**row) for row in rows)})


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for one job; Ray keeps files open a moment longer."""
    return tempfile.TemporaryDirectory(prefix="live-", ignore_cleanup_errors=True)
