"""Configurations as places, and back."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config.space import RangeConfig
from orchestrator.study.encoding import Encoding
from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.types import Value

RANGES = {
    "data.batch_size": RangeConfig(type="int", low=16, high=512, limits=(4, 8192), scale="log"),
    "model.depth": RangeConfig(type="int", low=1, high=4, limits=(1, 16)),
    "model.dropout": RangeConfig(type="float", low=0.0, high=0.6, limits=(0.0, 0.9)),
    "optimizer.lr": RangeConfig(
        type="float", low=1e-4, high=1.0, limits=(1e-6, 10.0), scale="log", couple="learning_rate"
    ),
    "optimizer.momentum": RangeConfig(
        type="float", low=0.0, high=0.98, limits=(0.0, 0.999), scale="log_complement",
        when={"optimizer.name": ("sgd",)},
    ),
    "optimizer.name": RangeConfig(type="choice", choices=("sgd", "adam", "adamw")),
    "optimizer.weight_decay": RangeConfig(
        type="float", low=1e-6, high=0.3, limits=(1e-8, 1.0), zero=True, scale="log"
    ),
    "model.skip": RangeConfig(type="float", low=0.0, high=1.0, when={"model.depth": (3, 4)}),
}  # fmt: skip
SPACE = SearchSpace({name: Hyperparameter(name, config) for name, config in RANGES.items()})
ENCODING = Encoding(SPACE)
BASE: dict[str, Value] = {
    "data.batch_size": 64, "model.depth": 2, "model.dropout": 0.1, "optimizer.lr": 0.01, "optimizer.momentum": 0.9,
    "optimizer.name": "adam", "optimizer.weight_decay": 0.0, "model.skip": 0.5, "loss.label_smoothing": 0.1,
}  # fmt: skip
CONFIGURATIONS = st.fixed_dictionaries(
    {
        "data.batch_size": st.integers(4, 8192),
        "model.depth": st.integers(1, 16),
        "model.dropout": st.floats(0.0, 0.9),
        "optimizer.lr": st.floats(1e-6, 10.0),
        "optimizer.momentum": st.floats(0.0, 0.999),
        "optimizer.name": st.sampled_from(["sgd", "adam", "adamw"]),
        # Within a rounding of the lower limit a value is taken for 0.
        "optimizer.weight_decay": st.just(0.0) | st.floats(1.1e-8, 1.0),
        "model.skip": st.floats(0.0, 1.0),
        "loss.label_smoothing": st.just(0.1),
    }
)


@given(configuration=CONFIGURATIONS)
def test_a_configuration_comes_back_from_its_place(configuration: dict[str, Value]) -> None:
    expected = SPACE.canonical(configuration, BASE)
    place = ENCODING.place(expected)
    assert (place >= ENCODING.bounds[:, 0] - 1e-9).all()
    assert (place <= ENCODING.bounds[:, 1] + 1e-9).all()
    found = ENCODING.configuration(place, BASE)
    for name, value in expected.items():
        if isinstance(value, float):
            assert found[name] == pytest.approx(value, rel=1e-9, abs=1e-12), name
        else:
            assert found[name] == value
            assert type(found[name]) is type(value)
    assert (found["optimizer.weight_decay"] == 0) == (expected["optimizer.weight_decay"] == 0)


@given(shares=st.lists(st.floats(-3, 4), min_size=len(RANGES), max_size=len(RANGES)), which=st.integers(0, 2))
def test_any_place_snaps_to_one_that_a_configuration_has(shares: list[float], which: int) -> None:
    places = np.array([shares])
    places[0, ENCODING.index["optimizer.name"]] = which
    snapped = ENCODING.snap(places)
    configuration = ENCODING.configuration(snapped[0], BASE)
    SPACE.check(configuration)
    active = [
        position for position, item in enumerate(ENCODING.items) if item.active(configuration)
    ]  # what has no effect is as in the base
    np.testing.assert_allclose(ENCODING.place(configuration)[active], snapped[0][active], atol=1e-7)
    np.testing.assert_allclose(ENCODING.snap(snapped), snapped, atol=1e-9)


@pytest.mark.parametrize(("name", "value", "place"), [
    ("data.batch_size", 16, 0.0), ("data.batch_size", 512, 1.0), ("data.batch_size", 8192, 1.8),
    ("optimizer.lr", 1e-4, 0.0), ("optimizer.lr", 1e-2, 0.5), ("optimizer.lr", 1e-6, -0.5),
    ("optimizer.lr", 10.0, 1.25), ("model.depth", 1, 0.0), ("model.depth", 7, 2.0),
    ("optimizer.momentum", 0.0, 0.0), ("optimizer.momentum", 1 - math.sqrt(0.02), 0.5),
    ("optimizer.name", "adamw", 2.0),
])  # fmt: skip
def test_places_are_shares_of_the_searched_range_on_its_scale(name: str, value: Value, place: float) -> None:
    found = ENCODING.place({**BASE, name: value})[ENCODING.index[name]]
    assert found == pytest.approx(place, abs=1e-9)


def test_off_lies_at_the_lower_limit() -> None:
    at = ENCODING.index["optimizer.weight_decay"]
    assert ENCODING.place(BASE)[at] == ENCODING.bounds[at, 0]
    assert ENCODING.bounds[at, 0] < 0


def test_values_of_a_choice_are_equally_far_from_each_other() -> None:
    places = np.array([ENCODING.place({**BASE, "optimizer.name": name}) for name in ("sgd", "adam", "adamw")])
    columns = [c for c, owner in enumerate(ENCODING.owners) if owner == ENCODING.index["optimizer.name"]]
    inputs = ENCODING.inputs(places)[:, columns]
    distances = [np.linalg.norm(inputs[a] - inputs[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(distances, 1)


def inputs_of(**changes: Value) -> np.ndarray:
    configuration = {**BASE, **{name.replace("__", "."): value for name, value in changes.items()}}
    return ENCODING.inputs(ENCODING.place(configuration)[None, :])[0]


def test_what_has_no_effect_makes_no_difference() -> None:
    idle = [inputs_of(optimizer__momentum=m, optimizer__name="adam") for m in (0.0, 0.9)]
    np.testing.assert_array_equal(*idle)
    active = [inputs_of(optimizer__momentum=m, optimizer__name="sgd") for m in (0.0, 0.9)]
    assert not np.array_equal(*active)


def test_a_condition_may_be_on_a_number() -> None:
    idle = [inputs_of(model__skip=s, model__depth=2) for s in (0.0, 1.0)]
    np.testing.assert_array_equal(*idle)
    active = [inputs_of(model__skip=s, model__depth=3) for s in (0.0, 1.0)]
    assert not np.array_equal(*active)


@pytest.mark.parametrize("sgd", [True, False])
def test_the_learning_rate_follows_batch_size_and_momentum(sgd: bool) -> None:
    before = ENCODING.place({**BASE, "optimizer.name": "sgd" if sgd else "adam", "optimizer.momentum": 0.8})
    moved = {**BASE, "optimizer.name": "sgd" if sgd else "adam", "data.batch_size": 256, "optimizer.momentum": 0.9}
    after = ENCODING.follow(before[None, :], ENCODING.place(moved)[None, :], sgd)[0]
    found = ENCODING.configuration(after, moved)["optimizer.lr"]
    # SGD: lr / (batch (1 - momentum)) stays; Adam: lr / sqrt(batch) does.
    assert found == pytest.approx(0.01 * (4 * 0.5 if sgd else 2))


def test_a_linear_learning_rate_stays_where_it_is() -> None:
    ranges = {**RANGES, "optimizer.lr": RangeConfig(type="float", low=0.0, high=1.0, couple="learning_rate")}
    encoding = Encoding(SearchSpace({name: Hyperparameter(name, config) for name, config in ranges.items()}))
    before = encoding.place(BASE)[None, :]
    after = encoding.place({**BASE, "data.batch_size": 256})[None, :]
    np.testing.assert_array_equal(encoding.follow(before, after, True), after)


@given(configuration=CONFIGURATIONS)
def test_the_value_at_the_place_of_a_value_is_that_value_to_the_last_bit(configuration: dict[str, Value]) -> None:
    """So that what was tried is known again."""
    once = ENCODING.configuration(ENCODING.place(configuration), BASE)
    again = ENCODING.configuration(ENCODING.place(once), BASE)
    assert again == once
    np.testing.assert_array_equal(ENCODING.place(again), ENCODING.place(once))
