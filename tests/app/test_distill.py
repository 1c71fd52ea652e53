"""``stage=distill``: a student of the ensemble beside the same network without a teacher."""

import html
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from orchestrator.app.main import main
from orchestrator.config.schema import TrainerConfig
from orchestrator.ensemble.record import load_ensemble
from orchestrator.errors import InterruptedSweepError
from orchestrator.serving.model import Model
from orchestrator.tasks.digits import DigitsMLP
from orchestrator.training import checkpoint
from orchestrator.training.loop import predict

SMALL = ["task=digits_mlp", "runner=inline", "tracking=none", "trainer.epochs=2", "sampler=random", "n_trials=2"]
FOLDER, STUDENT = Path("sweeps/digits_mlp-seed0"), Path("sweeps/digits_mlp-seed0.student")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])


def test_a_student_is_tuned_trained_in_pairs_and_shipped(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = "+stages.distill.model.width=8"
    words = [*SMALL, "stages.distill.seeds=2", smaller]

    def interrupted(*_: object) -> None:
        raise InterruptedSweepError("interrupted")

    with monkeypatch.context() as patched:
        patched.setattr("orchestrator.app.main.distill", interrupted)
        assert main(["stage=all", "recipe.order=[lr,ensemble,distill]", *words]) == 130
    ledger = json.loads((FOLDER / "ledger.json").read_text())
    assert (list(ledger["stages"]), ledger["test_reads"]) == (["lr"], []), "the test split waits for the student"

    assert main(["stage=all", "recipe.order=[lr,ensemble,distill]", *words]) == 0
    output = capsys.readouterr().out
    assert re.search(r"the teacher brings .* \(standard error .*distill\.temperature .*distill\.weight", output)
    result = json.loads((FOLDER / "ledger.json").read_text())["stages"]["distill"]
    student = json.loads((FOLDER / "student.json").read_text())
    kept = {
        (who, seed): checkpoint.load(STUDENT / f"trials-seeds/{who}-{seed}")["best"]
        for who in ("label-only", "student")
        for seed in (0, 1)
    }
    assert result["pairs"] == [[kept["label-only", seed]["value"], kept["student", seed]["value"]] for seed in (0, 1)]
    gains = [without - taught for without, taught in result["pairs"]]
    assert result["mean_gain"] == pytest.approx(sum(gains) / 2)
    assert student["value"] == min(kept["student", seed]["value"] for seed in (0, 1))
    assert {"distill.temperature", "distill.weight"} <= student["configuration"].keys()

    # Another network than the winner's, with and without the teacher; on test, which is read once, for both.
    task, splits = DigitsMLP(), DigitsMLP().splits()
    assert "another network than the winner's: width 8" in output
    for who, name in (("label_only", "label-only"), ("student", "student")):
        scored = []
        for seed in (0, 1):
            network = task.model(**student["model"])
            network.load_state_dict(kept[name, seed]["model"])
            scored.append(task.score(*predict(task, network, splits.test, TrainerConfig()))["loss"])
        assert student["model"]["width"] == 8
        assert result["test"][who]["loss"] == pytest.approx(sum(scored) / 2)
    assert len(json.loads((FOLDER / "ledger.json").read_text())["test_reads"]) == 1
    assert output.index("[ensemble] verdict") < output.index("[distill] verdict")

    # The teacher: the ensemble's predictions, in the order of the training split.
    ensemble = load_ensemble(FOLDER)
    inputs = splits.train.tensors[0]  # type: ignore[attr-defined]
    with torch.inference_mode():
        each = [task.predictions(member.network(task, FOLDER)(inputs)) for member in ensemble.members]
    assert np.allclose(np.load(FOLDER / "teacher.npy"), ensemble.combine(each).numpy(), atol=1e-5)

    # Shipped, as a program too.
    interface = task.interface()
    shipped = Model.load(FOLDER / "models/student/model").predict(interface.example.numpy())
    network = task.model(**student["model"])
    network.load_state_dict(kept["student", student["seed"]]["model"])
    network.eval()
    with torch.inference_mode():
        own = task.predictions(network(task.prepare(interface.example, interface.statistics)))
        program = torch.export.load(FOLDER / "models/student/model.pt2").module()(interface.example)
    assert np.allclose(shipped, own.numpy(), rtol=1e-5)
    assert torch.allclose(program, own, rtol=1e-5)

    assert main(["stage=distill", *words]) == 0
    assert "[distill] finished before; skipped" in capsys.readouterr().out

    # Asked without tracking=none: there is no store to name.
    assert main(["stage=status", *words[:2], *words[3:]]) == 0
    said = capsys.readouterr().out
    assert "to ship: student (loss " in said
    assert "models:/" not in said

    # What to ship, on the page: the student's own value and cost, and lines that run.
    page = html.unescape((FOLDER / "report.html").read_text())
    shown = page[page.index('<section id="ship">') :]
    size = sum(value.numel() for value in network.parameters())
    assert f'<th scope="row">student</th><td>{student["value"]:.4g}</td>' in shown
    assert f"<td>{size:,}</td>" in shown
    lines = re.search(r"(from orchestrator\.serving[^<]*models/student[^<]*)", shown)
    assert lines is not None
    known = {"inputs": interface.example.numpy()}
    exec(lines[1], known)
    assert np.array_equal(known["predictions"], shipped)


def test_a_student_that_the_task_cannot_build_is_refused_before_anything_is_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["stage=lr", *SMALL, "+stages.distill.model.widht=8"]) == 2
    said = capsys.readouterr().err
    assert "stages.distill.model.widht: DigitsMLP.model takes no such argument; did you mean width?" in said
    assert main(["stage=lr", *SMALL, "+stages.lr.model.width=8"]) == 2
    assert "stages.lr.model: only a stage of kind distill" in capsys.readouterr().err
    assert not FOLDER.exists()


def test_without_an_ensemble_there_is_no_teacher(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=lr", *SMALL]) == 0
    assert main(["stage=distill", *SMALL]) == 4
    assert "there is no ensemble yet; run stage=ensemble first" in capsys.readouterr().err


MIXING = """
import torch
from orchestrator.tasks.digits import DigitsMLP


class Mixing(DigitsMLP):
    def augment(self, inputs, targets, strength):
        return inputs, targets.flip(0)
"""


def test_an_augmentation_that_changes_targets_cannot_be_followed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("mixing.py").write_text(MIXING)
    own = ["task=custom", "task.name=mixing", "task._target_=mixing.Mixing", "data.augmentation=0.5", *SMALL[1:]]
    assert main(["stage=all", "recipe.order=[lr,ensemble,distill]", *own]) == 2
    said = capsys.readouterr()
    assert "Mixing.augment changes targets" in said.err
    assert "[ensemble] verdict" in said.out, "the ensemble is there all the same"
