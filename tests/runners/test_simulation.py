"""The simulated clock and workers; the rest of the promise is in tests/contracts."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from orchestrator.errors import InfeasibleTrialError
from orchestrator.runners.simulation import CurveProgram, SimulationRunner
from orchestrator.types import Configuration, Decision, End, EpochResult, Outcome, Reason, TrialSpec


class Script:
    """Hands out trials of so many simulated seconds an epoch, and writes down who reported when."""

    def __init__(
        self, seconds: Sequence[float], epochs: int = 2, decide: Callable[[int, int], Decision] | None = None
    ) -> None:
        self.runner: SimulationRunner
        self.waiting = [
            TrialSpec(number, "lr", {"seconds": each}, seed=number, epochs=epochs, directory=Path())
            for number, each in enumerate(seconds)
        ]
        self.decide = decide or (lambda number, epoch: Decision.CONTINUE)
        self.times: list[tuple[float, int, int]] = []
        self.outcomes: dict[int, Outcome] = {}

    def ask(self) -> TrialSpec | None:
        return self.waiting.pop(0) if self.waiting else None

    def report(self, number: int, result: EpochResult) -> Decision:
        self.times.append((self.runner.clock, number, result.epoch))
        return self.decide(number, result.epoch)

    def tell(self, number: int, outcome: Outcome) -> None:
        self.outcomes[number] = outcome

    def commit(self) -> None:
        pass


def program(
    curve: Callable[[Configuration, int], Sequence[float]] = lambda configuration, seed: [1.0] * 9,
    inherited: Callable[[int], int] = lambda number: 0,
) -> CurveProgram:
    return CurveProgram(curve, inherited, lambda configuration: float(configuration["seconds"]))


def play(script: Script, workers: int, played: CurveProgram | None = None) -> SimulationRunner:
    script.runner = SimulationRunner(workers)
    script.runner.run(played or program(), script)
    return script.runner


def test_events_come_in_the_order_of_simulated_time() -> None:
    script = Script([3.0, 1.0, 1.5])
    runner = play(script, 2)
    assert script.times == [(1.0, 1, 1), (2.0, 1, 2), (3.0, 0, 1), (3.5, 2, 1), (5.0, 2, 2), (6.0, 0, 2)]
    assert runner.clock == 6.0


@pytest.mark.parametrize("workers", [1, 2, 4, 8])
def test_workers_share_the_work(workers: int) -> None:
    runner = play(Script([1.0] * 8), workers)
    assert runner.clock == 16 / workers


def test_a_stopped_trial_frees_its_worker_at_once() -> None:
    script = Script(
        [1.0, 1.0], epochs=5, decide=lambda n, e: Decision.STOP if (n, e) == (0, 2) else Decision.CONTINUE
    )
    runner = play(script, 1)
    assert script.outcomes == {0: Outcome(End.STOPPED), 1: Outcome(End.FINISHED)}
    assert runner.clock == 7.0


def test_a_promoted_trial_pays_for_its_new_epochs_only() -> None:
    script = Script([1.0], epochs=5)
    runner = play(script, 1, program(inherited=lambda number: 3))
    assert [epoch for _, _, epoch in script.times] == [4, 5]
    assert runner.clock == 2.0


def test_curves_that_fail_are_infeasible_trials() -> None:
    def curve(configuration: Configuration, seed: int) -> Sequence[float]:
        if seed == 0:
            return [1.0, float("nan")]
        if seed == 1:
            raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "too large")
        if seed == 2:
            raise ValueError("broken on purpose")
        return [1.0, float("inf")] if seed == 3 else [1.0, 0.5]

    script = Script([1.0] * 5)
    play(script, 2, program(curve))
    reasons = {number: outcome.reason for number, outcome in script.outcomes.items()}
    assert reasons == {
        0: Reason.NON_FINITE, 1: Reason.OUT_OF_MEMORY, 2: Reason.USER_ERROR, 3: Reason.NON_FINITE, 4: None,
    }  # fmt: skip
    assert script.outcomes[2].detail.startswith("ValueError: broken on purpose")
    assert [(number, epoch) for _, number, epoch in script.times if number in (0, 1, 2)] == [(0, 1)]


def test_a_curve_that_is_too_short_is_the_users_error() -> None:
    script = Script([1.0], epochs=3)
    play(script, 1, program(lambda configuration, seed: [1.0, 1.0]))
    assert script.outcomes[0].reason is Reason.USER_ERROR
