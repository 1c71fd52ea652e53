"""The command as its user sees it: stages, verdicts, files, exit codes (local runner, tiny budgets)."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orchestrator import compose
from orchestrator.app.main import main
from orchestrator.ensemble.record import load_ensemble
from orchestrator.tasks.loading import load_once
from orchestrator.tasks.tabular import BreastCancer

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["task=breast_cancer", "runner=inline", "tracking=none", "trainer.epochs=4", "sampler=random", "n_trials=3"]
NAME = "breast_cancer-seed0"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["run.py"])


def ledger(name: str = NAME) -> dict:
    return json.loads(Path("sweeps", name, "ledger.json").read_text())


def test_one_stage_ends_with_a_verdict_and_a_best_learning_rate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=lr", *SMALL]) == 0
    output = capsys.readouterr().out
    verdict = ledger()["stages"]["lr"]
    assert verdict["trials"] == 3
    assert f"best: trial {verdict['best_trial']}" in output
    assert re.search(r"best learning rate: \d", output)
    assert "train it again: python run.py --config-dir" in output


def test_a_stage_before_its_predecessors_says_that_it_starts_from_the_defaults(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["stage=width", *SMALL]) == 0
    output = capsys.readouterr().out
    assert "not run yet: lr, batch_size, momentum; width starts from the task's defaults" in output
    assert "from the task's defaults" in output.splitlines()[2]


def test_the_next_stage_starts_from_the_best_so_far(capsys: pytest.CaptureFixture[str]) -> None:
    main(["stage=lr", *SMALL])
    best = ledger()["stages"]["lr"]["best_trial"]
    capsys.readouterr()
    assert main(["stage=batch_size", *SMALL]) == 0
    output = capsys.readouterr().out
    assert f"from trial {best}" in output
    assert "not run yet" not in output
    assert ledger()["stages"]["batch_size"]["previous_trial"] == best


def test_a_stage_without_its_hyperparameter_is_skipped_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=custom", "task.name=flat", "task._target_=flat_task.Flat", *SMALL[1:]]
    Path("flat_task.py").write_text(FLAT_TASK)
    assert main(["stage=all", "recipe.order=[lr,depth]", *words]) == 0
    assert "[depth] skipped: the task has no model.depth" in capsys.readouterr().out
    assert ledger("flat-seed0")["stages"]["depth"]["skipped"]


def test_the_winner_is_trained_again_exactly(capsys: pytest.CaptureFixture[str]) -> None:
    main(["stage=lr", *SMALL])
    value = ledger()["stages"]["lr"]["best_value"]
    capsys.readouterr()
    assert main(["--config-dir", f"sweeps/{NAME}", "+experiment=winner", "stage=train"]) == 0
    assert f"best loss {value!r} on validation" in capsys.readouterr().out


def test_a_dry_run_prints_the_plan_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=all", "task=breast_cancer", "dry_run=true"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"worst case: \d+ epochs of 341 examples", output)
    for stage in ("lr", "batch_size", "momentum", "width", "decay", "depth", "ensemble"):
        assert re.search(rf"^  {stage} ", output, re.MULTILINE)
    assert "time: known when the first trials have run" in output
    assert list(Path().iterdir()) == []
    main(["stage=lr", *SMALL])
    capsys.readouterr()
    assert main(["stage=all", *SMALL, "dry_run=true"]) == 0
    assert re.search(r"time: .* of training for what is left \(\d+ epochs are spent", capsys.readouterr().out)


def test_status_of_nothing_and_of_a_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=status", "task=breast_cancer"]) == 0
    assert "nothing has run yet" in capsys.readouterr().out
    assert list(Path().iterdir()) == []
    main(["stage=lr", *SMALL])
    capsys.readouterr()
    assert main(["stage=status", *SMALL]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^  lr +finished ", output, re.MULTILINE)
    assert re.search(r"^  depth +- ", output, re.MULTILINE)


def test_the_ensemble_stage_reports_single_and_ensemble_and_reads_test_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["stage=all", "recipe.order=[lr,width,ensemble]", *SMALL, "pruner=none"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert "best single (trial" in output
    assert "ensemble of" in output
    result = json.loads(Path("sweeps", NAME, "ensemble.json").read_text())
    assert sum(result["weights"].values()) == pytest.approx(1)
    entry = ledger()["stages"]["ensemble"]
    assert set(entry["test"]) == {"single", "uniform", "ensemble"}
    assert [step["members"] for step in entry["growth"]] == list(range(1, len(entry["growth"]) + 1))
    assert result["weights"] == entry["weights"] == {one["name"]: one["share"] for one in entry["members"]}
    splits = load_once(compose(SMALL).task)[1]
    inputs, targets = splits.test[:]
    made, task = load_ensemble(Path("sweeps", NAME)), BreastCancer()
    with torch.inference_mode():
        each = [task.predictions(one.network(task, Path("sweeps", NAME))(inputs)) for one in made.members]
    again = task.score(made.combine(each), targets)
    assert again["loss"] == pytest.approx(entry["test"]["ensemble"]["loss"], abs=1e-6)
    kept = json.loads(Path("sweeps", NAME, "predictions.json").read_text())
    best = ledger()["stages"]["width"]["best_trial"]
    assert kept["trial"] == best
    assert sum(map(sum, kept["confusion"])) == kept["examples"] == sum(count for count, _, _ in kept["calibration"])
    losses = [row["loss"] for row in kept["worst"]]
    assert losses == sorted(losses, reverse=True)
    assert len(kept["followed"]["values"]) == 4, "a row for each epoch"
    weights = torch.load(Path("sweeps", NAME, "winner.pt"), weights_only=True)
    trained = torch.load(Path("sweeps", NAME, "trials", f"{best:06d}", "checkpoint.pt"), weights_only=True)
    assert all(torch.equal(weights[name], trained["best"]["model"][name]) for name in weights)
    assert Path("sweeps", NAME, "mispredicted.png").stat().st_size > 1000
    [read] = ledger()["test_reads"]
    assert main(words) == 0
    output = capsys.readouterr().out
    assert f"the test split is read once, and was read by ensemble once, at {read['at']}" in output
    assert "ensemble.read_test_again=true reads it again" in output
    assert ledger()["test_reads"] == [read]
    # The second time it finds every prediction that it made, and chooses the same.
    assert entry["ran"] > 0
    assert main(["stage=ensemble", *words[1:], "ensemble.read_test_again=true"]) == 0
    assert ledger()["stages"]["ensemble"]["ran"] == 0
    assert ledger()["stages"]["ensemble"]["weights"] == result["weights"]
    assert len(ledger()["test_reads"]) == 2
    capsys.readouterr()
    assert main(["stage=status", *words[1:]]) == 0
    assert f"the test split was read 2 times: at {read['at']}, and again at" in capsys.readouterr().out
    page = Path("sweeps", NAME, "report.html").read_text()
    assert f"The test split was read 2 times: at {read['at']}, and again at" in page


def test_the_finalists_winner_is_the_sweeps_best_everywhere_and_is_trained_again_exactly(
    capsys: pytest.CaptureFixture[str],
) -> None:
    final = ["finalists.top=2", "finalists.seeds=2", "finalists.bound_factor=2.5"]
    words = [*SMALL, "pruner=none", "schedule.warmup=0.3", *final]
    assert main(["stage=all", "recipe.order=[lr,finalists,ensemble]", *words]) == 0
    output = capsys.readouterr().out
    entry = ledger()["stages"]["finalists"]
    best = entry["best_trial"]
    value = f"{entry['mean']:.4g} ± {entry['spread']:.2g} over 2 seeds"
    assert (
        f"best so far: trial {best}, loss {entry['best_value']:.4g} on validation; its configuration has {value}"
        in output
    )
    assert json.loads(Path("sweeps", NAME, "predictions.json").read_text())["trial"] == best
    assert ledger()["stages"]["ensemble"]["single"] == best
    page = Path("sweeps", NAME, "report.html").read_text()
    assert (
        f"The configuration of trial {entry['winner']} has the best mean; trial {best}, its best fresh seed" in page
    )
    assert "winner&#x27;s curse" in page.lower()
    assert main(["stage=status", *words]) == 0
    output = capsys.readouterr().out
    assert re.search(r"^  finalists +finished ", output, re.MULTILINE)
    assert f"best so far: trial {best} of stage finalists" in output
    # A rate that is constant after its warm-up goes on from the checkpoint as if it had been so long from the start.
    assert entry["promoted"] == 2
    longest = max(item for finalist in entry["finalists"] for item in finalist["epochs"])
    assert 8 <= longest <= 10
    assert main(["--config-dir", f"sweeps/{NAME}", "+experiment=winner", "stage=train"]) == 0
    assert f"best loss {entry['best_value']!r} on validation" in capsys.readouterr().out


def test_an_ensemble_of_nothing_is_exit_code_4_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=ensemble", *SMALL]) == 4
    assert "has no trained checkpoint" in capsys.readouterr().err
    assert list(Path().iterdir()) == []


def test_changed_settings_under_the_same_name_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    main(["stage=lr", *SMALL])
    before = ledger()
    assert main(["stage=lr", *SMALL, "optimizer.lr=0.02"]) == 2
    assert "optimizer.lr 0.001 -> 0.02" in capsys.readouterr().err
    assert ledger() == before


def test_no_feasible_trial_is_exit_code_4(capsys: pytest.CaptureFixture[str]) -> None:
    words = [word for word in SMALL if not word.startswith("n_trials")]
    huge = ["optimizer.name=sgd", "optimizer.lr=1e30", "space.optimizer.lr.limits=[1e28,1e32]",
            "space.optimizer.lr.low=1e29", "space.optimizer.lr.high=1e31"]  # fmt: skip
    assert main(["stage=lr", *words, *huge, "n_trials=2"]) == 4
    captured = capsys.readouterr()
    assert "2 x non_finite" in captured.err
    assert "trial 0 is infeasible: non_finite: " in captured.out


def test_a_user_error_in_the_first_trial_stops_at_once_with_the_users_frame(
    capsys: pytest.CaptureFixture[str],
) -> None:
    late = "\n    def loss(self, outputs, targets, label_smoothing):\n"
    late += "        assert pathlib.Path('mended').exists() or len(outputs) < 10, 'too many'\n"
    late += "        return super().loss(outputs, targets, label_smoothing)\n"
    Path("broken_task.py").write_text("import pathlib\n" + FLAT_TASK.replace("class Flat", "class Broken") + late)
    words = ["task=custom", "task.name=broken", "task._target_=broken_task.Broken", *SMALL[1:]]
    assert main(["stage=lr", *words]) == 1
    captured = capsys.readouterr()
    assert "the task's code failed in the first trials" in captured.err
    assert "broken_task.py" in captured.err
    assert "orchestrator/" not in captured.err
    assert "site-packages" not in captured.err
    # The code is mended: the same command goes on with that trial.
    Path("mended").touch()
    assert main(["stage=lr", *words]) == 0
    assert ledger("broken-seed0")["stages"]["lr"]["trials"] == 3
    assert "0 trials done, 1 to resume" in capsys.readouterr().out


HOLD = """
import sys
from pathlib import Path
from orchestrator.files import exclusive_lock
with exclusive_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_driver_is_refused_until_the_first_is_dead(capsys: pytest.CaptureFixture[str]) -> None:
    lock = Path("sweeps", NAME, "lock").resolve()
    words = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        assert main(["stage=lr", *SMALL]) == 2
        line = capsys.readouterr().err
        assert f"sweep {NAME} is being driven by process {first.pid} on {socket.gethostname()}" in line
        assert line.count("\n") == 1
        assert [path.name for path in lock.parent.iterdir()] == ["lock"]
        first.kill()
    assert main(["stage=lr", *SMALL]) == 0


