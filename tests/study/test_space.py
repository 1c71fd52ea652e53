"""Unit coordinates, windows and the coupling of the learning rate."""

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from orchestrator.config.space import RangeConfig
from orchestrator.errors import ConfigError
from orchestrator.study.region import Region
from orchestrator.study.space import Hyperparameter, SearchSpace, Window, build_space, coupling
from orchestrator.types import Value

UNITS = st.floats(0.0, 1.0)


@st.composite
def hyperparameters(draw: st.DrawFn) -> Hyperparameter:
    """Any numeric hyperparameter of a sound range."""
    scale = draw(st.sampled_from(["linear", "log", "log_complement"]))
    kind = draw(st.sampled_from(["float", "int"])) if scale != "log_complement" else "float"
    if kind == "int":
        low: float = draw(st.integers(1 if scale == "log" else -1000, 1000))
        high: float = low + draw(st.integers(1, 10_000))
    elif scale == "log":
        low = 10.0 ** draw(st.floats(-9, 3))
        high = low * 10.0 ** draw(st.floats(0.1, 6))
    elif scale == "log_complement":
        low = draw(st.floats(-1, 0.9))
        high = 1 - (1 - low) * 10.0 ** -draw(st.floats(0.1, 4))
    else:
        low = draw(st.floats(-1e3, 1e3))
        high = low + draw(st.floats(0.01, 1e4))
    return Hyperparameter("a.b", RangeConfig(type=kind, low=low, high=high, scale=scale))


@given(hyperparameters(), UNITS)
def test_a_value_lies_within_its_limits_and_is_of_its_type(item: Hyperparameter, unit: float) -> None:
    low, high = item.config.hard_limits
    value = item.from_unit(unit)
    assert low <= value <= high
    assert type(value) is (int if item.config.type == "int" else float)
    item.check(value)
    assert item.distribution._contains(item.distribution.to_internal_repr(value))


@given(hyperparameters(), UNITS)
def test_unit_and_value_are_each_others_inverse(item: Hyperparameter, unit: float) -> None:
    value = item.from_unit(unit)
    again = item.from_unit(item.to_unit(value))
    if item.config.type == "int":
        assert again == value
    else:
        assert item.to_unit(value) == pytest.approx(unit, abs=1e-6)
        assert again == pytest.approx(value, rel=1e-9, abs=1e-9)


