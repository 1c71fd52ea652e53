"""The page: what it says of sweeps of every size, that it stands by itself, and that nothing breaks out of it."""

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from orchestrator import compose
from orchestrator.app.simulate import simulate_on, simulated_sweep
from orchestrator.masking import mask
from orchestrator.report.answers import in_a_minute, worth
from orchestrator.report.axes import Axis
from orchestrator.report.html import text
from orchestrator.report.maps import joint_share
from orchestrator.report.page import render, write_report
from orchestrator.report.stage_charts import infeasible_spans
from orchestrator.report.view import FINISHED, INFEASIBLE, SweepView, Training, view_of
from orchestrator.runners.simulation import CurveProgram, SimulationRunner
from orchestrator.stages.sweep import Sweep
from orchestrator.types import Configuration, Direction, TrialState

SHORT = ["recipe.budget={high: 2.5, medium: 1.5, low: 1.0}", "stages.joint.budget=3"]
VOID = {"meta", "link", "img", "br", "path", "use", "rect", "circle", "line"}


def curve(configuration: Configuration, seed: int) -> list[float]:
    """A valley at a learning rate of 0.03 and a batch of 64; infeasible beyond a rate of 0.5."""
    rate, batch = float(configuration["optimizer.lr"]), float(configuration["data.batch_size"])
    if rate > 0.5:
        return [math.nan] * 12
    end = 0.1 + math.log10(rate / 0.03) ** 2 + 0.1 * math.log2(batch / 64) ** 2 + (seed % 97) / 5000
    return [end + 2.0 * math.exp(-epoch / 3) for epoch in range(1, 13)]


def sweep(folder: Path, *words: str) -> Sweep:
    config = compose(["trainer.epochs=12", "task=digits_mlp", *words])
    made = simulated_sweep(config, folder)
    program = CurveProgram(curve, lambda number: made.study[number].inherited)
    simulate_on(made, SimulationRunner(1), program)
    return made


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> SweepView:
    return view_of(sweep(tmp_path_factory.mktemp("staged"), "stage=all", *SHORT))


@pytest.fixture(scope="module")
def page(staged: SweepView) -> str:
    return render(staged)


