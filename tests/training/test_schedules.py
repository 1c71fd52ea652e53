import itertools

import pytest

from orchestrator.config.hyperparameters import ScheduleConfig
from orchestrator.training.schedules import ONE_CYCLE_START, multiplier

KINDS = ("constant", "step", "linear", "cosine", "one_cycle")
TOTAL = 101


def curve(total: int = TOTAL, **settings: object) -> list[float]:
    config = ScheduleConfig(**settings)  # type: ignore[arg-type]
    return [multiplier(config, step, total) for step in range(total)]


@pytest.mark.parametrize("total", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5, 0.99])
@pytest.mark.parametrize("kind", KINDS)
def test_every_step_lies_above_0_and_at_most_at_the_peak(kind: str, warmup: float, total: int) -> None:
    rates = curve(total, kind=kind, warmup=warmup)
    # Decaying to 0, the very last step may be at 0, and no other.
    assert all(0 < rate <= 1 for rate in rates[:-1])
    assert 0 <= rates[-1] <= 1
    assert all(0 < rate <= 1 for rate in curve(total, kind=kind, warmup=warmup, final=0.01))


def test_constant_stays_at_the_peak() -> None:
    assert curve(kind="constant") == [1.0] * TOTAL


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_decay_begins_at_the_peak_ends_at_final_and_never_rises(kind: str, final: float) -> None:
    rates = curve(kind=kind, final=final)
    assert rates[0] == 1.0
    assert rates[-1] == pytest.approx(final, abs=1e-12)
    assert rates[TOTAL // 2] == pytest.approx((1 + final) / 2)
    assert all(after <= before + 1e-12 for before, after in itertools.pairwise(rates))


def test_linear_falls_by_equal_amounts_and_cosine_does_not() -> None:
    falls = [before - after for before, after in itertools.pairwise(curve(kind="linear"))]
    assert falls == pytest.approx([1 / (TOTAL - 1)] * (TOTAL - 1))
    cosine = curve(kind="cosine")
    assert cosine[25] == pytest.approx((1 + 0.5**0.5) / 2)


def test_step_drops_in_equal_parts() -> None:
    rates = curve(99, kind="step", final=0.5, drops=2)
    assert sorted(set(rates), reverse=True) == [1.0, 0.5, 0.25]
    assert [rates.count(level) for level in (1.0, 0.5, 0.25)] == pytest.approx([33, 33, 33], abs=1)
    assert curve(kind="step", drops=3, final=0.0)[-1] == pytest.approx(0.1**3)


def test_one_cycle_rises_to_the_peak_and_falls_to_final() -> None:
    rates = curve(kind="one_cycle", final=0.02)
    assert rates[0] == pytest.approx(ONE_CYCLE_START)
    assert rates[-1] == pytest.approx(0.02)
    peak = rates.index(max(rates))
    assert rates[peak] == pytest.approx(1.0)
    assert peak == 30
    assert all(after >= before for before, after in itertools.pairwise(rates[: peak + 1]))
    assert all(after <= before for before, after in itertools.pairwise(rates[peak:]))


def test_one_cycle_uses_a_given_warm_up_as_its_rise() -> None:
    rates = curve(kind="one_cycle", warmup=0.1)
    assert rates == curve(kind="cosine", warmup=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_warm_up_rises_in_equal_steps_to_the_peak_at_its_end(kind: str) -> None:
    rates = curve(100, kind=kind, warmup=0.2)
    assert rates[:20] == pytest.approx([step / 21 for step in range(1, 21)])
    assert rates[20] == 1.0
    if kind != "constant":
        assert rates[-1] < 0.2


def test_the_shape_covers_what_the_warm_up_leaves() -> None:
    assert curve(100, kind="linear", warmup=0.4)[40:] == pytest.approx(curve(60, kind="linear"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_curve_depends_on_the_share_of_the_steps_only(kind: str) -> None:
    coarse, fine = curve(101, kind=kind, final=0.1), curve(1001, kind=kind, final=0.1)
    gaps = [abs(coarse[step] - fine[10 * step]) for step in range(101)]
    # A step schedule may fall one fine step apart.
    assert sum(gap > 1e-9 for gap in gaps) <= (2 if kind == "step" else 0)
