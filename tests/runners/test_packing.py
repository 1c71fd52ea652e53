"""Trials share memory as far as it goes, by what they are seen to take."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runner_programs import Hold

from orchestrator.config.runner import RunnerConfig
from orchestrator.runners import cluster
from orchestrator.runners.cluster import Plan
from orchestrator.runners.local import LocalRunner
from orchestrator.runners.packing import HEADROOM, Footprints, Machine, Packing, free_memory, grid, share
from orchestrator.types import Configuration, Decision, End, EpochResult, MemoryUse, Outcome, Reason, TrialSpec

pytestmark = pytest.mark.timeout(240)
GB = 10**9


class Restarting:
    """A controller that hands out trials, again where memory was shared, and notes how many ran at a time."""

    def __init__(self, folder: Path, trials: Sequence[dict[str, Any]], epochs: int = 2) -> None:
        self.waiting = [
            TrialSpec(
                number, "lr", configuration, seed=0, epochs=epochs, directory=folder, memory=memory(configuration)
            )
            for number, configuration in enumerate(trials)
        ]
        self.specs = {spec.number: spec for spec in self.waiting}
        self.running: set[int] = set()
        self.begun: list[tuple[int, set[int]]] = []
        """Each beginning, and who ran then."""
        self.told: dict[int, float] = {}
        self.decision = Decision.CONTINUE
        self.results: dict[int, EpochResult] = {}
        self.outcomes: list[tuple[int, Outcome]] = []

    def ask(self) -> TrialSpec | None:
        if not self.waiting:
            return None
        spec = self.waiting.pop(0)
        self.running.add(spec.number)
        self.begun.append((spec.number, set(self.running)))
        return spec

    def report(self, number: int, result: EpochResult) -> Decision:
        self.results[number] = result
        return self.decision

    def tell(self, number: int, outcome: Outcome) -> None:
        self.running.remove(number)
        self.told[number] = time.monotonic()
        (self.specs[number].directory / f"told{number}").touch()
        self.outcomes.append((number, outcome))
        if outcome.shared:
            self.waiting.insert(0, self.specs[number])

    def commit(self) -> None:
        pass


def local(**asked: Any) -> LocalRunner:
    return LocalRunner(RunnerConfig(name="local", workers=4, pack="auto", cpus_per_trial=2, **asked))


def memory(configuration: Configuration) -> tuple[MemoryUse, ...]:
    """What a trial that says ``expected`` is expected to take."""
    if "expected" not in configuration:
        return ()
    return (MemoryUse("host", int(configuration["expected"]), 10**15),)


def test_as_many_trials_as_the_machines_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one by itself; then two, as many as fit; a large one alone, because of what is expected of it; and
    two again after it.

    A worker takes 0.2 to 0.4 GB with PyTorch and without a trial, so that two and not three trials of 0.4 GB fit.
    """
    monkeypatch.delenv("OMP_NUM_THREADS")
    room = 1.9 * GB
    small = {"mb": 400, "expected": 0.8 * GB}
    large = {"mb": int(0.4 * room / 1e6), "expected": 0.8 * room}
    pairs = {number: {**small, "until": f"began{other}"} for number, other in ((1, 2), (2, 1), (4, 5), (5, 4))}
    trials = [{"mb": 400}, pairs[1], pairs[2], large, pairs[4], pairs[5]]
    controller = Restarting(tmp_path, trials)
    runner = local(memory_gb=room / GB)
    runner.run(Hold(), controller)
    runner.close()
    [use] = controller.results[0].memory
    assert use.peak_bytes > 400 * 1024**2
    assert room / 3 < HEADROOM * use.footprint < room / 2, "the worker itself is not as large as expected"
    assert controller.results[0].metrics["threads"] == 2
    assert [outcome.end for _, outcome in controller.outcomes] == [End.FINISHED] * 6
    began = [controller.results[number].metrics["began"] for number in range(6)]
    assert max(controller.told[number] for number in range(3)) < began[3]
    assert controller.told[3] < min(began[4:])


def spec(number: int, folder: Path, expected: float | None = None) -> TrialSpec:
    configuration = {} if expected is None else {"expected": expected}
    return TrialSpec(number, "lr", configuration, 0, 1, folder, memory=memory(configuration))


