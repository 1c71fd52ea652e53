"""Where each second of a worker is counted."""

from types import SimpleNamespace

import pytest

from orchestrator.types import End, EpochResult, Outcome, Reason, Work
from orchestrator.utilisation import Use, Utilisation, added, describe, shares


class Driver:
    """Plays a runner and its controller on a clock of its own."""

    def __init__(self, workers: int) -> None:
        self.now = SimpleNamespace(seconds=0.0)
        self.usage = Utilisation(workers, lambda: self.now.seconds)

    def after(self, seconds: float) -> "Driver":
        self.now.seconds += seconds
        return self

    def ask(self, number: int | None, takes: float = 0.0) -> None:
        with self.usage.proposing():
            self.after(takes)
        if number is None:
            self.usage.nothing_to_begin()
        else:
            self.usage.begin(number)

    def report(self, number: int, epoch: int, worked: float, takes: float = 0.0, *, fresh: bool = False) -> None:
        with self.usage.reporting(number, EpochResult(epoch, 1.0, work=Work(worked, fresh))):
            self.after(takes)

    def tell(self, number: int, reason: Reason | None = None, worked: float = 0.0, takes: float = 0.0) -> None:
        end = End.FAILED if reason else End.FINISHED
        with self.usage.ending(number, Outcome(end, reason, work=None if reason else Work(worked))):
            self.after(takes)

    def spent(self, worker: int) -> dict[str, float]:
        self.usage.settle()
        return {use: seconds for use, seconds in self.usage.workers[worker].items() if seconds}


def test_every_second_of_a_trial_is_counted_once() -> None:
    driver = Driver(1)
    driver.after(2).ask(0, takes=1)  # the runner starts, then the first proposal
    driver.after(8).report(0, 1, worked=5, takes=0.5, fresh=True)  # the worker starts for 3 s, trains for 5 s
    driver.after(6).report(0, 2, worked=5)  # its answer waits for 1 s
    driver.after(1).tell(0, worked=1, takes=0.25)
    driver.after(4).ask(None)
    assert driver.spent(0) == {
        Use.START_UP: 2 + 3, Use.PROPOSAL: 1, Use.BUSY: 5 + 5 + 1, Use.DRIVER: 0.5 + 1 + 0.25 + 4,
    }  # fmt: skip
    assert sum(driver.spent(0).values()) == driver.usage.seconds == driver.now.seconds


def test_a_free_worker_waits_for_a_proposal_and_then_has_nothing_to_begin() -> None:
    driver = Driver(2)
    driver.ask(0)
    driver.ask(None, takes=3)
    driver.after(10).report(0, 1, worked=13)
    assert driver.spent(1) == {Use.PROPOSAL: 3, Use.IDLE: 10}
    driver.ask(1, takes=1)
    driver.after(5).tell(1, worked=5)
    assert driver.spent(1) == {Use.PROPOSAL: 4, Use.IDLE: 10, Use.BUSY: 5}


def test_what_is_lost_with_a_worker_and_trained_again_is_a_restart() -> None:
    driver = Driver(1)
    driver.ask(0)
    for epoch in (1, 2, 3):
        driver.after(2).report(0, epoch, worked=2)
    driver.after(1).tell(0, Reason.WORKER_DIED)
    driver.ask(0)
    driver.after(5).report(0, 2, worked=2, fresh=True)  # starts for 3 s, and trains epoch 2 again
    driver.after(2).report(0, 3, worked=2)
    driver.after(2).report(0, 4, worked=2)
    assert driver.spent(0) == {Use.BUSY: 3 * 2 + 2, Use.RESTARTS: 1 + 3 + 2 + 2}


def test_a_worker_that_was_not_announced_is_counted_from_its_first_trial() -> None:
    driver = Driver(1)
    driver.ask(0)
    driver.after(5).ask(1)
    driver.after(5).tell(1, worked=5)
    driver.tell(0, worked=10)
    assert [sum(worker.values()) for worker in driver.usage.workers] == [10, 5]


def test_it_is_said_in_one_line() -> None:
    workers = [{"busy": 90.0, "driver": 10.0}, {"busy": 60.0, "start_up": 40.0}]
    assert describe(workers, 100) == (
        "2 workers for 2 min: busy 75.0%; each 60% to 90% (start-up 20.0%, waiting for the driver 5.0%)"
    )
    assert describe([], 100) == describe([{"busy": 0.0}], 0) == ""
    assert sum(shares(added(workers)).values()) == pytest.approx(1)
