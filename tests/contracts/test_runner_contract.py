"""What every runner promises; see orchestrator/runners/base.py. Each test runs on each runner."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from runner_programs import Play, notes

from orchestrator.config.hyperparameters import Hyperparameters, OptimizerConfig
from orchestrator.config.schema import TaskConfig, TrainerConfig
from orchestrator.errors import StorageError
from orchestrator.process import killed_for_memory
from orchestrator.runners.base import Runner
from orchestrator.runners.inline import InlineRunner
from orchestrator.runners.simulation import SimulationRunner
from orchestrator.training import checkpoint
from orchestrator.trial import TrainingProgram
from orchestrator.types import Decision, End, EpochResult, Outcome, Reason, TrialSpec
from orchestrator.utilisation import Use, Utilisation, added, shares

pytestmark = pytest.mark.timeout(120)

Decide = Callable[[int, EpochResult], Decision]


@pytest.fixture(params=["inline", "simulation", "simulation of one", "local", "ray"])
def runner(request: pytest.FixtureRequest) -> Runner:
    if request.param == "inline":
        return InlineRunner()
    if request.param.startswith("simulation"):
        return SimulationRunner(1 if request.param.endswith("one") else 2)
    found: Runner = request.getfixturevalue(f"{request.param}_runner")
    return found


@pytest.fixture(params=["local", "ray"])
def processes(request: pytest.FixtureRequest) -> Runner:
    """A runner with two worker processes."""
    found: Runner = request.getfixturevalue(f"{request.param}_runner")
    return found


class Recorder:
    """A controller that hands out prepared trials and writes down all that happens."""

    def __init__(self, specs: Sequence[TrialSpec], decide: Decide = lambda number, result: Decision.CONTINUE) -> None:
        self.waiting = list(specs)
        self.decide = decide
        self.events: list[tuple[Any, ...]] = []
        self.results: dict[int, list[EpochResult]] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.running: set[int] = set()
        self.most_running = 0
        self.commit_s = 0.0
        self.commits: list[tuple[int, float]] = []

    def ask(self) -> TrialSpec | None:
        if not self.waiting:
            return None
        spec = self.waiting.pop(0)
        self.events.append(("ask", spec.number))
        self.results[spec.number] = []
        self.running.add(spec.number)
        self.most_running = max(self.most_running, len(self.running))
        return spec

    def report(self, number: int, result: EpochResult) -> Decision:
        assert number in self.running
        self.events.append(("report", number, result.epoch))
        self.results[number].append(result)
        return self.decide(number, result)

    def tell(self, number: int, outcome: Outcome) -> None:
        self.events.append(("tell", number))
        self.running.remove(number)
        self.outcomes[number] = outcome

    def commit(self) -> None:
        time.sleep(self.commit_s)
        self.commits.append((len(self.events), time.monotonic()))

    def committed(self, *event: Any) -> float:
        """When the event had become durable."""
        return next(at for known, at in self.commits if known > self.events.index(event))

    def epochs(self, number: int) -> list[int]:
        return [result.epoch for result in self.results[number]]

    def count(self, *event: Any) -> int:
        return self.events.count(event)


def trials(folder: Path, *doings: str, epochs: int = 3) -> list[TrialSpec]:
    return [
        TrialSpec(number, "lr", {"do": do}, seed=0, epochs=epochs, directory=folder)
        for number, do in enumerate(doings)
    ]


def test_every_trial_is_told_once_and_reports_its_epochs_in_order(runner: Runner, tmp_path: Path) -> None:
    recorder = Recorder(trials(tmp_path, *["run"] * 7))
    runner.run(Play(), recorder)
    for number in range(7):
        assert recorder.count("ask", number) == 1
        assert recorder.count("tell", number) == 1
        assert recorder.epochs(number) == [1, 2, 3]
        assert [result.value for result in recorder.results[number]] == [number + epoch / 100 for epoch in (1, 2, 3)]
        assert recorder.outcomes[number] == Outcome(End.FINISHED)
    assert notes(tmp_path) == [f"finished {number}" for number in range(7)]
    assert recorder.most_running <= runner.workers


def test_what_the_workers_did_is_counted_alike(runner: Runner, tmp_path: Path) -> None:
    simulated = isinstance(runner, SimulationRunner)
    clock = (lambda: runner.clock) if isinstance(runner, SimulationRunner) else time.monotonic
    usage = Utilisation(runner.workers, clock)

    class Metered(Recorder):
        """Keeps the meter as a sweep does."""

        def ask(self) -> TrialSpec | None:
            with usage.proposing():
                spec = super().ask()
            if spec is None:
                usage.nothing_to_begin()
            else:
                usage.begin(spec.number)
            return spec

        def report(self, number: int, result: EpochResult) -> Decision:
            with usage.reporting(number, result):
                return super().report(number, result)

        def tell(self, number: int, outcome: Outcome) -> None:
            with usage.ending(number, outcome):
                super().tell(number, outcome)

    def stopping(number: int, result: EpochResult) -> Decision:
        return Decision.STOP if result.epoch == 2 else Decision.CONTINUE

    runner.run(Play(), Metered(trials(tmp_path, *["creep"] * 4), stopping))
    usage.settle()
    spent = added(usage.workers)
    assert sum(spent.values()) == pytest.approx(usage.seconds * runner.workers, rel=0.1)
    # An epoch takes 0.2 seconds, and one second of the simulated clock.
    assert spent[Use.BUSY] >= 4 * 2 * (1.0 if simulated else 0.2)
    assert spent[Use.BUSY] <= usage.seconds * runner.workers
    assert spent[Use.RESTARTS] == 0
    if simulated:
        assert shares(spent)[Use.BUSY] == 1


def test_no_worker_acts_on_what_is_not_durable(runner: Runner, tmp_path: Path) -> None:
    """A trial begins when its start is committed, and goes on when its last epoch is, by the machine's clock."""
    recorder = Recorder(trials(tmp_path, *["run"] * 4))
    recorder.commit_s = 0.02
    runner.run(Play(), recorder)
    for number in range(4):
        began = [result.metrics["began"] for result in recorder.results[number]]
        assert began[0] >= recorder.committed("ask", number)
        assert all(began[epoch] >= recorder.committed("report", number, epoch) for epoch in (1, 2))
    assert recorder.commits[-1][0] == len(recorder.events)


