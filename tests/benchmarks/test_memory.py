"""A memory limit at which the best configuration lies: few trials beyond it."""

import memory
import optuna


def test_few_trials_are_wasted_beyond_a_memory_limit() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    wasted, best = memory.METHODS["StagedSampler, small start"](3, 100)
    assert wasted <= 5
    assert best < 0.55  # what TPE with constraints reaches on average, with 33 wasted