class Balance(HTMLParser):
    """Fails on an end tag without its beginning, and keeps what is open at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def parsed(page: str) -> Balance:
    found = Balance()
    found.feed(page)
    assert found.open == []
    return found


def test_the_page_answers_what_how_sure_and_how_again(staged: SweepView, page: str) -> None:
    assert staged.best is not None
    assert f"loss {staged.best.value:.4g}" in page
    assert f"trial {staged.best.number}: lr {staged.best.configuration['optimizer.lr']:.3g}" in page
    assert staged.noise[0] is not None
    assert f"± {staged.noise[0]:.2g}" in page
    assert "+experiment=winner stage=train" in page


def test_every_finished_visit_and_its_verdict_is_there(staged: SweepView, page: str) -> None:
    for key, entry in staged.finished.items():
        assert text(entry["text"].splitlines()[0]) in page, key


def test_infeasible_trials_are_counted_with_their_reason(staged: SweepView, page: str) -> None:
    count = sum(training.outcome == INFEASIBLE for training in staged.trainings)
    assert count > 0
    assert "non_finite, for example trial" in page
    assert re.search(rf">infeasible</th><td>{count}</td>", page)


def test_the_costs_sum_to_all_epochs(staged: SweepView) -> None:
    spent = sum(record.epochs_paid for record in staged.records)
    assert f"In sum {spent} epochs" in render(staged)
    assert sum(len(training.trials) for training in staged.trainings) == len(staged.records)
    assert any(len(training.trials) > 1 for training in staged.trainings), "no promotion: the chain is not tried"


def test_every_picture_has_an_explanation(page: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", page, flags=re.DOTALL)
    assert len(figures) > 10
    for figure in figures:
        assert "<svg" in figure
        assert re.search(r"What it shows\.</b> \w", figure)
        assert re.search(r"What to conclude\.</b> \w", figure)


def test_the_page_stands_by_itself_and_needs_no_script(page: str) -> None:
    for tag, attributes in parsed(page).tags:
        assert tag != "script"
        for name in ("src", "href"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:")), value
    assert "@import" not in page
    assert "url(http" not in page


def test_links_lead_somewhere_and_ids_are_unique(page: str) -> None:
    tags = parsed(page).tags
    anchors = [attributes["id"] for tag, attributes in tags if "id" in attributes and tag in ("section", "h3")]
    assert len(anchors) == len(set(anchors))
    for tag, attributes in tags:
        if tag == "a":
            assert (attributes["href"] or "").removeprefix("#") in anchors


def test_the_same_sweep_gives_the_same_page(staged: SweepView, page: str) -> None:
    assert render(staged) == page


def test_what_users_name_is_escaped(staged: SweepView, tmp_path: Path) -> None:
    evil = '<img src=x onerror=alert(1)>"&'
    entries = {key: {**entry, "text": evil} for key, entry in staged.finished.items()}
    records = [
        replace(record, detail=evil, configuration={**record.configuration, evil: evil}) for record in staged.records
    ]
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "1.yaml").write_text(f"# run.py sweep.name='{evil}'\n")
    shown = render(replace(staged, name=evil, finished=entries, records=records, folder=tmp_path))
    assert "<img src=x" not in shown
    assert shown.count("&lt;img src=x onerror=alert(1)&gt;&quot;&amp;") > 3
    parsed(shown)


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("tracking.uri=postgresql://me:hunter2@db:5432/x", "tracking.uri=postgresql://***@db:5432/x"),
        ("https://hunter2@host/path", "https://***@host/path"),
        ("task.args.api_key=hunter2 seed=1", "task.args.api_key=*** seed=1"),
        ("https://host/x?access_token=hunter2&page=2", "https://host/x?access_token=***&page=2"),
        ("sqlite:////home/me/mlflow.db", "sqlite:////home/me/mlflow.db"),
        ("optimizer.lr=0.1", "optimizer.lr=0.1"),
    ],
)
def test_secrets_are_masked(given: str, shown: str) -> None:
    assert mask(given) == shown


def test_a_secret_in_a_command_does_not_reach_the_page(staged: SweepView, tmp_path: Path) -> None:
    (tmp_path / "commands").mkdir()
    (tmp_path / "commands" / "1.yaml").write_text("# run.py tracking.uri=postgresql://me:hunter2@db/x\n")
    shown = render(replace(staged, folder=tmp_path))
    assert "postgresql://***@db/x" in shown
    assert "hunter2" not in shown


def test_a_sweep_without_a_trial(tmp_path: Path) -> None:
    empty = view_of(simulated_sweep(compose(["stage=lr"]), tmp_path))
    assert "No training has run to its end" in render(empty)
    parsed(render(empty))


def test_a_sweep_in_which_nothing_finished(staged: SweepView) -> None:
    started = replace(staged, records=[replace(staged.records[0], curve={}, value=None)], finished={})
    assert "nothing yet" in render(started)
    failed = [record for record in staged.records if not record.feasible and record.parent is None]
    numbered = [replace(record, number=number) for number, record in enumerate(failed)]
    shown = render(replace(staged, records=numbered, finished={}))
    assert "there is no winner" in shown
    parsed(shown)


def test_a_sweep_of_one_trial(staged: SweepView) -> None:
    done = next(t for t in staged.trainings if t.outcome == FINISHED and len(t.trials) == 1)
    one = replace(staged, records=[replace(done.last, number=0)], finished={})
    shown = render(one)
    assert f"loss {done.last.value:.4g}" in shown
    parsed(shown)


def test_a_maximized_objective_is_read_the_right_way_round(staged: SweepView) -> None:
    flipped = [
        replace(
            record,
            curve={epoch: -value for epoch, value in record.curve.items()},
            value=None if record.value is None else -record.value,
        )
        for record in staged.records
    ]
    view = replace(staged, records=flipped, direction=Direction.MAXIMIZE, finished={}, objective="score")
    assert view.best is not None
    assert staged.best is not None
    assert view.best.number == staged.best.number
    assert "the largest score" in render(view)


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> SweepView:
    words = ["stage=all", "sampler=random", "n_trials=125"]
    return view_of(sweep(tmp_path_factory.mktemp("thousand"), *words))


def test_a_thousand_trials_fit_on_one_page(thousand: SweepView) -> None:
    assert len(thousand.records) >= 1000
    shown = render(thousand)
    parsed(shown)
    assert "60 of " in shown, "learning curves are not limited"
    assert len(shown) < 3_000_000
    assert next(iter(thousand.importance)) in ("optimizer.lr", "data.batch_size"), "nothing else matters here"


def test_the_file_takes_the_place_of_an_older_one(staged: SweepView, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("older")
    report = write_report(replace(staged, folder=tmp_path))
    assert report.page == tmp_path / "report.html"
    assert report.page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_every_picture_is_a_file_that_stands_by_itself(staged: SweepView, page: str, tmp_path: Path) -> None:
    report = write_report(replace(staged, folder=tmp_path))
    files = [path for paths in report.pictures.values() for path in paths]
    assert len(files) == len(set(files)) == page.count("<svg")
    assert any(path.name.startswith("lr-loss-against") for path in report.pictures["stage-lr"])
    for path in files:
        root = ElementTree.parse(path).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        written = path.read_text(encoding="utf-8")
        used = set(re.findall(r"var\((--\w+)\)", written))
        assert used
        assert all(f"{name}:#" in written for name in used), "a colour without its value"


def test_the_first_questions_are_answered_in_a_minute(staged: SweepView, page: str) -> None:
    asked = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))
    assert staged.best is not None
    rate = staged.best.configuration["optimizer.lr"]
    assert asked["Which learning rate, and why?"].startswith(f"{rate:.3g}: ")
    assert "Training diverged at rates from 0.5" in asked["Which learning rate, and why?"]
    assert "0.01 to 0.1: " in asked["Which learning rate, and why?"]
    failed = sum(training.outcome == INFEASIBLE for training in staged.trainings)
    assert f"{failed} of {len(staged.trainings)} trainings: {failed} x non_finite" in asked["What failed, and why?"]
    assert asked["What did each stage gain?"].startswith("lr: first best ")
    assert "range" in asked["Was a range too narrow?"]


def test_a_winner_beyond_the_range_that_was_given_is_told(staged: SweepView) -> None:
    best = staged.best
    assert best is not None
    batch = dict(best.configuration) | {"data.batch_size": 8, "optimizer.lr": 0.03}
    records = [replace(r, configuration=batch) if r.number == best.number else r for r in staged.records]
    told = dict(in_a_minute(replace(staged, records=records)))["Was a range too narrow?"]
    assert "data.batch_size: yes. The winner's 8 lies below the range that was given, 16 to 512" in told
    assert "least value tried: widen it further" in told
    assert "optimizer.lr: yes" not in told


def test_the_ground_where_most_fail_is_shaded(staged: SweepView) -> None:
    axis = Axis(staged, "optimizer.lr")
    trainings = staged.by_stage["lr"]
    [(low, high)] = infeasible_spans(trainings, axis)
    failed = [axis.at(t.configuration["optimizer.lr"]) for t in trainings if t.outcome == INFEASIBLE]
    others = [axis.at(t.configuration["optimizer.lr"]) for t in trainings if t.outcome != INFEASIBLE]
    assert max(others) < low < min(failed)
    assert high > max(failed)
    # One failure among those that went well is no region.
    middle = sorted(t for t in others)[len(others) // 2]
    unlucky = [t for t in trainings if axis.at(t.configuration["optimizer.lr"]) == middle][:1]
    lost = [Training((replace(t.last, state=TrialState.INFEASIBLE),), t.direction) for t in unlucky]
    rest = [t for t in trainings if t not in unlucky]
    assert infeasible_spans([*rest, *lost], axis) == [(low, high)]


def test_only_what_needs_both_is_called_an_interaction(staged: SweepView) -> None:
    rng = np.random.default_rng(0)
    item, other = staged.space["optimizer.lr"], staged.space["data.batch_size"]
    first = staged.trainings[0].last

    def training(x: float, z: float, value: float) -> Training:
        values = {"optimizer.lr": item.from_unit(x), "data.batch_size": other.from_unit(z)}
        record = replace(first, configuration={**first.configuration, **values}, curve={1: value})
        return Training((record,), Direction.MINIMIZE)

    places = rng.uniform(size=(60, 2))
    pair = ("optimizer.lr", "data.batch_size")
    valley = [training(x, z, (x - z) ** 2) for x, z in places]
    bowl = [training(x, z, (x - 0.5) ** 2 + (z - 0.5) ** 2) for x, z in places]
    together, alone = (joint_share(staged, some, pair, 1) for some in (valley, bowl))
    assert together is not None
    assert alone is not None
    assert together > 0.3
    assert alone < 0.03
    assert joint_share(staged, valley[:20], pair, 1) is None


KEPT = {
    "trial": 0,
    "best_epoch": 2,
    "examples": 4,
    "calibration": [[2, 0.9, 1.0], [2, 0.7, 0.5]],
    "confusion": [[1, 1], [0, 2]],
    "worst": [{"example": 3, "target": "0", "predicted": "1", "loss": 1.5}],
    "followed": {
        "targets": [0, 1, 1],
        "values": [[0.4, 0.5, 0.9], [0.3, 0.6, 0.9], [0.6, 0.7, 0.9]],
        "likeliest": [[1, 0, 1], [1, 1, 1], [0, 1, 1]],
    },
}


def test_what_the_winner_predicts_is_shown(staged: SweepView, tmp_path: Path) -> None:
    (tmp_path / "predictions.json").write_text(json.dumps(KEPT))
    (tmp_path / "mispredicted.png").write_bytes(b"a picture")
    shown = render(replace(staged, folder=tmp_path))
    assert "1 of 4 are wrong. Most often: 0 taken for 1 (1 x)" in shown
    assert "In the last third 1 of 3 examples still changed their class; 0 are wrong at the end" in shown
    # |0.9 - 1| and |0.7 - 0.5|, half of the examples each.
    assert "Expected calibration error: winner (trial 0) 15.00%" in shown
    assert "1 of these 1 are predicted wrongly" in shown
    parsed(shown)
    numbers = {**KEPT, "calibration": [], "confusion": [], "pairs": [[0.0, 1.0, 2.0], [0.5, 1.0, 1.5]]}
    numbers["followed"] = {"targets": [0.0, 1.0], "values": [[0.5, 0.5], [0.1, 0.9]], "likeliest": None}
    (tmp_path / "predictions.json").write_text(json.dumps(numbers))
    shown = render(replace(staged, folder=tmp_path))
    assert "Predictions rise by 0.50 where targets rise by 1" in shown
    assert "standard deviations of the targets an epoch" in shown


GAIN = {"value": 0.05, "error": 0.01}
SCORES = {"single": {"loss": 0.2}, "uniform": {"loss": 0.18}, "ensemble": {"loss": 0.15}}
COSTS = {"share": 0.5, "parameters": 1200, "megabytes": 0.005, "ms_per_example": 0.01, "trial": 1}
ENSEMBLE = {
    "text": "",
    "kind": "bagged",
    "weights": {"trial-2": 0.5, "trial-1-swa": 0.5},
    "members": [
        {"name": "trial-2", "ingredients": [], **COSTS},
        {"name": "trial-1-swa", "ingredients": ["trial-1"], **COSTS},
    ],
    "candidates": 7,
    "averages": ["trial-1-swa"],
    "single": 1,
    "uniform": ["trial-1", "trial-2"],
    "validation": SCORES,
    "test": SCORES,
    "gains": {"validation": GAIN, "test": GAIN},
    "ways": {kind: {"value": 0.2, "gain": GAIN, "members": 2} for kind in ("single", "uniform", "greedy", "bagged")},
    "growth": [
        {"members": 1, "value": 0.2, "error": 0.02, "test": 0.2},
        {"members": 2, "value": 0.15, "error": 0.0, "test": 0.15},
    ],
    "knee": 2,
    "calibration": {
        "bins": {"single": [[2, 0.9, 1.0]], "ensemble": [[2, 0.9, 1.0]]},
        "ece": {"single": 0.05, "ensemble": 0.03, "scaled": 0.02},
        "temperature": 1.2,
        "gain": GAIN,
        "used": True,
    },
}


@pytest.mark.parametrize(
    ("value", "said"), [(-0.01, "on test it is not, by less than two"), (-0.1, "not on test: do not count on it")]
)
def test_what_so_few_test_examples_cannot_say_is_not_held_against_the_ensemble(
    value: float, said: str, staged: SweepView
) -> None:
    tested = {"single": {"loss": 0.1}, "ensemble": {"loss": 0.1 - value}}
    gains = {**ENSEMBLE["gains"], "test": {"value": value, "error": 0.02}}
    assert f"better on validation; {said}" in worth(staged, {**ENSEMBLE, "test": tested, "gains": gains})


def test_whether_the_ensemble_pays_is_said_with_its_gain_per_member(staged: SweepView) -> None:
    shown = render(replace(staged, finished={**staged.finished, "ensemble": ENSEMBLE}))
    assert "better on validation and on test. It costs 2 predictions instead of one" in shown
    assert "Up to 2 members the committee gains 0.05 on validation over one" in shown
    assert "+0.05 ± 0.01 on validation" in shown
    assert "Considered: 7 networks (averages of weights among them: trial-1-swa)" in shown
    assert "greedy selection over bags of the candidates (taken)" in shown
    assert re.search(r">trial-1-swa</th><td>50%</td><td>trial-1</td><td>1,200</td>", shown)
    assert "with the temperature 1.2 2.00%" in shown
    parsed(shown)
    doubtful = {
        **ENSEMBLE,
        "gains": {"validation": {"value": 0.05, "error": 0.06}, "test": ENSEMBLE["gains"]["test"]},
    }
    assert "(within a standard error). It costs" in render(replace(staged, finished={"ensemble": doubtful}))
