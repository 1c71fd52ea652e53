"""Names, tags and descriptions for review."""

import pytest

from orchestrator.stages.notes import Facts, begin_tags, end_metrics, end_tags, stage_note, sweep_note, trial_name
from orchestrator.study.records import TrialRecord
from orchestrator.tracking.base import NOTE
from orchestrator.types import Reason, TrialState

BASE = {"optimizer.lr": 0.01, "data.batch_size": 64, "optimizer.momentum": 0.9, "model.width": 32}


def record(**changes: object) -> TrialRecord:
    values = {
        "number": 7,
        "stage": "batch_size@2",
        "configuration": {**BASE, "optimizer.lr": 0.0321, "data.batch_size": 128},
        "seed": 11,
        "epochs": 9,
        "state": TrialState.PRUNED,
        "curve": {1: 0.5, 2: 0.2, 3: 0.3},
        "value": 0.2,
        "reason": Reason.RUNG,
        "seconds": 4.0,
    }
    return TrialRecord(**{**values, **changes})


@pytest.mark.parametrize(
    ("changes", "varied", "name"),
    [
        ({}, ["data.batch_size"], "lr=0.0321 bs=128"),
        ({"configuration": BASE}, ["data.batch_size"], "bs=64"),
        ({"configuration": BASE}, list(BASE), "defaults"),
        ({"parent": 3, "inherited": 2}, [], "lr=0.0321 bs=128 from epoch 2"),
        ({"repeats": 3}, [], "lr=0.0321 bs=128 again, seed 11"),
        ({"configuration": {f"model.x{n}": n for n in range(9)}}, [], "x0=0 x1=1 x2=2 x3=3 x4=4 x5=5 +3"),
    ],
)
def test_a_name_says_what_was_tried(changes: dict, varied: list[str], name: str) -> None:
    assert trial_name(record(**changes), varied, BASE) == name


def test_tags_to_filter_on() -> None:
    tags = begin_tags(record(parent=3, inherited=2))
    assert tags | {NOTE: ""} == {
        "kind": "trial", "stage": "batch_size", "visit": "batch_size@2", "trial": "7", "seed": "11", "parent": "3",
        NOTE: "",
    }  # fmt: skip
    assert "[trial 3](run:trial:3)" in tags[NOTE]
    assert end_tags(record()) == {"state": "pruned", "reason": "rung", "rung": "3"}
    failed = end_tags(
        record(state=TrialState.INFEASIBLE, reason=Reason.USER_ERROR, detail="KeyError: 'x'\nFile a.py")
    )
    assert failed["reason"] == "user_error"
    assert failed["detail"] == "KeyError: 'x'"
    assert "```\nFile a.py\n```" in failed[NOTE]


def test_few_numbers_sum_a_trial_up() -> None:
    assert end_metrics(record()) == {"best": 0.2, "final": 0.3, "epochs": 3.0, "duration_s": 4.0}
    assert end_metrics(record(curve={}, value=None)) == {"epochs": 0.0, "duration_s": 4.0}


VISIT = {
    "trials": 9, "epochs": 40, "pruned": 6, "promoted": 2, "infeasible": {"non_finite": 1}, "best_trial": 7,
    "best_value": 0.2, "previous_trial": 1, "previous_value": 0.5, "noise": 0.01, "noise_measured": True,
    "changed": {"optimizer.lr": (0.01, 0.1)}, "moved": {}, "at_bound": {"optimizer.lr": "high"}, "widened": {},
    "rising": True, "seconds": 30.0, "skipped": "", "text": "",
}  # fmt: skip


def test_the_note_of_a_stage_has_the_verdict_a_table_and_what_to_look_at() -> None:
    note = stage_note(VISIT, "loss")
    assert note.startswith("**loss 0.5 -> 0.2 by [trial 7](run:trial:7); seed noise 0.01, measured.**")
    assert "| optimizer.lr | 0.01 | 0.1 |" in note
    assert "| infeasible | 1 non_finite |" in note
    assert "widen `space.optimizer.lr.high`" in note
    assert "more `trainer.epochs` may pay" in note
    assert "this may be luck" in stage_note({**VISIT, "noise": 0.5}, "loss")
    assert stage_note({"skipped": "no depth"}, "loss") == "**Skipped**: no depth."
    nothing = stage_note({**VISIT, "best_trial": 1, "best_value": 0.5}, "loss")
    assert nothing.startswith("**Nothing beat [trial 1](run:trial:1) with loss 0.5")


def test_the_note_of_a_sweep_leads_from_the_winner_to_its_ancestors() -> None:
    facts = Facts(
        name="s",
        task="digits",
        objective="loss",
        base=BASE,
        best=None,
        ancestors=[],
        finished={},
        retrain="python run.py",
    )
    assert "no training has run to its end yet" in sweep_note(facts)
    best = record(state=TrialState.COMPLETE)
    earlier = {**VISIT, "best_trial": 1, "best_value": 0.5, "previous_trial": None, "previous_value": None}
    note = sweep_note(
        Facts(**{**vars(facts), "best": best, "ancestors": [5, 2], "finished": {"lr": earlier, "width": VISIT}})
    )
    assert note.startswith("**loss 0.2** on validation by [trial 7](run:trial:7), seed noise 0.01.")
    assert "| [lr](run:stage:lr) |  | 0.5 | [trial 1](run:trial:1) | 40 |" in note
    assert "| [width](run:stage:width) | 0.5 | 0.2 | [trial 7](run:trial:7) | 40 |" in note
    assert "| optimizer.lr | 0.01 | 0.0321 |" in note
    assert "continued the training of [trial 5](run:trial:5), [trial 2](run:trial:2)" in note
    assert "`python run.py`" in note
