"""One contract for all that proposes configurations: the shipped samplers and one of the user's."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.config.schema import SamplerConfig
from orchestrator.config.space import RangeConfig
from orchestrator.errors import ConfigError
from orchestrator.study.records import TrialRecord
from orchestrator.study.region import Region
from orchestrator.study.samplers import StageSampler, make_sampler
from orchestrator.study.space import Hyperparameter, SearchSpace, Window
from orchestrator.study.storage import quiet_optuna
from orchestrator.types import Direction, TrialState, Value

CUSTOM = "optuna.samplers.CmaEsSampler"
NAMES = ["random", "qmc", "tpe", "gp", "custom"]
BUILT_IN = NAMES[:4]
MODELS = ["tpe", "gp"]
LEARNING = ["tpe", "gp", "custom"]
BOTH = pytest.mark.parametrize("direction", list(Direction))

SPACE = SearchSpace(
    {
        name: Hyperparameter(name, config)
        for name, config in {
            "optimizer.lr": RangeConfig(
                type="float", low=1e-3, high=1.0, limits=(1e-6, 10.0), scale="log", couple="learning_rate"
            ),
            "data.batch_size": RangeConfig(type="int", low=16, high=256, limits=(4, 1024), scale="log"),
            "model.depth": RangeConfig(type="int", low=2, high=6, limits=(1, 16)),
            "loss.label_smoothing": RangeConfig(type="float", low=0.0, high=0.3, limits=(0.0, 0.9)),
            "schedule.kind": RangeConfig(type="choice", choices=("constant", "cosine", "step")),
        }.items()
    }
)
BASE: dict[str, Value] = {
    "optimizer.name": "sgd",
    "optimizer.lr": 0.03,
    "optimizer.momentum": 0.9,
    "data.batch_size": 64,
    "model.depth": 3,
    "loss.label_smoothing": 0.1,
    "schedule.kind": "constant",
}
MIXED = Region(SPACE, BASE, {name: SPACE.whole(name) for name in SPACE.hyperparameters})
NUMERIC = Region(SPACE, BASE, {name: SPACE.whole(name) for name in ("optimizer.lr", "loss.label_smoothing")})
SMOOTHING = "loss.label_smoothing"


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def sampler_of(
    name: str, region: Region, direction: Direction = Direction.MINIMIZE, seed: int = 5, startup: int = 0
) -> StageSampler:
    custom = {"target": CUSTOM, "args": {"seed": 3, "n_startup_trials": 1}} if name == "custom" else {}
    config = SamplerConfig(name=name, startup_trials=startup, **custom)
    return make_sampler(config, region, direction, seed, "lr")


def trial(number: int, configuration: dict[str, Value], stage: str = "lr") -> TrialRecord:
    return TrialRecord(
        number=number,
        stage=stage,
        configuration=configuration,
        seed=0,
        epochs=3,
        state=TrialState.RUNNING,
        curve={},
    )


def ended(record: TrialRecord, cost: float | None, direction: Direction = Direction.MINIMIZE) -> TrialRecord:
    """``record`` complete with ``cost`` (less is better), or infeasible without one."""
    if cost is None:
        return replace(record, state=TrialState.INFEASIBLE)
    return replace(record, state=TrialState.COMPLETE, value=direction.cost(cost), curve={3: direction.cost(cost)})


def history(
    region: Region,
    count: int,
    cost: Callable[[dict[str, float]], float | None],
    direction: Direction = Direction.MINIMIZE,
    stage: str = "earlier",
) -> list[TrialRecord]:
    """Ended trials of another stage, spread over the region."""
    spread = sampler_of("random", region, seed=99)
    records = []
    for number in range(count):
        point = spread.propose(number, number)
        value = cost({name: float(unit) for name, unit in point.items() if not isinstance(unit, str)})
        records.append(ended(trial(number, region.configuration(point), stage), value, direction))
    return records


def run(sampler: StageSampler, region: Region, first: int, count: int, ends: bool = True) -> list[TrialRecord]:
    """Ask ``count`` times, one after another; each trial ends before the next begins, or none does."""
    records = []
    for index in range(count):
        point = sampler.propose(first + index, index)
        record = trial(first + index, region.configuration(point))
        sampler.observe(record)
        if ends:
            record = ended(record, sum(float(u) for u in point.values() if not isinstance(u, str)))
            sampler.observe(record)
        records.append(record)
    return records


def points(records: Sequence[TrialRecord], region: Region, name: str) -> np.ndarray:
    found = [region.point(record.configuration) for record in records]
    return np.array([float(point[name]) for point in found if point is not None])


@pytest.mark.parametrize("name", NAMES)
def test_proposals_lie_within_the_windows(name: str) -> None:
    windows = {**MIXED.windows, "optimizer.lr": Window(0.4, 0.5), SMOOTHING: Window(0.1, 0.2)}
    region = Region(SPACE, BASE, windows)
    records = run(sampler_of(name, region, startup=2), region, 0, 14)
    for record in records:
        values = record.configuration
        SPACE.check(values)
        assert region.point(values) is not None
        assert 0.09 <= values[SMOOTHING] <= 0.18 + 1e-9
        assert 16 <= values["data.batch_size"] <= 256
        assert 2 <= values["model.depth"] <= 6
        assert type(values["data.batch_size"]) is type(values["model.depth"]) is int
        assert values["schedule.kind"] in ("constant", "cosine", "step")
        untouched = {key: value for key, value in BASE.items() if key not in windows}
        assert {key: values[key] for key in untouched} == untouched
    assert len({tuple(record.configuration.items()) for record in records}) > 10


@pytest.mark.parametrize("name", BUILT_IN)
@BOTH
def test_a_restart_proposes_what_would_have_been_proposed(name: str, direction: Direction) -> None:
    """Kill after any trial, with one still running: a sampler built from the records goes on the same."""

    def cost(units: dict[str, float]) -> float | None:
        return None if units[SMOOTHING] > 0.8 else sum(units.values())

    known = history(MIXED, 6, cost, direction)
    going = sampler_of(name, MIXED, direction, startup=1)
    for record in known:
        going.observe(record)
    for index in range(6):
        number = len(known)
        again = sampler_of(name, MIXED, direction, startup=1)
        for record in known:
            again.observe(record)
        expected = again.propose(number, index)
        point = going.propose(number, index)
        assert point == expected
        record = trial(number, MIXED.configuration(point))
        going.observe(record)
        if index != 2:  # this one runs on
            units = {key: float(unit) for key, unit in point.items() if not isinstance(unit, str)}
            record = ended(record, cost(units), direction)
            going.observe(record)
        known.append(record)
    other = sampler_of(name, MIXED, direction, seed=6, startup=1)
    for record in known:
        other.observe(record)
    assert other.propose(number, 5) != point


@pytest.mark.parametrize("name", LEARNING)
@BOTH
def test_a_model_learns_from_other_stages(name: str, direction: Direction) -> None:
    def cost(units: dict[str, float]) -> float:
        return abs(units[SMOOTHING] - 0.8) + abs(units["optimizer.lr"] - 0.2)

    known = history(NUMERIC, 40, cost, direction)
    distance = {}
    for sampler_name in (name, "random"):
        sampler = sampler_of(sampler_name, NUMERIC, direction)
        for record in known:
            sampler.observe(record)
        if sampler_name == "custom":
            # CMA-ES learns from the trials it asked for: let it.
            records = []
            for index in range(40):
                point = sampler.propose(40 + index, index)
                record = trial(40 + index, NUMERIC.configuration(point))
                sampler.observe(record)
                units = {key: float(unit) for key, unit in point.items()}
                sampler.observe(ended(record, cost(units), direction))
                records.append(record)
            records = records[-8:]
        else:
            records = run(sampler, NUMERIC, 40, 8 if sampler_name == name else 200, ends=False)
        distance[sampler_name] = float(np.median(np.abs(points(records, NUMERIC, SMOOTHING) - 0.8)))
    assert distance[name] < 0.5 * distance["random"]


@pytest.mark.parametrize("name", MODELS)
def test_trials_outside_the_windows_do_not_disturb(name: str) -> None:
    windows = {**NUMERIC.windows, SMOOTHING: Window(0.0, 0.1)}
    region = Region(SPACE, BASE, windows)
    known = history(NUMERIC, 30, lambda units: -units[SMOOTHING])
    inside = [record for record in known if region.point(record.configuration) is not None]
    assert 3 < len(inside) < 20
    proposals = []
    for given in (known, inside):
        sampler = sampler_of(name, region)
        for record in given:
            sampler.observe(record)
        proposals.append(sampler.propose(30, 0))
    assert proposals[0] == proposals[1]


@pytest.mark.parametrize("name", NAMES)
def test_running_trials_are_not_proposed_again(name: str) -> None:
    sampler = sampler_of(name, NUMERIC)
    for record in history(NUMERIC, 12, lambda units: abs(units[SMOOTHING] - 0.5)):
        sampler.observe(record)
    records = run(sampler, NUMERIC, 12, 8, ends=False)
    found = [tuple(record.configuration[key] for key in NUMERIC.windows) for record in records]
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("name", MODELS)
def test_a_running_trial_changes_the_next_proposal(name: str) -> None:
    known = history(NUMERIC, 12, lambda units: abs(units[SMOOTHING] - 0.5))
    proposals = []
    for running in (False, True):
        sampler = sampler_of(name, NUMERIC)
        for record in known:
            sampler.observe(record)
        first = sampler.propose(12, 0)
        if running:
            sampler.observe(trial(12, NUMERIC.configuration(first)))
        proposals.append(sampler.propose(12, 1))
    assert proposals[0] == first
    assert proposals[1] != first


@pytest.mark.parametrize("name", MODELS)
@BOTH
def test_infeasible_trials_push_proposals_away(name: str, direction: Direction) -> None:
    """Better and better towards an end that is infeasible: a large batch that runs out of memory, say."""

    def cost(units: dict[str, float]) -> float | None:
        return None if units[SMOOTHING] > 0.6 else 1.0 - units[SMOOTHING]

    shares = {}
    for label, known in (
        ("told", history(NUMERIC, 30, cost, direction)),
        ("fine", history(NUMERIC, 30, lambda units: 1.0 - units[SMOOTHING], direction)),
    ):
        sampler = sampler_of(name, NUMERIC, direction)
        for record in known:
            sampler.observe(record)
        records = run(sampler, NUMERIC, 30, 8, ends=False)
        shares[label] = float(np.mean(points(records, NUMERIC, SMOOTHING) > 0.65))
    assert shares["fine"] >= 0.75
    assert shares["told"] <= 0.4


@pytest.mark.parametrize("name", LEARNING)
def test_the_first_trials_of_each_stage_are_random(name: str) -> None:
    sampler, random = sampler_of(name, NUMERIC, startup=3), sampler_of("random", NUMERIC)
    for record in history(NUMERIC, 12, lambda units: units[SMOOTHING]):
        sampler.observe(record)
    same = [sampler.propose(12 + index, index) == random.propose(12 + index, index) for index in range(4)]
    assert same == [True, True, True, False]


@pytest.mark.parametrize("name", MODELS)
def test_all_infeasible_so_far_is_no_crash(name: str) -> None:
    sampler = sampler_of(name, NUMERIC)
    for record in history(NUMERIC, 5, lambda units: None):
        sampler.observe(record)
    assert len(run(sampler, NUMERIC, 5, 3, ends=False)) == 3


def test_the_quasi_random_sequence_fills_the_window_evenly() -> None:
    records = run(sampler_of("qmc", NUMERIC), NUMERIC, 0, 16)
    for name in NUMERIC.windows:
        cells = np.floor(points(records, NUMERIC, name) * 16 + 1e-9).astype(int)
        assert sorted(cells) == list(range(16))


def test_quasi_random_stages_have_sequences_of_their_own() -> None:
    config = SamplerConfig(name="qmc")
    one, other = (make_sampler(config, NUMERIC, Direction.MINIMIZE, 5, stage) for stage in ("lr", "width"))
    assert one.propose(0, 0) != other.propose(0, 0)


@pytest.mark.parametrize(
    ("target", "args", "says"),
    [
        ("optuna.samplers.Nope", {}, "no attribute 'Nope'"),
        ("nowhere.Sampler", {}, "No module named 'nowhere'"),
        ("builtins.dict", {}, "gives a dict, not an Optuna sampler"),
        ("optuna.samplers.RandomSampler", {"foo": 1}, "'foo'"),
    ],
)
def test_a_sampler_of_the_user_that_is_none_is_refused(target: str, args: dict[str, int], says: str) -> None:
    config = SamplerConfig(name="custom", target=target, args=args)
    with pytest.raises(ConfigError, match=rf"^sampler\._target_={target}: .*{says}"):
        make_sampler(config, NUMERIC, Direction.MINIMIZE, 0, "lr")


@pytest.mark.parametrize("target", ["optuna.samplers.RandomSampler", "optuna.samplers.TPESampler"])
def test_any_sampler_of_optunas_will_do(target: str) -> None:
    config = SamplerConfig(name="custom", target=target, args={"seed": 1}, startup_trials=1)
    sampler = make_sampler(config, MIXED, Direction.MAXIMIZE, 0, "lr")
    assert len({record.configuration[SMOOTHING] for record in run(sampler, MIXED, 0, 6)}) == 6
