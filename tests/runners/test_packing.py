"""Trials share memory as far as it goes, by what they are seen to take."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from runner_programs import Hold

from orchestrator.config.runner import RunnerConfig
from orchestrator.runners import cluster
from orchestrator.runners.cluster import Plan
from orchestrator.runners.local import LocalRunner
from orchestrator.runners.packing import HEADROOM, Footprints, OneMachine, free_memory, grid
from orchestrator.types import Decision, End, EpochResult, MemoryUse, Outcome, Reason, TrialSpec

pytestmark = pytest.mark.timeout(240)
GB = 10**9


class Restarting:
    """A controller that hands out trials, again where memory was shared, and notes how many ran at a time."""

    def __init__(self, folder: Path, trials: Sequence[dict[str, Any]], epochs: int = 2) -> None:
        self.waiting = [
            TrialSpec(number, "lr", configuration, seed=0, epochs=epochs, directory=folder)
            for number, configuration in enumerate(trials)
        ]
        self.specs = {spec.number: spec for spec in self.waiting}
        self.running: set[int] = set()
        self.begun: list[tuple[int, set[int]]] = []
        """Each beginning, and who ran then."""
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
        return Decision.CONTINUE

    def tell(self, number: int, outcome: Outcome) -> None:
        self.running.remove(number)
        (self.specs[number].directory / f"told{number}").touch()
        self.outcomes.append((number, outcome))
        if outcome.shared:
            self.waiting.insert(0, self.specs[number])

    def commit(self) -> None:
        pass


def local(**asked: Any) -> LocalRunner:
    return LocalRunner(RunnerConfig(name="local", workers=4, pack="auto", cpus_per_trial=2, **asked))


def test_as_many_trials_as_the_machines_memory_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first one by itself; then two, as many as fit; and one beside what is too large for two.

    A worker takes 0.2 to 0.4 GB with PyTorch and without a trial, so that two and not three trials of 0.4 GB fit.
    """
    monkeypatch.delenv("OMP_NUM_THREADS")
    small, room = {"mb": 400}, 1.9 * GB
    controller = Restarting(tmp_path, [*[small] * 5, {"mb": int(0.5 * room / 1e6)}, small, small])
    runner = local(memory_gb=room / GB)
    runner.run(Hold(), controller)
    runner.close()
    [use] = controller.results[0].memory
    assert use.peak_bytes > 400 * 1024**2
    assert room / 3 < HEADROOM * use.footprint < room / 2, "the worker itself is not as large as expected"
    assert controller.results[0].metrics["threads"] == 2
    assert [outcome.end for _, outcome in controller.outcomes] == [End.FINISHED] * 8
    together = [len(company) for _, company in controller.begun]
    assert together[0] == 1
    assert max(together) == 2
    # After the large one has been seen.
    assert together[-1] == 1


def footprints(host: int | None = None, first: int = 1) -> Footprints:
    return Footprints(first, host)


def test_how_many_fit() -> None:
    found = footprints(10 * GB)
    assert found.at_once() == 1
    found.note([MemoryUse("host", GB, 20 * GB, GB // 2)])
    assert found.need("host") == int(HEADROOM * 1.5 * GB)
    assert found.at_once() == 6
    # A smaller one changes nothing, a larger one does; of two kinds of cards the smaller one counts.
    found.note([MemoryUse("host", GB // 2, 20 * GB)])
    assert found.at_once() == 6
    found.note([MemoryUse("host", GB, 20 * GB), MemoryUse("gpu", 3 * GB, 79 * GB, GB)])
    assert found.at_once() == 6
    found.note([MemoryUse("gpu", 3 * GB, 23 * GB, GB)])
    assert found.at_once() == 5
    found.note([MemoryUse("gpu", 30 * GB, 79 * GB, GB)])
    assert found.at_once() == 1


def test_where_nothing_can_be_measured_workers_decide() -> None:
    found = footprints(GB, first=1)
    found.note([])
    assert found.at_once() == 1
    found.ended()
    assert found.at_once() is None


def out_of_memory() -> Outcome:
    return Outcome(End.FAILED, Reason.OUT_OF_MEMORY, "CUDA out of memory")


def test_who_runs_out_of_memory_in_company_is_tried_alone(tmp_path: Path) -> None:
    inner = Restarting(tmp_path, [{}] * 4)
    packing = OneMachine(inner, footprints(10 * GB))
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


def test_what_a_trial_is_given_on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = {"a": {"CPU": 16.0, "GPU": 2.0, "memory": 8.0 * GB}, "b": {"CPU": 16.0, "memory": 4.0 * GB}}
    monkeypatch.setattr(cluster, "alive", lambda: nodes)
    plan = Plan(RunnerConfig(name="ray", gpus_per_trial=1.0, pack="auto"), 1)
    assert (plan.workers, plan.need().bundles) == (2, [{"CPU": 1.0, "GPU": 1.0}])
    plan.footprints.note([MemoryUse("gpu", 4 * GB, 19 * GB, GB)])
    assert (plan.workers, plan.need().gpus) == (6, pytest.approx(1 / 3))
    assert plan.need(alone=True).gpus == 1
    plan = Plan(RunnerConfig(name="ray", pack="auto"), 1)
    assert (plan.workers, plan.need().memory) == (1, 0)
    plan.footprints.note([MemoryUse("host", GB, 20 * GB)])
    assert HEADROOM * GB <= plan.need().memory <= 1.2 * HEADROOM * GB
    assert plan.workers == 6 + 3
    assert plan.need(alone=True).memory == 8 * GB
    # Never more than there is, or nothing could ever run.
    plan.footprints.note([MemoryUse("host", 100 * GB, 200 * GB)])
    assert (plan.workers, plan.need().memory) == (1, 8 * GB)


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
trials = [small, {**small, "until": "told2"}, {**small, "whole": True}, small]
controller = Restarting(Path(sys.argv[1]), trials)
RayRunner(RunnerConfig(name="ray", gpus_per_trial=1.0, pack="auto")).run(Hold(), controller)
print(json.dumps({
    "gpus": [controller.results[number].metrics["GPU"] for number in range(4)],
    "shared": [(number, outcome.shared, outcome.end) for number, outcome in controller.outcomes],
    "begun": [number for number, _ in controller.begun],
}))
"""


def test_on_ray_trials_get_the_share_of_a_card_that_they_need(tmp_path: Path) -> None:
    """The first gets all of a (logical) card and takes 3 GB of its 10: then three may share it, and two do. One of
    them is out of memory: it begins again when the other has ended, with all of the card; the next has a share."""
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
    assert found["gpus"] == [1.0, third, 1.0, third]
    assert sorted(found["begun"]) == [0, 1, 2, 2, 3]
    ends = {(number, shared, end) for number, shared, end in found["shared"]}
    assert ends == {(2, True, "failed"), *((number, False, "finished") for number in range(4))}
