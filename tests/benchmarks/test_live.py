"""The live benchmark measures what it says: epochs really trained, targets, censored runs, ended processes."""

import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from live_methods import peers, pool, tables
from live_methods.images import SyntheticImages, draw
from live_methods.jobs import Job, Report, Run, perform, read_run, write_run
from live_methods.ours import ours
from live_methods.problems import (
    TASKS,
    problem,
    random_configuration,
    to_configuration,
    to_parameters,
)
from live_methods.recording import LogReader, recorded

from orchestrator.config.schema import TaskConfig, TrainerConfig
from orchestrator.trial import TrainingProgram
from orchestrator.types import TrialSpec

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SHORT = "trainer.epochs=3"


@pytest.mark.parametrize("name", TASKS)
def test_a_problem_searches_seven_hyperparameters_around_its_defaults(name: str) -> None:
    item = problem(name)
    assert len(item.ranges) == 7
    for key, own in item.ranges.items():
        assert own.low <= item.base[key] <= own.high, key
    assert item.base["schedule.kind"] == "constant"
    assert item.program.trainer.epochs == (15 if name in ("digits_cnn", "images") else 27)


@pytest.mark.parametrize("name", TASKS)
def test_random_configurations_fill_the_ranges_and_nothing_else(name: str) -> None:
    item = problem(name)
    drawn = [random_configuration(item, seed) for seed in range(400)]
    for key, value in item.base.items():
        seen = [configuration[key] for configuration in drawn]
        if key not in item.ranges:
            assert set(seen) == {value}
            continue
        own = item.ranges[key]
        assert own.low <= min(seen)
        assert max(seen) <= own.high
        scale = {"linear": float, "log": math.log, "log_complement": lambda x: -math.log1p(-x)}[own.scale]
        low, high, middle = scale(own.low), scale(own.high), scale(float(np.median(seen)))
        assert 0.3 < (middle - low) / (high - low) < 0.7, key
    assert drawn[0] == random_configuration(item, 0)


def test_a_configuration_survives_the_way_through_optuna_s_parameters() -> None:
    item = problem("digits_mlp")
    configuration = random_configuration(item, 3)
    again = to_configuration(item, to_parameters(item, configuration))
    assert {key: again[key] for key in item.base if key not in item.ranges} == {
        key: item.base[key] for key in item.base if key not in item.ranges
    }
    for key in item.ranges:
        assert again[key] == pytest.approx(configuration[key], rel=1e-12)
    assert to_parameters(item, item.base)["1 - optimizer.momentum"] == pytest.approx(0.1)


def test_the_images_are_the_same_each_time_and_of_ten_classes() -> None:
    one, other = draw(200, np.random.default_rng(4)), draw(200, np.random.default_rng(4))
    assert np.array_equal(one[0], other[0])
    assert set(one[1]) == set(range(10))
    train = SyntheticImages(examples=300).splits().train
    inputs = torch.stack([train[index][0] for index in range(len(train))])
    assert inputs.shape == (180, 1, 12, 12)
    assert float(inputs.mean()) == pytest.approx(0.0, abs=1e-5)


def test_a_convolutional_network_learns_the_images_but_not_perfectly() -> None:
    item = problem("images", "trainer.epochs=8")
    results = list(item.program(TrialSpec(0, "x", item.base, 0, 8, Path(), keep=False)))
    assert 0.3 < max(result.metrics["val/accuracy"] for result in results) < 0.9


def test_the_recorded_task_notes_what_is_trained_and_nothing_else(tmp_path: Path) -> None:
    log = tmp_path / "log"
    args = {"target": "orchestrator.tasks.tabular.Diabetes", "log": str(log)}
    task = TaskConfig(name="diabetes", target="live_methods.recording.recorded", args=args)
    base = problem("diabetes").base
    program = TrainingProgram(task, TrainerConfig(epochs=3), 1)
    reader = LogReader(log)
    results = list(program(TrialSpec(0, "x", base, 0, 3, tmp_path, keep=False)))
    notes = list(reader.new())
    assert [note.examples for note in notes] == [265] * 3
    assert [note.loss for note in notes] == [result.value for result in results]
    scored = recorded(**args)
    targets = torch.zeros(5, 1)
    scored.score(targets.double(), torch.ones(5, 1))
    with torch.no_grad():
        scored.loss(targets, targets)
    scored.score(targets.double(), torch.ones(5, 1))
    assert list(reader.new()) == []


