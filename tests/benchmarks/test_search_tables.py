"""Runs on disk, and the statistics made of them."""

import math
from pathlib import Path

import numpy as np
import pytest
import search
from search_methods import results, tables
from search_methods.results import Case, Row

FAKE = Path(__file__).parent / "fake_lcbench"
PAIRS = [("a", 0), ("a", 1), ("b", 0)]


def row(method: str = "m", instance: str = "a", seed: int = 0, regret: float = 0.5, workers: int = 1) -> Row:
    """A run that has regret 1 after one epoch, and ``regret`` after 100 epochs, of 20 FT."""
    case = Case(method, instance, seed, "default", 0.0, workers)
    trace = ((1, 1 / workers, 1.0), (100, 100 / workers, regret))
    return Row(case, 20.0, 1000, 20, 1.5, trace)


def of(method: str, values: list[float]) -> dict[tuple[str, int], Row]:
    return {(i, s): row(method, i, s, value) for (i, s), value in zip(PAIRS, values, strict=True)}


def test_a_run_comes_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "runs.jsonl"
    assert results.read(path) == {}
    results.append(path, row())
    results.append(path, row(seed=1))
    results.append(path, row(regret=0.25))
    assert results.read(path) == {item.case: item for item in (row(regret=0.25), row(seed=1))}


def test_a_line_cut_off_by_a_kill_is_dropped_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    results.append(path, row())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert list(results.read(path)) == [row().case]
    results.append(path, row(seed=1))
    assert path.read_bytes().startswith(whole)
    assert list(results.read(path)) == [row().case, row(seed=1).case]


def test_a_broken_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text('{"method": "m"}\n')
    with pytest.raises(ValueError, match=r"runs.jsonl, line 1 is not a run"):
        results.read(path)


def test_a_run_of_a_larger_budget_is_not_missing() -> None:
    cases = [row().case, row(seed=1).case]
    done = {row().case: row()}
    assert results.missing(cases, done, 10) == [cases[1]]
    assert results.missing(cases, done, 20) == [cases[1]]
    assert results.missing(cases, done, 50) == cases


def test_regret_at_a_budget_and_at_a_time() -> None:
    run = row(workers=4)
    assert [run.regret_at(budget) for budget in (1, 2, 20)] == [1.0, 0.5, 0.5]
    assert math.isnan(run.regret_at(21))
    assert run.regret_by_time(np.array([0.1, 0.25, 24.9, 25.0])).tolist() == [math.inf, 1.0, 1.0, 0.5]


def test_ties_share_a_rank() -> None:
    values = {name: np.array([[v], [w]]) for name, v, w in (("x", 0.1, 0.3), ("y", 0.1, 0.2), ("z", 0.4, 0.1))}
    ranks = {name: float(rank[0]) for name, rank in tables.mean_ranks(values).items()}
    assert ranks == {"x": (1.5 + 3) / 2, "y": (1.5 + 2) / 2, "z": (3 + 1) / 2}


def test_the_interval_resamples_instances_not_seeds() -> None:
    values = np.array([0.0, 1.0, 0.5, 0.5])
    assert tables.interval(values, ["a", "a", "b", "b"]) == tables.Interval(0.5, 0.5, 0.5)
    wide = tables.interval(values, ["a", "b", "c", "d"])
    assert wide.low < 0.25
    assert wide.high > 0.75
    assert wide.mean == 0.5


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    names = [str(index) for index in range(40)]
    found = [tables.interval(rng.normal(size=40), names, draws=500) for _ in range(300)]
    covered = sum(item.low <= 0 <= item.high for item in found) / len(found)
    assert 0.90 <= covered <= 0.98


def test_losses_are_named() -> None:
    methods = {
        "ours": of("ours", [0.2, 0.2, 0.2]),
        "worse": of("worse", [0.4, 0.4, 0.4]),
        "better": of("better", [0.1] * 3),
    }
    text = tables.paired_table(methods, "ours")
    assert "| worse | 3 | +0.000 [+0.000, +0.000] | -0.200 [-0.200, -0.200] |" in text
    assert "+0.100 [+0.100, +0.100] **loss**" in text
    last = text.splitlines()[-1]
    assert "better at 2 FT (+0.100, beyond doubt)" in last
    assert "worse" not in last


def test_ranks_are_over_runs_that_all_have_means_over_all() -> None:
    methods = {"x": of("x", [0.1, 0.1, 0.4]), "y": of("y", [0.2, 0.2, 0.2])}
    del methods["y"]["b", 0]
    text = tables.regret_table(methods)
    assert "| x | 3 | 1.000 | 0.200 | 0.200 | 0.200 | 0.200 | 1.5 | 1.0 |" in text
    assert "| y | 2 | 1.000 | 0.200 |" in text
    assert "Ranks over 2 runs" in text


def test_speed_up_is_at_equal_regret() -> None:
    one = {pair: row(instance=pair[0], seed=pair[1]) for pair in PAIRS}
    four = {pair: row(instance=pair[0], seed=pair[1], workers=4) for pair in PAIRS}
    assert tables.speed_up(one, four, 2) == (0.5, 4.0)
    never = {pair: row(instance=pair[0], seed=pair[1], regret=0.6, workers=4) for pair in PAIRS}
    regret, ratio = tables.speed_up(one, never, 2)
    assert regret == 0.5
    assert math.isnan(ratio)


def test_a_run_is_resumed_and_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "search.jsonl"
    words = [
        "--methods",
        "random",
        "one_epoch",
        "--starts",
        "default",
        "--seeds",
        "0",
        "--max-ft",
        "20",
        "--jobs",
        "1",
    ]
    common = [*words, "--lcbench", str(FAKE), "--out", str(out)]
    search.run(search.parse(["run", *common, "--instances", "one"]))
    assert "2 of 2 runs to do" in capsys.readouterr().out
    search.run(search.parse(["run", *common]))
    assert "2 of 4 runs to do" in capsys.readouterr().out
    assert len(out.read_text().splitlines()) == 4
    search.run(search.parse(["run", *common, "--redo", "--instances", "trusted"]))
    assert "2 of 2 runs to do" in capsys.readouterr().out
    assert len(results.read(out)) == 4
    search.report(search.parse(["report", *common]))
    text = capsys.readouterr().out
    assert "## start default, noise 0, one worker" in text
    assert out.with_suffix(".md").read_text() in text
    assert "| one_epoch | 2 |" in text
    assert (tmp_path / "search_noise0_workers1.png").read_bytes().startswith(b"\x89PNG")


def test_a_report_is_of_the_methods_and_instances_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "search.jsonl"
    for method in ("random", "tpe"):
        for instance in ("one", "two", "three"):
            results.append(out, row(method, instance))
    search.report(search.parse(["report", "--out", str(out), "--methods", "tpe", "--instances", "one", "three"]))
    text = capsys.readouterr().out
    assert text.startswith("Instances: one, three.")
    assert "| tpe | 2 |" in text
    assert "random" not in text
    with pytest.raises(SystemExit, match="no such runs there yet"):
        search.report(search.parse(["report", "--out", str(out), "--methods", "gp"]))


def test_without_lcbench_one_line_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"lcbench: there is no .*lcbench.py.*--lcbench PATH"):
        search.run(search.parse(["run", "--lcbench", str(tmp_path / "none")]))
    with pytest.raises(SystemExit, match=r"--instances three: not one of all, trusted, one, two"):
        search.run(search.parse(["run", "--lcbench", str(FAKE), "--instances", "three"]))