def test_what_a_trial_may_take(tmp_path: Path) -> None:
    found = Footprints(10 * GB)
    assert not found.known
    found.note([MemoryUse("host", GB, 20 * GB, GB // 2)], spec(0, tmp_path))
    assert found.known
    # The largest that was seen, where nobody says.
    assert found.expected(spec(1, tmp_path)) == {"host": int(HEADROOM * 1.5 * GB)}
    assert found.expected(spec(1, tmp_path, 4 * GB)) == {"host": int(HEADROOM * 4 * GB)}
    assert found.expected(None) == {"host": 1.5 * GB}
    # It took more than was said: so may others.
    found.note([MemoryUse("host", 6 * GB, 20 * GB)], spec(1, tmp_path, 3 * GB))
    assert found.expected(spec(2, tmp_path, 3 * GB)) == {"host": 6 * GB}
    # Of two kinds of cards the smaller one counts.
    found.note([MemoryUse("gpu", GB, 80 * GB)], spec(2, tmp_path))
    found.note([MemoryUse("gpu", GB, 24 * GB)], spec(2, tmp_path))
    assert found.totals == {"host": 10 * GB, "gpu": 24 * GB}


def test_where_nothing_can_be_measured_workers_decide(tmp_path: Path) -> None:
    packing = Packing(Restarting(tmp_path, [{}] * 3), Machine(GB))
    assert packing.ask() is not None
    assert packing.ask() is None
    packing.report(0, EpochResult(1, 0.0))
    assert packing.ask() is None
    packing.tell(0, Outcome(End.FINISHED))
    assert packing.ask() is not None
    assert packing.ask() is not None


@pytest.mark.parametrize("seed", range(20))
def test_no_more_is_taken_than_there_is_as_long_as_no_trial_takes_more_than_expected(
    seed: int, tmp_path: Path
) -> None:
    """Random trials on a simulated machine: the sum of what they take stays within it, they begin in their order, and
    all of them do; one that waits does so only while it may not fit."""
    rng = random.Random(seed)
    total = 10 * GB
    true = [int(rng.uniform(0.05, rng.choice((0.3, 1.0))) ** 2 * total / HEADROOM) for _ in range(60)]
    said = [taken * rng.choice((1.0, rng.uniform(1.0, 1.5))) for taken in true]
    inner = Restarting(tmp_path, [{}, *({"expected": expected} for expected in said[1:])])
    packing, running, most, waited = Packing(inner, Machine(total)), list[int](), 0, 0
    while True:
        while (begun := packing.ask()) is not None:
            running.append(begun.number)
        if not running:
            break
        assert sum(true[number] for number in running) <= total
        most = max(most, len(running))
        asked = inner.begun[-1][0]
        if asked not in {*running, *(number for number, _ in inner.outcomes)}:
            waited += 1
            assert HEADROOM * sum(said[number] for number in (*running, asked)) > total
        number = running[rng.randrange(len(running))]
        packing.report(number, EpochResult(1, 0.0, memory=(MemoryUse("host", true[number], 2 * total),)))
        if rng.random() < 0.5:
            running.remove(number)
            packing.tell(number, Outcome(End.FINISHED))
    assert most > 2
    assert waited > 2
    assert [number for number, _ in inner.begun] == list(range(60))
    assert len(inner.outcomes) == 60


def out_of_memory() -> Outcome:
    return Outcome(End.FAILED, Reason.OUT_OF_MEMORY, "CUDA out of memory")


def test_who_runs_out_of_memory_in_company_is_tried_alone(tmp_path: Path) -> None:
    inner = Restarting(tmp_path, [{}] * 4)
    packing = Packing(inner, Machine(10 * GB))
    first = packing.ask()
    assert first is not None
    assert packing.ask() is None
    packing.report(0, EpochResult(1, 0.0, memory=(MemoryUse("host", GB, 20 * GB),)))
    assert [spec.number for spec in (packing.ask(), packing.ask()) if spec] == [1, 2]
    packing.tell(1, out_of_memory())
    assert inner.outcomes[-1][1].shared
    assert inner.outcomes[-1][1].detail == "memory ran out of which others held a part: CUDA out of memory"
    # It is next, and waits for the others to end; nobody begins before it, and nobody beside it.
    assert packing.ask() is None
    packing.tell(0, Outcome(End.FINISHED))
    assert packing.ask() is None
    packing.tell(2, Outcome(End.FINISHED))
    again = packing.ask()
    assert again is not None
    assert again.number == 1
    assert packing.ask() is None
    packing.tell(1, out_of_memory())
    assert not inner.outcomes[-1][1].shared
    last = packing.ask()
    assert last is not None
    assert last.number == 3
    # By itself from the start: that is the configuration's.
    packing.tell(3, out_of_memory())
    assert not inner.outcomes[-1][1].shared


def test_what_waits_when_the_command_ends_is_left_for_the_next_one(tmp_path: Path) -> None:
    inner = Restarting(tmp_path, [{}, {"expected": 9 * GB}, {"expected": GB}])
    packing = Packing(inner, Machine(10 * GB))
    assert packing.ask() is not None
    packing.report(0, EpochResult(1, 0.0, memory=(MemoryUse("host", 2 * GB, 20 * GB),)))
    assert packing.ask() is None
    assert inner.begun[-1][0] == 1
    inner.decision = Decision.PAUSE
    packing.report(0, EpochResult(2, 0.0))
    packing.tell(0, Outcome(End.PAUSED))
    assert packing.ask() is None
    assert inner.outcomes[-1] == (1, Outcome(End.PAUSED))


def test_what_a_trial_is_given_on_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"a": {"CPU": 16.0, "GPU": 2.0, "memory": 8.0 * GB}, "b": {"CPU": 16.0, "memory": 4.0 * GB}}
    monkeypatch.setattr(cluster, "alive", lambda: nodes)
    any_, large = spec(1, tmp_path), replace(spec(2, tmp_path), memory=(MemoryUse("gpu", 9 * GB, 20 * GB),))
    plan = Plan(RunnerConfig(name="ray", gpus_per_trial=1.0, pack="auto"), 1)
    whole = plan.given(any_)
    assert (plan.workers, whole.bundles) == (2, [{"CPU": 1.0, "GPU": 1.0}])
    assert plan.fit([whole] * 2)
    assert not plan.fit([whole] * 3)
    plan.footprints.note([MemoryUse("gpu", 4 * GB, 20 * GB, GB)], any_)
    third, half = plan.given(any_), plan.given(large)
    assert (plan.workers, third.gpus, half.gpus) == (8, pytest.approx(7 / 24, abs=1e-4), 0.5)
    assert plan.fit([third] * 6)
    assert not plan.fit([third] * 7)
    # Six fit, and four, but of these not on one card.
    assert plan.fit([half, third, half, third])
    assert not plan.fit([half, third, third, third, half])
    assert plan.given(any_, alone=True).gpus == 1
    assert not plan.fit([third, third, half, plan.given(any_, alone=True)])
    plan = Plan(RunnerConfig(name="ray", pack="auto"), 1)
    assert (plan.workers, plan.given(any_).memory) == (1, 0)
    assert not plan.fit([plan.given(any_)] * 2)
    plan.footprints.note([MemoryUse("host", GB, 20 * GB)], any_)
    given = plan.given(any_)
    assert HEADROOM * GB <= given.memory <= 1.2 * HEADROOM * GB
    assert plan.fit([given] * 9)
    assert not plan.fit([given] * 10)
    assert plan.given(any_, alone=True).memory == 8 * GB
    # Never more than there is, or nothing could ever run.
    plan.footprints.note([MemoryUse("host", 100 * GB, 200 * GB)], any_)
    assert plan.given(any_).memory == 8 * GB


def test_shares_of_a_card_add_up() -> None:
    for count in range(1, 200):
        part = share(1 / count)
        assert 1 - count * 1e-4 <= count * part <= 1
        assert 0.999 / count - 1e-4 <= share(0.999 / count) <= part + 1e-9
    assert share(0.26) == share(0.29) == 0.2916
    assert share(7.0) == 1


def test_the_grid_has_room_and_few_steps() -> None:
    for need in (1, 10**6, 3 * GB, 2**31):
        assert need <= grid(need) <= 1.2 * need
    assert len({grid(need) for need in range(GB, 2 * GB, 10**7)}) <= 5


def test_free_memory_is_some() -> None:
    assert 0 < free_memory() < 10**15


SCRIPT = """
import json, sys
from pathlib import Path
import orchestrator.runners.ray
import ray
ray.init(address="local", num_cpus=4, num_gpus=1, include_dashboard=False, log_to_driver=False,
         object_store_memory=80 * 1024**2, _node_ip_address="127.0.0.1")
from runner_programs import Hold
from test_packing import Restarting
from orchestrator.config.runner import RunnerConfig
from orchestrator.runners.ray import RayRunner
small = {"mb": 1, "gpu": 2.0}
trials = [small, {**small, "until": "told2"}, {**small, "whole": True}]
controller = Restarting(Path(sys.argv[1]), trials)
RayRunner(RunnerConfig(name="ray", gpus_per_trial=1.0, pack="auto")).run(Hold(), controller)
print(json.dumps({
    "gpus": [controller.results[number].metrics["GPU"] for number in range(3)],
    "shared": [(number, outcome.shared, outcome.end) for number, outcome in controller.outcomes],
    "begun": [number for number, _ in controller.begun],
}))
"""


def test_on_ray_trials_get_the_share_of_a_card_that_they_need(tmp_path: Path) -> None:
    """The first gets all of a (logical) card and takes 3 GB of its 10: then three may share it, and two do. One of
    them is out of memory: it begins again when the other has ended, with all of the card."""
    paths = [
        str(Path(__file__).resolve().parents[2]),
        str(Path(__file__).parents[1] / "helpers"),
        str(Path(__file__).parent),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    third = pytest.approx(1 / 3, abs=1e-3)
    assert found["gpus"] == [1.0, third, 1.0]
    assert sorted(found["begun"]) == [0, 1, 2, 2]
    ends = {(number, shared, end) for number, shared, end in found["shared"]}
    assert ends == {(2, True, "failed"), *((number, False, "finished") for number in range(3))}