def test_a_half_written_line_is_read_when_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "log"
    line = json.dumps({"time": 1.0, "examples": 5, "loss": 0.5}) + "\n"
    log.write_text(line + line[:9])
    reader = LogReader(log)
    assert len(list(reader.new())) == 1
    with log.open("a") as handle:
        handle.write(line[9:])
    assert [note.examples for note in reader.new()] == [5]


def test_a_pool_goes_on_after_a_kill_as_if_there_was_none(tmp_path: Path) -> None:
    item = problem("diabetes", SHORT)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    pool.extend_pool(whole, item, 3)
    lines = whole.read_text().splitlines(keepends=True)
    cut.write_text("".join(lines[:2]) + lines[2][:40])
    pool.extend_pool(cut, item, 3)
    one, other = pool.read_pool(whole), pool.read_pool(cut)
    assert len(one) == 4
    assert [own.curve for own in one] == [own.curve for own in other]
    assert dict(one[0].configuration) == dict(item.base)
    assert len({own.seed for own in one}) == 4


def test_the_pool_of_another_problem_is_another_file(tmp_path: Path) -> None:
    paths = [
        pool.pool_path(tmp_path, problem("diabetes", *words))
        for words in ((), (SHORT,), ("space.model.width.high=64",), ("optimizer.lr=0.002",), ("trainer.disk_gb=1.0",))
    ]
    assert len(set(paths)) == 4
    assert paths[0] == paths[4]


def trainings(values: Sequence[float]) -> list[pool.Training]:
    """A pool whose default has the first value; each training is at its best in its second epoch."""
    return [pool.Training(index, index, {}, [9.0, value, 9.5], "", 0.1) for index, value in enumerate(values)]


def test_the_target_is_what_200_random_trainings_give() -> None:
    values = [float(value) for value in np.random.default_rng(0).lognormal(size=300)]
    found = pool.target(trainings([1.0, *values]))
    ranked = sorted(values)
    assert ranked[0] < found.loss < ranked[2]
    assert found.low == ranked[0]
    assert ranked[2] <= found.high <= ranked[6]
    # Half of the values are below the median, 1: one training does it in half of all searches.
    assert found.default_needs == pytest.approx(1.0, abs=0.2)


def test_random_search_s_epochs_count_whole_trainings_and_the_last_one_up_to_the_target() -> None:
    some = trainings([5.0, *[1.0] * 10, *[3.0] * 90])
    # One in ten reaches 2: in the median after 7 trainings, the last of them in its second epoch.
    assert pool.random_epochs(some, 2.0) == pytest.approx(6 * 3 + 2, abs=3)
    assert pool.random_epochs(some, 0.5) == math.inf


def writing(lines: Sequence[tuple[int, float]], then: str = "") -> str:
    """A program that writes lines of the log given in its arguments."""
    return (
        "import json, sys, time\nfrom math import nan\n"
        f"for examples, loss in {list(lines)}:\n"
        "    with open(sys.argv[1], 'a') as handle:\n"
        "        row = {'time': time.time(), 'examples': examples, 'loss': loss}\n"
        "        handle.write(json.dumps(row) + '\\n')\n" + then
    )


def done(tmp_path: Path, program: str, timeout_s: float = 60.0) -> Run:
    def command(job: Job) -> Sequence[str]:
        return [sys.executable, "-c", program, str(job.log)]

    job = Job("fake", "diabetes", 0, tmp_path)
    return perform(job, command, target=0.5, cap_epochs=4, quiet=False, timeout_s=timeout_s)


def test_a_run_ends_at_the_target_with_all_its_processes(tmp_path: Path) -> None:
    child = (
        f"import subprocess\nsubprocess.Popen([{sys.executable!r}, '-c', 'import time; time.sleep(600)']).wait()\n"
    )
    before = psutil.Process().children(recursive=True)  # of earlier tests' Ray
    began = time.monotonic()
    run = done(tmp_path, writing([(265, 0.9), (265, math.nan), (265, 0.4)], child))
    assert time.monotonic() - began < 60
    assert run.end == "target"
    assert [row.epochs for row in run.reports] == [1.0, 2.0, 3.0]
    assert [row.best for row in run.reports] == [0.9, 0.9, 0.4]
    assert run.epochs_to_target == 3.0
    assert run.seconds_to_target == run.reports[2].seconds > 0
    left = set(psutil.Process().children(recursive=True)) - set(before)
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]