def test_multirun_runs_one_sweep_after_another() -> None:
    assert main(["-m", "stage=lr", "seed=0,1", *SMALL]) == 0
    names = {path.name for path in Path("sweeps").iterdir() if (path / "ledger.json").exists()}
    assert all(name.startswith("breast_cancer-seed") for name in names)
    assert len(names) == 2


def test_a_stage_and_a_hyperparameter_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("my_conf/stage")
    folder.mkdir(parents=True)
    (folder / "dropout.yaml").write_text(DROPOUT_STAGE)
    assert main(["--config-dir", "my_conf", "stage=dropout", *SMALL]) == 0
    assert "[dropout] how much dropout? 3 trials of up to 4 epochs over model.dropout" in capsys.readouterr().out


def test_start_configurations_come_first() -> None:
    starts = "sampler.start=[{optimizer: {lr: 0.004}}, {optimizer: {lr: 0.007}, model: {width: 20}}]"
    assert main(["stage=lr", *SMALL, starts]) == 0
    lines = Path("sweeps", NAME, "study.journal").read_text().splitlines()
    created = [json.loads(line)["user_attrs"]["configuration"] for line in lines if '"user_attrs"' in line]
    assert [created[0]["optimizer.lr"], created[1]["optimizer.lr"]] == [0.004, 0.007]
    assert [created[0]["model.width"], created[1]["model.width"]] == [32, 20]


