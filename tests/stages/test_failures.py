"""What a command does about trials that fail: restarts, the policy on user errors, and when it gives up."""

from collections import Counter
from collections.abc import Sequence

import pytest
from curves import command, falling

from orchestrator import simulate
from orchestrator.errors import InfeasibleTrialError, NoFeasibleTrialError, TooManyFailuresError, UserCodeError
from orchestrator.types import Configuration, Reason, TrialState

WORKERS = pytest.mark.parametrize("workers", [1, 4])
QUICK = ("stage=all", "recipe.order=[start,lr,width,joint]")


class Failing:
    """A curve that fails for a reason, the first ``times`` times that a training is asked for."""

    def __init__(self, reason: Reason, times: int, every: int = 1) -> None:
        self.reason = reason
        self.times = times
        self.every = every
        self.asked: Counter[tuple[str, int]] = Counter()

    def __call__(self, configuration: Configuration, seed: int) -> Sequence[float]:
        training = (str(sorted(configuration.items())), seed)
        self.asked[training] += 1
        if seed % self.every == 0 and self.asked[training] <= self.times:
            raise InfeasibleTrialError(self.reason, "on purpose")
        return falling(configuration, seed)


@WORKERS
def test_trials_whose_workers_die_go_on_and_nothing_else_changes(workers: int) -> None:
    undisturbed = simulate(command(*QUICK, "deterministic=true", f"runner.workers={workers}"), falling, workers)
    died = Failing(Reason.WORKER_DIED, 1, every=2)
    found = simulate(command(*QUICK, "deterministic=true", f"runner.workers={workers}"), died, workers)
    assert sum(trial.restarts for trial in found.trials) > 3
    plain = [(t.stage, t.configuration, t.seed, t.state, t.curve, t.parent) for t in found.trials]
    assert plain == [(t.stage, t.configuration, t.seed, t.state, t.curve, t.parent) for t in undisturbed.trials]
    assert found.ledger.finished.keys() == undisturbed.ledger.finished.keys()


def test_a_trial_of_an_earlier_visit_goes_on_while_the_next_one_runs() -> None:
    died = Failing(Reason.WORKER_DIED, 2)
    found = simulate(command(*QUICK), died, 4)
    assert all(trial.state.finished for trial in found.trials)
    assert {trial.restarts for trial in found.trials if trial.parent is None} == {2}
    assert not any(trial.state is TrialState.INFEASIBLE for trial in found.trials)


def test_a_trial_that_kills_every_worker_is_infeasible_after_the_last_restart() -> None:
    died = Failing(Reason.WORKER_DIED, 10**6, every=5)
    found = simulate(command("stage=lr", "failure.max_restarts=2"), died)
    ended = [trial for trial in found.trials if trial.state is TrialState.INFEASIBLE]
    assert ended
    assert {(trial.reason, trial.restarts) for trial in ended} == {(Reason.WORKER_DIED, 2)}


@pytest.mark.parametrize("reason", [Reason.WORKER_DIED, Reason.HANG, Reason.TRIAL_TIMEOUT])
def test_the_command_ends_when_too_many_trials_fail_for_no_reason_to_be_learnt(reason: Reason) -> None:
    words = ("stage=lr", "failure.min_failure_sample=6", "failure.max_failure_share=0.4", "failure.max_restarts=0")
    with pytest.raises(TooManyFailuresError, match=rf"of the \d+ trials of this command .*{reason}: on purpose"):
        simulate(command(*words, "n_trials=30"), Failing(reason, 10**6))
    assert simulate(command(*words, "n_trials=5"), Failing(reason, 10**6, every=2)).best is not None


def test_divergence_and_lack_of_memory_are_for_the_sampler_to_learn() -> None:
    for reason in (Reason.DIVERGED, Reason.NON_FINITE, Reason.OUT_OF_MEMORY, Reason.HOST_OUT_OF_MEMORY):
        remedy = "smaller data.batch_size" if reason.of_memory else "lower space.optimizer.lr.high"
        with pytest.raises(NoFeasibleTrialError, match=rf"20 x {reason}\); a {remedy}"):
            simulate(command("stage=lr", "n_trials=20"), Failing(reason, 10**6))


def test_a_user_error_in_the_first_trial_always_ends_the_command() -> None:
    with pytest.raises(UserCodeError, match="the task's code failed in the first trials"):
        simulate(command("stage=lr"), Failing(Reason.USER_ERROR, 1))


def test_a_later_user_error_is_tolerated_or_not() -> None:
    class Later(Failing):
        def __call__(self, configuration: Configuration, seed: int) -> Sequence[float]:
            if len(self.asked) < 4:
                self.asked[str(configuration), seed] += 1
                return falling(configuration, seed)
            return super().__call__(configuration, seed)

    words = ("stage=lr", "n_trials=12", "sampler=random", "failure.max_failure_share=1")
    found = simulate(command(*words), Later(Reason.USER_ERROR, 1, every=2))
    assert {trial.reason for trial in found.trials if trial.state is TrialState.INFEASIBLE} == {Reason.USER_ERROR}
    with pytest.raises(UserCodeError, match=r"in a trial \(failure.on_user_error=stop\)"):
        simulate(command(*words, "failure.on_user_error=stop"), Later(Reason.USER_ERROR, 1, every=2))