def test_a_run_ends_at_the_cap_at_its_own_end_or_when_it_is_late(tmp_path: Path) -> None:
    ends = {}
    for name, program, timeout_s in (
        ("cap", writing([(265, 0.9)] * 4, "time.sleep(600)"), 60.0),
        ("exit", writing([(265, 0.9)] * 2), 60.0),
        ("timeout", writing([(265, 0.9)], "time.sleep(600)"), 1.0),
    ):
        folder = tmp_path / name
        folder.mkdir()
        run = done(folder, program, timeout_s)
        ends[name] = (run.end, run.reports[-1].epochs, run.epochs_to_target)
    assert ends == {
        "cap": ("cap", 4.0, math.inf),
        "exit": ("exit", 2.0, math.inf),
        "timeout": ("timeout", 1, math.inf),
    }


def test_a_method_that_fails_is_not_a_result(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="boom"):
        done(tmp_path, "raise RuntimeError('boom')")


def test_a_run_survives_its_file(tmp_path: Path) -> None:
    run = run_of("ours", 0, [(1.0, 0.9), (2.0, 0.4)])
    write_run(tmp_path / "run.jsonl", run)
    assert read_run(tmp_path / "run.jsonl") == run


def run_of(method: str, seed: int, points: Sequence[tuple[float, float]], task: str = "t") -> Run:
    rows = tuple(Report(method, task, seed, epochs, 2 * epochs, best) for epochs, best in points)
    return Run(method, task, seed, 2, 0.5, 100, False, "cap", rows)


def test_the_table_counts_a_run_that_missed_as_longer_than_any() -> None:
    runs = [run_of("ours", seed, [(10.0 + seed, 0.4)]) for seed in range(3)]
    runs += [run_of("slow", 0, [(40.0, 0.4)]), *(run_of("slow", seed, [(100.0, 0.9)]) for seed in (1, 2))]
    runs += [run_of("best", 0, [(100.0, 0.9)]), *(run_of("best", seed, [(33.0, 0.5)]) for seed in (1, 2))]
    found = tables.cells(runs, lambda run: run.epochs_to_target, tables.last_epochs)
    assert str(found["t", "ours"]) == "11 (3/3)"
    assert str(found["t", "slow"]) == ">100 (1/3)"
    assert str(found["t", "best"]) == "33 (2/3)"
    assert str(tables.ratio(found, "t", ["ours", "slow", "best"])) == "3.00"
    assert str(tables.ratio(found, "t", ["ours", "slow"])) == f">={100 / 11:.2f}"
    text = tables.to_target(found, ["t"], ["ours", "slow", "best"], {"t": 5400.0})
    assert "median ratio over 1 tasks: 3.00" in text


def test_where_ours_missed_the_ratio_is_an_upper_bound() -> None:
    runs = [run_of("ours", 0, [(100.0, 0.9)]), run_of("peer", 0, [(25.0, 0.4)])]
    found = tables.cells(runs, lambda run: run.epochs_to_target, tables.last_epochs)
    assert str(tables.ratio(found, "t", ["ours", "peer"])) == "<=0.25"
    assert tables.ratio(found, "t", ["ours"]) is None


def test_peers_are_told_the_best_so_far_and_no_outlier() -> None:
    item = problem("diabetes", SHORT)
    base = to_parameters(item, item.base)
    told = list(peers.losses(item, base, 0))
    assert len(told) == 3
    assert told == sorted(told, reverse=True)
    assert told == list(peers.losses(item, base, 0))
    wild = {**base, "optimizer.lr": 1.0, "1 - optimizer.beta1": 0.5, "model.depth": 4, "model.width": 256}
    assert max(peers.losses(item, wild, 0)) <= 2.0


def test_optuna_s_two_processes_search_until_the_cap(tmp_path: Path) -> None:
    from live_methods.optuna_processes import tpe_halving

    job = Job("optuna_tpe_halving", "diabetes", 0, tmp_path, extra=(SHORT,))
    run = perform(job, tpe_halving, target=0.0, cap_epochs=6, quiet=False, timeout_s=200)
    assert run.end == "cap"
    assert 6 <= run.reports[-1].epochs < 60
    assert run.reports[0].best > run.reports[-1].best


@pytest.mark.parametrize("name", TASKS)
def test_our_own_command_is_one_that_the_product_takes(name: str, tmp_path: Path) -> None:
    if name in ("digits_cnn", "breast_cancer"):
        pytest.skip("the same words as digits_mlp and diabetes")
    words = [*ours(Job("ours", name, 0, tmp_path)), "dry_run=true"]
    found = subprocess.run(
        words,
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": f"{BENCHMARKS.parent}:{BENCHMARKS}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert found.returncode == 0, found.stderr
    assert "dry run" in found.stdout