@pytest.mark.parametrize("first", [True, False])
def test_what_cannot_be_made_durable_is_not_acted_on(first: bool, runner: Runner, tmp_path: Path) -> None:
    """The commit of the first trials, or of the first epoch, fails for good, as on a full disk: no worker begins or
    trains another epoch, those that run end in good order, and the error passes through when they have.
    """

    class Full(Recorder):
        def commit(self) -> None:
            if first or any(event[0] == "report" for event in self.events):
                raise StorageError("no room")

    recorder = Full(trials(tmp_path, *["mark"] * 4))
    with pytest.raises(StorageError, match="no room"):
        runner.run(Play(), recorder)
    # One that was asked for and waits for its worker is not begun any more.
    trained = {number for number in range(4) if (tmp_path / f"began {number} epoch 1").exists()}
    assert bool(trained) is not first
    assert notes(tmp_path) == sorted(
        note for number in trained for note in (f"began {number} epoch 1", f"closed {number} after epoch 1")
    )
    assert recorder.outcomes == {}


def test_a_worker_that_the_kernel_killed_for_memory_is_named_so(
    processes: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And one that somebody else killed is not."""
    counter = tmp_path / "vmstat"
    counter.write_text(f"oom_kill {killed_for_memory()}\n")
    monkeypatch.setattr("orchestrator.process.OOM_COUNTERS", (counter,))
    reasons = []
    for do in ("killed", "starved", "killed"):
        recorder = Recorder(trials(tmp_path, do))
        processes.run(Play(), recorder)
        reasons.append(recorder.outcomes[0].reason)
    assert reasons == [Reason.WORKER_DIED, Reason.HOST_OUT_OF_MEMORY, Reason.WORKER_DIED]


def test_nothing_to_do_ends_at_once(runner: Runner, tmp_path: Path) -> None:
    recorder = Recorder([])
    runner.run(Play(), recorder)
    assert recorder.events == []


def test_a_trial_whose_files_cannot_be_written_is_neither_failed_nor_finished(runner: Runner, tmp_path: Path) -> None:
    recorder = Recorder(trials(tmp_path, "full", "run"))
    runner.run(Play(), recorder)
    assert recorder.outcomes == {0: Outcome(End.PAUSED, Reason.STORAGE, "no room"), 1: Outcome(End.FINISHED)}


def test_stop_and_pause_end_a_trial_between_two_epochs(runner: Runner, tmp_path: Path) -> None:
    wanted = {(0, 2): Decision.STOP, (1, 2): Decision.PAUSE, (3, 3): Decision.STOP}

    def decide(number: int, result: EpochResult) -> Decision:
        return wanted.get((number, result.epoch), Decision.CONTINUE)

    recorder = Recorder(trials(tmp_path, "run", "run", "run", "run"), decide)
    runner.run(Play(), recorder)
    assert recorder.outcomes == {
        0: Outcome(End.STOPPED),
        1: Outcome(End.PAUSED),
        2: Outcome(End.FINISHED),
        3: Outcome(End.STOPPED),
    }
    assert [recorder.epochs(number) for number in range(4)] == [[1, 2], [1, 2], [1, 2, 3], [1, 2, 3]]
    # The program could write its state: its iterator was closed before run() returned.
    assert notes(tmp_path) == [
        "closed 0 after epoch 2",
        "closed 1 after epoch 2",
        "closed 3 after epoch 3",
        "finished 2",
    ]


def test_failures_are_outcomes_and_the_worker_process_goes_on(runner: Runner, tmp_path: Path) -> None:
    recorder = Recorder(trials(tmp_path, "raise", "infeasible", "run", "raise", "infeasible", "run"))
    runner.run(Play(), recorder)
    for number in (0, 3):
        outcome = recorder.outcomes[number]
        assert (outcome.end, outcome.reason) == (End.FAILED, Reason.USER_ERROR)
        first, *rest = outcome.detail.splitlines()
        assert first == "ValueError: broken on purpose"
        assert any("runner_programs.py" in line and "user_code" in line for line in rest)
        assert recorder.epochs(number) == [1]
    for number in (1, 4):
        assert recorder.outcomes[number] == Outcome(End.FAILED, Reason.OUT_OF_MEMORY, "batch does not fit")
    for number in (2, 5):
        assert recorder.outcomes[number] == Outcome(End.FINISHED)
    pids = {result.metrics["pid"] for results in recorder.results.values() for result in results}
    assert 1 <= len(pids) <= runner.workers


def test_a_program_that_raises_when_called_is_a_failed_trial(runner: Runner, tmp_path: Path) -> None:
    recorder = Recorder(trials(tmp_path, "refuse", "run", "refuse", "run"))
    runner.run(Play(), recorder)
    for number in (0, 2):
        assert recorder.outcomes[number].reason is Reason.USER_ERROR
        assert recorder.outcomes[number].detail.startswith("ValueError: refused on purpose")
    for number in (1, 3):
        assert recorder.outcomes[number] == Outcome(End.FINISHED)


class FaultError(Exception):
    """Raised by a controller."""


@pytest.mark.parametrize("where", ["ask", "report", "tell"])
def test_what_the_controller_raises_passes_through(
    runner: Runner, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder(trials(tmp_path, *["run"] * 6))
    before: Callable[..., Any] = getattr(recorder, where)
    calls = 0

    def faulty(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise FaultError(where)
        return before(*args)

    monkeypatch.setattr(recorder, where, faulty)
    with pytest.raises(FaultError, match=where) as caught:
        runner.run(Play(), recorder)
    assert calls == 2
    # Every trial that had begun was ended in good order, even while the exception is still at hand.
    begun = {event[1] for event in recorder.events if event[0] == "report"}
    assert begun <= {int(name.split()[1]) for name in notes(tmp_path)}
    assert begun or where == "ask"
    assert caught.value.args == (where,)
    if where != "report":
        return

    again = Recorder(trials(tmp_path, "run", "run"))
    runner.run(Play(), again)
    assert again.outcomes == {0: Outcome(End.FINISHED), 1: Outcome(End.FINISHED)}


def test_a_trial_that_appears_after_a_tell_is_run(runner: Runner, tmp_path: Path) -> None:
    simulated = isinstance(runner, SimulationRunner)  # in this process, where nobody could end the wait
    doing = "wait" if runner.workers > 1 and not simulated else "run"
    first, second, third = trials(tmp_path, doing, "run", "run", epochs=1)

    class Late(Recorder):
        """Has nothing more until its first trial is told, which waits until the controller was asked again."""

        def ask(self) -> TrialSpec | None:
            spec = super().ask()
            if spec is None:
                self.events.append(("none", len(self.running)))
                (tmp_path / "go").touch()
            return spec

        def tell(self, number: int, outcome: Outcome) -> None:
            super().tell(number, outcome)
            if number == 0:
                self.waiting += [second, third]

    recorder = Late([first])
    runner.run(Play(), recorder)
    assert recorder.outcomes == dict.fromkeys(range(3), Outcome(End.FINISHED))
    if runner.workers > 1:
        assert ("none", 1) in recorder.events[: recorder.events.index(("tell", 0))]
    assert recorder.events.index(("ask", 1)) > recorder.events.index(("tell", 0))


def test_a_free_worker_gets_its_next_trial_while_another_is_busy(processes: Runner, tmp_path: Path) -> None:
    class Gate(Recorder):
        """Lets the slow trial begin its first epoch when four others are told."""

        def tell(self, number: int, outcome: Outcome) -> None:
            super().tell(number, outcome)
            if len(self.outcomes) == 4:
                (tmp_path / "go").touch()

    recorder = Gate(trials(tmp_path, "wait", *["run"] * 5, epochs=2))
    processes.run(Play(), recorder)
    assert recorder.outcomes == dict.fromkeys(range(6), Outcome(End.FINISHED))
    slow = recorder.events.index(("report", 0, 1))
    assert recorder.events.index(("ask", 0)) < recorder.events.index(("ask", 4)) < slow
    assert recorder.most_running == 2


@pytest.mark.parametrize("how", ["exit", "killed"])
def test_a_worker_process_that_dies_costs_its_trial_only(processes: Runner, how: str, tmp_path: Path) -> None:
    recorder = Recorder(trials(tmp_path, "run", how, "run", "run", "run", epochs=2))
    processes.run(Play(), recorder)
    outcome = recorder.outcomes[1]
    assert (outcome.end, outcome.reason) == (End.FAILED, Reason.WORKER_DIED)
    assert outcome.detail.startswith("its worker process ")
    assert recorder.epochs(1) == [1]
    for number in (0, 2, 3, 4):
        assert recorder.outcomes[number] == Outcome(End.FINISHED)
        assert recorder.epochs(number) == [1, 2]
    assert all(recorder.count("tell", number) == 1 for number in range(5))


def test_a_hanging_trial_and_one_that_takes_too_long_are_ended_with_their_workers(
    processes: Runner, tmp_path: Path
) -> None:
    hanging, creeping, *others = trials(tmp_path, "hang", "creep", "run", "run", epochs=2)
    limited = [replace(hanging, heartbeat_s=0.5), replace(creeping, epochs=1000, timeout_s=1.0, heartbeat_s=30)]
    recorder = Recorder([*limited, *(replace(other, timeout_s=30, heartbeat_s=30) for other in others)])
    processes.run(Play(), recorder)
    hang, timeout = recorder.outcomes[0], recorder.outcomes[1]
    assert (hang.end, hang.reason) == (End.FAILED, Reason.HANG)
    assert hang.detail == "it finished no epoch for failure.heartbeat_s=0.5 seconds"
    assert (timeout.end, timeout.reason) == (End.FAILED, Reason.TRIAL_TIMEOUT)
    assert timeout.detail == "it ran for longer than failure.trial_timeout_s=1"
    assert recorder.epochs(0) == [1]
    assert 2 <= len(recorder.epochs(1)) <= 5
    assert [recorder.outcomes[number] for number in (2, 3)] == [Outcome(End.FINISHED)] * 2
    [pid] = [int(name.split()[1]) for name in notes(tmp_path) if name.startswith("pid ")]
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_local_processes_and_ray_train_the_same_bits(
    local_runner: Runner, ray_runner: Runner, tmp_path: Path
) -> None:
    task = TaskConfig(name="diabetes", target="orchestrator.tasks.tabular.Diabetes")
    program = TrainingProgram(task, TrainerConfig(epochs=3), threads=1)
    configuration = Hyperparameters(
        optimizer=OptimizerConfig(lr=0.01, ema_decay=0.9), model={"width": 16, "dropout": 0.2}
    ).flat()
    spec = TrialSpec(0, "lr", configuration, seed=7, epochs=3, directory=tmp_path)

    def run(where: Runner, name: str) -> tuple[list[Any], dict[str, Any]]:
        recorder = Recorder([replace(spec, number=1), replace(spec, directory=tmp_path / name)])
        where.run(program, recorder)
        assert recorder.outcomes[0] == Outcome(End.FINISHED)
        values = [(result.epoch, result.value, {**result.metrics, "seconds": 0.0}) for result in recorder.results[0]]
        return values, checkpoint.load(tmp_path / name)["model"]

    here, weights_here = run(InlineRunner(), "inline")
    assert len(here) == 3
    for runner, name in ((local_runner, "local"), (ray_runner, "ray")):
        there, weights_there = run(runner, name)
        assert here == there
        assert weights_here.keys() == weights_there.keys()
        assert all(torch.equal(weights_here[name], weights_there[name]) for name in weights_here)
