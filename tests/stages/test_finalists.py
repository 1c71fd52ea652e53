"""The finalists: who they are, what they train, who is dropped, who wins, and that a restart changes nothing."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from curves import Stored, bowl, command, falling, gist, renewed, share

from orchestrator import Simulation, simulate
from orchestrator.errors import InfeasibleTrialError, NoFeasibleTrialError
from orchestrator.stages.race import losers, paired
from orchestrator.stages.sweep import STUDY_FILE
from orchestrator.study.records import TrialRecord
from orchestrator.types import Configuration, Reason, TrialState

SEARCH = (
    "sampler=random",
    "pruner=none",
    "n_trials=6",
    "space.optimizer.lr.low=0.005",
    "space.optimizer.lr.high=0.2",
)
WORDS = ("stage=all", "recipe.order=[lr,finalists]", *SEARCH, "finalists.top=3")
DECAYED = ("schedule.kind=cosine", "schedule.final=0.1")


def noisy(configuration: Configuration, seed: int) -> list[float]:
    """Falls to the configuration's level, with noise of its own for each seed, and best in epoch 12."""
    end = bowl(configuration) + random.Random(f"{seed}{configuration['optimizer.lr']}").gauss(0, 0.002)
    return [end + (1 / (epoch + 1) if epoch <= 12 else 0.5) for epoch in range(1, 61)]


def finalists(*words: str, curve: object = falling, workers: int = 1) -> tuple[Simulation, list[TrialRecord]]:
    found = simulate(command(*WORDS, *words), curve, workers, finalists=True)
    return found, [trial for trial in found.trials if trial.finalist]


def test_the_best_distinct_configurations_are_trained_for_longer_with_the_same_fresh_seeds() -> None:
    found, own = finalists("finalists.race=0")
    searched = sorted((t for t in found.trials if not t.finalist), key=lambda t: t.value)
    assert {t.repeats for t in own} == {t.number for t in searched[:3]}
    fresh = [t for t in own if t.parent is None]
    seeds = {t.seed for t in fresh}
    assert len(seeds) == 3
    assert not seeds & {t.seed for t in searched}
    for number in {t.repeats for t in own}:
        assert {t.seed for t in fresh if t.repeats == number} == seeds
        assert {tuple(t.configuration.items()) for t in own if t.repeats == number} == {
            tuple(found.trials[number].configuration.items())
        }
    # The curves fall for ever: the bound ends them.
    assert {(t.state, t.epochs_run) for t in own} == {(TrialState.COMPLETE, 4 * 9)}


def test_where_too_few_came_to_their_end_the_best_of_those_that_were_stopped_follow() -> None:
    words = ["sampler=random", "pruner=halving", "n_trials=9", "finalists.top=8", "finalists.race=0"]
    found = simulate(command("stage=all", "recipe.order=[lr,finalists]", *words), falling, finalists=True)
    searched = [t for t in found.trials if not t.finalist]
    whole = sorted((t for t in searched if t.state is TrialState.COMPLETE), key=lambda t: t.value)
    stopped = [t for t in searched if t.state is TrialState.PRUNED]
    stopped.sort(key=lambda t: min(t.curve.values()))
    assert len(whole) < 8 < len(searched)
    order = list(dict.fromkeys(t.repeats for t in found.trials if t.finalist))
    assert order == [t.number for t in [*whole, *stopped]][:8]
    # Only what had come to its end goes on from its checkpoint.
    assert {t.parent for t in found.trials if t.finalist} - {None} <= {t.number for t in whole}
    rows = {row["trial"]: row for row in found.ledger.finished["finalists"]["finalists"]}
    last = rows[order[-1]]
    assert last["search_value"] == min(found.trials[order[-1]].curve.values())
    assert last["remark"].startswith("stopped in the search after epoch ")


def test_what_differs_only_in_what_has_no_effect_is_one_configuration() -> None:
    starts = "[{optimizer: {lr: 0.03}},{optimizer: {lr: 0.03}, schedule: {final: 0.5}},{optimizer: {lr: 0.02}}]"
    words = ("stage=all", "recipe.order=[decay,finalists]", "sampler=random", "pruner=none", "n_trials=3")
    found = simulate(command(*words, f"sampler.start={starts}"), falling, finalists=True)
    assert len([t for t in found.trials if not t.finalist]) == 3
    chosen = {t.repeats for t in found.trials if t.finalist}
    assert chosen in ({0, 2}, {1, 2})


def test_a_constant_rate_goes_on_from_the_checkpoint_and_any_other_schedule_begins_anew() -> None:
    found, own = finalists("finalists.race=0")
    resumed = [t for t in own if t.parent is not None]
    assert {t.parent for t in resumed} == {t.repeats for t in own}
    for trial in resumed:
        parent = found.trials[trial.parent]
        assert (trial.seed, trial.inherited, trial.schedule_epochs) == (parent.seed, 9, 9)
    assert {t.schedule_epochs for t in own} == {9}
    _, own = finalists(*DECAYED)
    assert {(t.parent, t.inherited, t.schedule_epochs) for t in own} == {(None, 0, 18)}