@given(hyperparameters(), UNITS, UNITS)
def test_a_larger_unit_is_never_a_smaller_value(item: Hyperparameter, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert item.from_unit(small) <= item.from_unit(large)
    if item.config.type == "float" and large - small > 1e-3:
        assert item.from_unit(small) < item.from_unit(large)


@given(hyperparameters())
def test_the_ends_of_the_coordinate_are_the_limits(item: Hyperparameter) -> None:
    low, high = item.config.hard_limits
    assert (item.to_unit(low), item.to_unit(high)) == (pytest.approx(0.0), pytest.approx(1.0))
    assert (item.from_unit(0.0), item.from_unit(1.0)) == (pytest.approx(low), pytest.approx(high))
    assert item.from_unit(-0.5) == item.from_unit(0.0)
    assert item.from_unit(1.5) == item.from_unit(1.0)


@pytest.mark.parametrize(
    ("scale", "values"),
    [
        ("linear", [0.1, 0.3, 0.5, 0.7, 0.9]),
        ("log", [1e-4, 1e-3, 1e-2, 1e-1, 1.0]),
        ("log_complement", [0.0, 0.9, 0.99, 0.999, 0.9999]),
    ],
)
def test_equal_steps_of_the_coordinate_are_equal_on_the_scale(scale: str, values: list[float]) -> None:
    item = Hyperparameter("a.b", RangeConfig(type="float", low=values[0], high=values[-1], scale=scale))
    assert [item.from_unit(step / 4) for step in range(5)] == pytest.approx(values)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("wide", "must be a number"),
        (True, "must be a number"),
        (2.5, "must be a whole number"),
        (1, "outside"),
        (99, "outside"),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused(value: Value, says: str) -> None:
    item = Hyperparameter("model.width", RangeConfig(type="int", low=4, high=8, limits=(2, 16)))
    item.check(2)
    item.check(16)
    with pytest.raises(ConfigError, match=rf"^model\.width={value}: {says}"):
        item.check(value)


def test_a_choice_knows_its_choices() -> None:
    item = Hyperparameter("a.b", RangeConfig(type="choice", choices=("x", "y")))
    item.check("y")
    with pytest.raises(ConfigError, match=r"a\.b=z: known: x, y"):
        item.check("z")


# Windows and regions.

SPACE = SearchSpace(
    {
        name: Hyperparameter(name, config)
        for name, config in {
            "optimizer.lr": RangeConfig(
                type="float", low=1e-4, high=1.0, limits=(1e-6, 10.0), scale="log", couple="learning_rate"
            ),
            "data.batch_size": RangeConfig(type="int", low=16, high=512, limits=(4, 8192), scale="log"),
            "optimizer.momentum": RangeConfig(
                type="float", low=0.0, high=0.98, limits=(0.0, 0.999), scale="log_complement"
            ),
            "schedule.kind": RangeConfig(type="choice", choices=("constant", "cosine")),
        }.items()
    }
)
LR = "optimizer.lr"


def base(optimizer: str = "sgd", lr: float = 0.1, batch: int = 64, momentum: float = 0.9) -> dict[str, Value]:
    return {
        "optimizer.name": optimizer,
        "optimizer.lr": lr,
        "optimizer.momentum": momentum,
        "data.batch_size": batch,
        "schedule.kind": "constant",
        "model.width": 7,
    }


def region(optimizer: str, *varies: str, half_width: float = 0.1, lr: float = 0.1) -> Region:
    """Varies the whole of ``varies`` and the learning rate in a window around the base."""
    start = base(optimizer, lr)
    windows = {LR: SPACE.around(LR, lr, half_width), **{name: SPACE.whole(name) for name in varies}}
    return Region(SPACE, start, windows)


POINTS = st.fixed_dictionaries(
    {
        LR: UNITS,
        "data.batch_size": UNITS,
        "optimizer.momentum": UNITS,
        "schedule.kind": st.sampled_from(["constant", "cosine"]),
    }
)


@given(st.sampled_from(["sgd", "adam", "adamw"]), POINTS)
def test_a_point_and_its_configuration_are_each_others_inverse(optimizer: str, point: dict[str, float | str]) -> None:
    area = region(optimizer, "data.batch_size", "optimizer.momentum", "schedule.kind")
    configuration = area.configuration(point)
    SPACE.check(configuration)
    assert {name: configuration[name] for name in ("optimizer.name", "model.width")} == {
        "optimizer.name": optimizer,
        "model.width": 7,
    }
    limits = SPACE[LR].config.hard_limits
    assume(limits[0] < configuration[LR] < limits[1])
    back = area.point(configuration)
    assert back is not None
    assert back["schedule.kind"] == point["schedule.kind"]
    assert back[LR] == pytest.approx(point[LR], abs=1e-6)
    assert back["optimizer.momentum"] == pytest.approx(point["optimizer.momentum"], abs=1e-6)
    assert area.configuration(back)["data.batch_size"] == configuration["data.batch_size"]
    assert area.configuration(back)[LR] == pytest.approx(configuration[LR], rel=1e-6)


@pytest.mark.parametrize(
    ("optimizer", "batch", "momentum", "factor"),
    [
        ("sgd", 128, 0.9, 2.0),
        ("sgd", 64, 0.95, 0.5),
        ("sgd", 32, 0.0, 5.0),
        ("adam", 256, 0.9, 2.0),
        ("adamw", 16, 0.9, 0.5),
        ("adam", 64, 0.0, 1.0),
    ],
)
def test_the_learning_rate_is_searched_where_its_best_moves_little(
    optimizer: str, batch: int, momentum: float, factor: float
) -> None:
    changed = base(optimizer, batch=batch, momentum=momentum)
    assert coupling(base(optimizer), changed) == pytest.approx(factor)
    assert coupling(base(optimizer), base(optimizer)) == 1.0
    area = region(optimizer, "data.batch_size", "optimizer.momentum")
    point = area.point({**changed, LR: 0.1 * factor})
    assert point is not None
    assert point[LR] == pytest.approx(0.5)
    assert area.configuration(point)[LR] == pytest.approx(0.1 * factor)


def test_a_coupled_learning_rate_is_clipped_to_its_limits() -> None:
    area = region("sgd", "data.batch_size", "optimizer.momentum", lr=5.0)
    far = area.configuration({LR: 1.0, "data.batch_size": 1.0, "optimizer.momentum": 0.0})
    assert far[LR] == 10.0
    near = region("sgd", "data.batch_size", "optimizer.momentum", lr=1e-6)
    low = near.configuration({LR: 0.0, "data.batch_size": 0.0, "optimizer.momentum": 1.0})
    assert low[LR] == 1e-6


def test_what_lies_outside_the_windows_has_no_point() -> None:
    area = region("adam", "schedule.kind")
    assert area.point(base("adam")) == {LR: pytest.approx(0.5), "schedule.kind": "constant"}
    ends = [SPACE[LR].from_unit(end) for end in (area.windows[LR].low, area.windows[LR].high)]
    assert ends[0] < 0.1 < ends[1]
    for lr in ends:
        assert area.point(base("adam", lr=lr)) is not None
    for lr in (ends[0] * 0.99, ends[1] * 1.01, 100.0):
        assert area.point(base("adam", lr=lr)) is None


@given(st.floats(1e-6, 10.0), st.floats(0.01, 0.6))
def test_a_window_lies_around_its_value_within_the_limits(value: float, half_width: float) -> None:
    window = SPACE.around(LR, value, half_width)
    unit = SPACE[LR].to_unit(value)
    assert 0.0 <= window.low < window.high <= 1.0
    assert unit in window
    low, high = SPACE[LR].searched
    reach = half_width * (high - low)
    assert window.high - unit == pytest.approx(min(reach, 1 - unit), abs=1e-9)
    assert unit - window.low == pytest.approx(min(reach, unit), abs=1e-9)


def test_the_whole_range_is_low_to_high_and_not_the_limits() -> None:
    window = SPACE.whole(LR)
    assert SPACE[LR].from_unit(window.low) == pytest.approx(1e-4)
    assert SPACE[LR].from_unit(window.high) == pytest.approx(1.0)
    assert SPACE.whole("schedule.kind") == SPACE.around("schedule.kind", "cosine", 0.1) == Window(0.0, 1.0)


@pytest.mark.parametrize(
    ("lr", "end"), [(1e-4, "low"), (1.05e-4, "low"), (0.01, None), (0.95, "high"), (1.0, "high")]
)
def test_a_value_at_an_end_of_its_window_is_known(lr: float, end: str | None) -> None:
    area = Region(SPACE, base("adam"), {LR: SPACE.whole(LR)})
    assert area.at_bound(LR, base("adam", lr=lr)) == end


@pytest.mark.parametrize(("batch", "end"), [(16, "low"), (17, None), (511, None), (512, "high"), (1024, None)])
def test_an_int_is_at_its_bound_only_on_it(batch: int, end: str | None) -> None:
    area = Region(SPACE, base("adam"), {"data.batch_size": SPACE.whole("data.batch_size")})
    assert area.at_bound("data.batch_size", base("adam", batch=batch)) == end


def test_a_choice_has_no_bound() -> None:
    area = Region(SPACE, base(), {"schedule.kind": SPACE.whole("schedule.kind")})
    assert area.at_bound("schedule.kind", base()) is None


# Building the space of a sweep.


def test_only_what_the_base_has_and_whose_condition_it_meets_is_searchable() -> None:
    momentum = RangeConfig(type="float", low=0.0, high=0.9, when={"optimizer.name": ("sgd",)})
    config = {"optimizer": {"momentum": momentum}, "model": {"depth": RangeConfig(type="int", low=1, high=3)}}
    assert [*build_space(config, base("sgd"), []).hyperparameters] == ["optimizer.momentum"]
    assert [*build_space(config, base("adam"), []).hyperparameters] == []


def test_a_base_outside_its_limits_is_refused_where_a_stage_needs_it() -> None:
    config = {"optimizer": {"lr": RangeConfig(type="float", low=1.0, high=2.0)}}
    assert LR not in build_space(config, base(), [])
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.1: outside its limits \[1\.0, 2\.0\]"):
        build_space(config, base(), [LR])


def test_a_condition_on_nothing_is_refused() -> None:
    config = {"optimizer": {"lr": RangeConfig(type="float", low=0.1, high=2.0, when={"optimizer.nam": ("sgd",)})}}
    with pytest.raises(ConfigError, match=r"space\.optimizer\.lr\.when: optimizer\.nam is not a hyperparameter"):
        build_space(config, base(), [])


def test_the_stored_distributions_are_the_hard_limits() -> None:
    stored = SPACE.distributions()
    assert list(stored) == sorted(stored)
    lr = stored[LR]
    assert (lr.low, lr.high, lr.log) == (1e-6, 10.0, True)
    assert (stored["data.batch_size"].low, stored["data.batch_size"].high) == (4, 8192)
    assert math.isclose(stored["optimizer.momentum"].high, 0.999)
