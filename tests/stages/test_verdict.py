"""What a stage says at its end, in numbers and in words."""

import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from curves import bowl, command, curve_of, falling, open_stored

from orchestrator import simulate
from orchestrator.errors import InfeasibleTrialError
from orchestrator.stages.ledger import Audit, Verdict
from orchestrator.stages.verdict import describe
from orchestrator.types import Configuration, Reason


def verdict(**more: object) -> Verdict:
    values = {"stage": "lr", "best_trial": 3, "best_value": 0.5, "previous_trial": 1, "previous_value": 0.7}
    return Verdict(**{**values, **more})


@pytest.mark.parametrize(("given", "line"), [
    ({"best_trial": None, "best_value": None}, "nothing was trained to its end yet"),
    ({"previous_trial": None, "previous_value": None}, "best: trial 3 with loss 0.5"),
    ({"best_trial": 1, "best_value": 0.7}, "nothing beat trial 1 with loss 0.7"),
    ({}, "best: trial 3 with loss 0.5, better by 0.2 than trial 1 (0.7)"),
    ({"found_by": "width"}, "best: trial 3 (of width) with loss 0.5, better by 0.2 than trial 1 (0.7)"),
    ({"noise": 0.3}, "seed noise 0.3 (estimated) (within it: this may be luck)"),
    ({"noise": 0.1, "noise_measured": True}, "seed noise 0.1 (measured with more seeds)"),
    ({"at_bound": {"model.width": "high"}}, "width lies at the high end of what was searched: widen space.model"),
    ({"widened": {"model.width": (16, 300)}}, "the best lay at the end of its range, which was widened: 16 to 300"),
    ({"moved": {"optimizer.lr": (0.1, 0.2)}}, "optimizer.lr moved from 0.1 to 0.2 when tuned again: it interacts"),
    ({"opened": 4}, "4 proposals came from the whole space"),
    ({"rising": True}, "more trainer.epochs may pay"),
    ({"trials": 10, "infeasible": {"out_of_memory": 4}}, "40% of the trials were infeasible"),
    ({"audit": Audit(2, 12, 0.4, 0.1)}, "the best of them reached 0.4: stopping would have lost 0.1"),
    ({"audit": Audit(2, 12, 0.4, 0.0)}, "stopping would have lost nothing"),
    ({"promoted": 2, "pruned": 3, "trials": 9, "epochs": 20}, "9 trials, 20 epochs (3 stopped early, 2 promotions)"),
])  # fmt: skip
def test_each_finding_is_a_sentence(given: dict[str, object], line: str, tmp_path: Path) -> None:
    sweep = open_stored(command("stage=lr"), tmp_path)
    assert line in describe(sweep, verdict(**given))


def test_in_brief_it_is_one_line(tmp_path: Path) -> None:
    sweep = open_stored(command("stage=lr"), tmp_path)
    text = describe(sweep, verdict(changed={"optimizer.lr": (0.1, 0.2)}, rising=True), brief=True)
    assert "\n" not in text
    assert "hyperparameter" in describe(sweep, verdict(changed={"optimizer.lr": (0.1, 0.2)}))


def test_what_is_silent_says_nothing(tmp_path: Path) -> None:
    text = describe(open_stored(command("stage=lr"), tmp_path), verdict())
    for word in ("infeasible", "widen", "moved", "audit", "luck", "promotions"):
        assert word not in text


def test_noise_is_measured_by_repeats() -> None:
    found = simulate(command("stage=width"), curve_of(lambda c, seed: bowl(c, noise=0.05, seed=seed)))
    result = found.ledger.finished["width"]
    values = [t.value for t in found.trials if t.repeats == result["best_trial"]]
    assert result["noise_measured"]
    assert result["noise"] == pytest.approx(statistics.stdev([result["best_value"], *values]))
    exact = simulate(command("stage=width"), curve_of(lambda c, seed: bowl(c)))
    assert exact.ledger.finished["width"]["noise"] == 0


def test_without_repeats_the_noise_is_the_surrogates_estimate() -> None:
    found = simulate(command("stage=width", "recipe.repeats=0"), falling)
    result = found.ledger.finished["width"]
    assert not result["noise_measured"]
    assert result["noise"] > 0


@pytest.mark.parametrize(("slope", "rising"), [(0.05, True), (0.0, False)])
def test_a_curve_that_still_improves_is_noted(slope: float, rising: bool) -> None:
    def curve(configuration: Configuration, seed: int) -> Sequence[float]:
        return [bowl(configuration) + (1.0 if e == 1 else 0.0) - slope * e for e in range(1, 10)]

    assert simulate(command("stage=width"), curve).ledger.finished["width"]["rising"] is rising


def test_failures_are_counted_by_reason() -> None:
    def curve(configuration: Configuration, seed: int) -> Sequence[float]:
        if configuration["model.width"] > 60:
            raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "too wide")
        return falling(configuration, seed)

    found = simulate(command("stage=width"), curve)
    result = found.ledger.finished["width"]
    failed = [t for t in found.trials if t.reason is Reason.OUT_OF_MEMORY]
    assert failed
    assert result["infeasible"] == {"out_of_memory": len(failed)}
    assert result["trials"] == len(found.trials)
    assert result["epochs"] == sum(t.epochs_paid for t in found.trials)


def test_visits_that_overlap_say_whose_trial_the_best_is() -> None:
    found = simulate(command("stage=all"), falling, workers=4)
    stage = {trial.number: trial.stage for trial in found.trials}
    gained = [e for e in found.ledger.finished.values() if e.get("best_trial") not in (None, e.get("previous_trial"))]
    assert [
        e["stage"]
        for e in gained
        if e["found_by"] != ("" if stage[e["best_trial"]] == e["stage"] else stage[e["best_trial"]])
    ] == []
    assert any(e["found_by"] for e in gained)
    assert any(not e["found_by"] for e in gained)


def test_what_did_not_change_is_not_listed_as_changed() -> None:
    found = simulate(command("stage=width", "sampler.window=0.01", "sampler.open=1000"), falling)
    changed = found.ledger.finished["width"]["changed"]
    for before, now in changed.values():
        assert before != pytest.approx(now, rel=1e-9)


def test_an_interaction_is_named_when_what_was_tuned_moves() -> None:
    """Wide networks want a rate 30 times smaller."""

    def curve(configuration: Configuration, seed: int) -> Sequence[float]:
        narrow = bowl(configuration, lr=0.1) + 0.5
        wide = bowl(configuration, lr=0.01)
        return [(wide if configuration["model.width"] > 40 else narrow) + 1 / e for e in range(1, 10)]

    words = ("stage=all", "recipe.order=[lr,width]", "recipe.first_pass=0", "sampler.window=0.5")
    result = simulate(command(*words), curve).ledger.finished["width"]
    assert "optimizer.lr" in result["moved"]
    assert "it interacts with this stage" in result["text"]