def test_a_repeat_of_the_search_is_the_beginning_of_a_finalist() -> None:
    words = ("stage=all", "recipe.order=[width,finalists]", "recipe.first_pass=0", "finalists.top=2")
    found = simulate(command(*words), falling, finalists=True)
    repeats = [t for t in found.trials if t.repeats is not None and not t.finalist]
    assert len(repeats) == 2
    continued = {t.parent for t in found.trials if t.finalist}
    assert {t.number for t in repeats} <= continued


@pytest.mark.parametrize(("final", "epochs"), [(0.0, 18), (0.1, 36)])
def test_a_schedule_that_ends_at_zero_ends_the_training(final: float, epochs: int) -> None:
    _, own = finalists("schedule.kind=linear", f"schedule.final={final}", "finalists.seeds=1")
    assert {t.epochs_run for t in own} == {epochs}


def test_a_training_goes_on_past_its_budget_only_while_it_may_improve() -> None:
    """Best in epoch 12: 18 epochs are the budget and 1.5 times 12."""
    found, own = finalists("finalists.seeds=1", curve=noisy)
    assert {(t.state, t.epochs_run) for t in own} == {(TrialState.COMPLETE, 18)}
    _, own = finalists("finalists.seeds=1", "finalists.patience=2", curve=noisy)
    assert {t.epochs_run for t in own} == {24}
    _, own = finalists("finalists.seeds=1", "finalists.budget_factor=3", curve=noisy)
    assert {t.epochs_run for t in own} == {27}
    assert found.best is not None
    assert found.best.epochs == 36


def test_an_obvious_loser_is_not_given_all_seeds() -> None:
    raced, own = finalists("finalists.seeds=4", curve=noisy)
    entry = raced.ledger.finished["finalists"]
    last = entry["finalists"][-1]
    assert last["remark"] == "dropped after 2 seeds"
    assert [value is None for value in last["values"]] == [False, False, True, True]
    _, everything = finalists("finalists.seeds=4", "finalists.race=0", curve=noisy)
    assert len(own) < len(everything) == 3 * 5


def test_the_winner_is_the_best_by_mean_over_fresh_seeds_and_the_sweeps_best() -> None:
    found, own = finalists(curve=noisy)
    entry = found.ledger.finished["finalists"]
    full = [item for item in entry["finalists"] if None not in item["values"]]
    assert entry["winner"] == full[0]["trial"]
    assert full[0]["mean"] == pytest.approx(sum(full[0]["values"]) / 3)
    assert full[0]["mean"] == min(item["mean"] for item in full)
    trained = [t for t in own if t.repeats == entry["winner"] and t.parent is None]
    best = min(trained, key=lambda t: t.value)
    assert found.best is not None
    assert found.best.number == entry["best_trial"] == best.number
    assert entry["noise"] == pytest.approx(
        math.sqrt(sum(item["spread"] ** 2 for item in entry["finalists"]) / len(entry["finalists"]))
    )


def test_a_lucky_search_value_does_not_win_and_its_luck_is_shown() -> None:
    """Every configuration is as good as every other: the best of the search was luck."""

    def luck(configuration: Configuration, seed: int) -> list[float]:
        end = 1.0 + random.Random(seed).gauss(0, 0.1)
        return [end + 1 / (epoch + 1) for epoch in range(1, 61)]

    found = simulate(command(*WORDS, "n_trials=20", "finalists.race=0"), luck, finalists=True)
    entry = found.ledger.finished["finalists"]
    # With the same seeds all are equal.
    assert len({round(item["mean"], 9) for item in entry["finalists"]}) == 1
    won = entry["finalists"][0]
    assert won["search_value"] < won["as_long"] - 0.05
    assert any("the search had" in line and "lucky by" in line for line in entry["remarks"])
    assert any("paired t-test p = 1" in line and "may be luck" in line for line in entry["remarks"])


def test_who_fails_with_one_seed_does_not_win() -> None:
    def fails(configuration: Configuration, seed: int) -> Sequence[float]:
        values = falling(configuration, seed)
        return [*values[:10], *[math.nan] * 50] if configuration == best and share(seed) < 0.5 else values

    best: Configuration = {}
    found = simulate(command(*WORDS), falling, finalists=True)
    best = found.trials[found.ledger.finished["finalists"]["winner"]].configuration
    found = simulate(command(*WORDS), fails, finalists=True)
    entry = found.ledger.finished["finalists"]
    [failed] = [item for item in entry["finalists"] if item["remark"].startswith("trial ")]
    assert found.trials[failed["trial"]].configuration == best
    assert entry["winner"] != failed["trial"]
    assert "non_finite" in failed["remark"]