def test_a_timeout_ends_the_stage_with_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=lr", *SMALL, "n_trials=100000", "timeout_s=2"]) == 0
    verdict = ledger()["stages"]["lr"]
    assert 1 <= verdict["trials"] < 100000
    assert "best learning rate" in capsys.readouterr().out


def test_checkpoints_are_kept_for_the_best_only_and_the_log_says_what_went() -> None:
    assert main(["stage=lr", *SMALL, "n_trials=6", "pruner=none", "trainer.keep_checkpoints=2"]) == 0
    folder = Path("sweeps", NAME)
    kept = [path.parent.name for path in folder.glob("trials/*/checkpoint.pt")]
    assert len(kept) == 2
    assert f"{ledger()['stages']['lr']['best_trial']:06d}" in kept
    assert (folder / "orchestrator.log").read_text().count("removed the checkpoint of trial") == 4


def test_the_example_runs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    words = ["task=custom", "task.name=wine", "task._target_=examples.wine.Wine", *SMALL[1:]]
    assert main(["stage=all", *words]) == 0
    assert list(ledger("wine-seed0")["stages"])[-1] == "ensemble"


def test_the_readme_shows_the_example_as_it_is() -> None:
    source = (ROOT / "examples" / "wine.py").read_text()
    assert source.strip() in (ROOT / "README.md").read_text()


FLAT_TASK = """
import torch
from torch import nn
from torch.utils.data import TensorDataset
from orchestrator import ClassificationTask, Splits


class Flat(ClassificationTask):
    def splits(self):
        inputs = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
        targets = (inputs[:, 0] > 0).long()
        return Splits(*(TensorDataset(inputs[i::3], targets[i::3]) for i in range(3)))

    def model(self):
        return nn.Linear(5, 2)
"""

DROPOUT_STAGE = """\
# @package _global_
stage: {name: dropout}
stages:
  dropout: {kind: search, asks: "how much dropout?", varies: [model.dropout], n_trials: 3}
"""