def test_a_search_after_the_finalists_goes_on_from_the_search_and_leaves_the_winner(tmp_path: Path) -> None:
    first = Stored(command(*WORDS, "finalists.seeds=1"), falling, finalists=True).run(tmp_path)
    assert first is not None
    searched = min((t for t in first.study.records if not t.finalist), key=lambda t: t.value)
    later = Stored(command("stage=width", *SEARCH), falling, finalists=True).run(tmp_path)
    assert later is not None
    assert later.ledger.finished["width"]["previous_trial"] == searched.number
    assert later.best is not None
    assert first.best is not None
    assert later.best.number == first.best.number == first.ledger.finished["finalists"]["best_trial"]


def test_without_a_finished_trial_there_are_no_finalists() -> None:
    with pytest.raises(NoFeasibleTrialError, match="finalists: no trial of the sweep has finished"):
        simulate(command("stage=finalists"), falling, finalists=True)


CUTS = {"one worker": (("finalists.patience=2",), noisy, 1), "four workers": (DECAYED, falling, 4)}


@pytest.mark.parametrize("name", CUTS)
def test_finalists_cut_off_anywhere_end_as_the_undisturbed_ones(name: str, tmp_path: Path) -> None:
    words, curve, workers = CUTS[name]
    stored = Stored(command(*WORDS, "n_trials=4", "finalists.top=2", *words), curve, workers, finalists=True)
    whole = stored.run(tmp_path / "whole")
    assert whole is not None
    before = sum(t.epochs_paid for t in whole.study.records if not t.finalist)
    epochs = sum(t.epochs_paid for t in whole.study.records)
    for cut in (before + 20, epochs - 1):
        folder = renewed(tmp_path / "cut")
        stored.run(folder, cut_after=cut)
        again = stored.run(folder)
        assert again is not None
        assert gist(again.study.records) == gist(whole.study.records)
        assert again.best is not None
        assert whole.best is not None
        assert again.best.number == whole.best.number


def test_every_prefix_of_the_journal_is_a_sweep_that_can_go_on(tmp_path: Path) -> None:
    stored = Stored(command(*WORDS, "n_trials=3", "finalists.top=2", "finalists.seeds=1"), noisy, finalists=True)
    whole = stored.run(tmp_path)
    assert whole is not None
    expected = gist(whole.study.records)
    journal, ledger = whole.folder / STUDY_FILE, whole.folder / "ledger.json"
    lines, entries = journal.read_bytes().splitlines(keepends=True), json.loads(ledger.read_text())
    first = next(
        n for n, line in enumerate(lines) if b'"stage": "finalists"' in line or b'"stage":"finalists"' in line
    )
    for kept in range(first, len(lines), (len(lines) - first) // 3):
        journal.write_bytes(b"".join(lines[:kept]))
        del entries["stages"]["finalists"]
        ledger.write_text(json.dumps(entries))
        again = stored.run(tmp_path)
        assert again is not None
        assert gist(again.study.records) == expected
        entries = json.loads(ledger.read_text())


def test_the_timing_of_several_workers_changes_nothing(tmp_path: Path) -> None:
    def records(timing: int) -> list[object]:
        stored = Stored(
            command(*WORDS, "n_trials=4", "deterministic=true", "runner.workers=3"), noisy, 3,
            lambda configuration: 0.1 + share(timing, configuration), finalists=True,
        )  # fmt: skip
        sweep = stored.run(tmp_path / str(timing))
        assert sweep is not None
        return gist(sweep.study.records)

    assert records(0) == records(1)


def test_out_of_memory_everywhere_leaves_the_searchs_best() -> None:
    def longer_fails(configuration: Configuration, seed: int) -> Sequence[float]:
        if seed not in searching:
            raise InfeasibleTrialError(Reason.OUT_OF_MEMORY, "too large")
        return falling(configuration, seed)

    searching = {t.seed for t in simulate(command(*WORDS), falling).trials}
    found = simulate(command(*WORDS), longer_fails, finalists=True)
    entry = found.ledger.finished["finalists"]
    assert entry["winner"] is None
    assert "the search's best stays" in entry["text"]
    assert found.best is not None
    assert not found.best.finalist
    assert entry["best_trial"] == found.best.number


def test_losers_are_those_clearly_above_the_least_mean() -> None:
    close = {1: [1.0, 1.1], 2: [1.01, 1.12], 3: [1.02, 1.09]}
    assert losers(close, 0.05) == set()
    assert losers({**close, 4: [3.0, 3.1]}, 0.05) == {4}
    assert losers({1: [1.0, 2.0]}, 0.05) == set()
    assert losers({1: [1.0, 2.0], 2: [1.0, 2.0]}, 0.05) == set()


def test_a_paired_test_is_that_of_the_differences() -> None:
    found = paired([1.0, 2.0, 3.0], [1.5, 2.4, 3.6])
    assert (found.pairs, found.better) == (3, 3)
    assert found.difference == pytest.approx(0.5)
    assert found.error == pytest.approx(0.1 / math.sqrt(3))
    assert found.p_value == pytest.approx(0.01307, abs=1e-4)  # t = 8.66 with 2 degrees of freedom
    assert paired([1.0], [2.0]).p_value is None
    assert paired([1.0, 1.0], [1.0, 1.0]).p_value == 1.0
