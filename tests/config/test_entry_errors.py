"""Every wrong command line ends with exit code 2 and one line that says where and what would be right."""

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.app.main import main

ROOT = Path(__file__).parents[2]
MLP = "task=custom task._target_=orchestrator.tasks.digits.DigitsMLP"

# Words, and what the line must hold: the place, and the names or bounds that would be right.
WRONG = [
    # options of groups
    ("stage=lrr", ["stage=lrr: no such option", "did you mean lr?", "batch_size", "status", "train"]),
    ("task=digits_mpl", ["task=digits_mpl: no such option", "did you mean digits_mlp?", "diabetes"]),
    ("task=digits/mlp", ["task=digits/mlp: no such option", "breast_cancer"]),
    ("sampler=tpee", ["sampler=tpee", "did you mean tpe?", "qmc"]),
    ("tracking=wandb", ["tracking=wandb", "known: mlflow, none"]),
    ("+experiment=quik", ["experiment=quik", "did you mean quick?", "debug"]),
    ("search_spaces=[optimizer,modl]", ["search_spaces=modl", "did you mean model?", "schedule"]),
    # groups and keys
    ("taks=digits_mlp", ["taks: no such setting", "did you mean task?"]),
    ("n_trails=3", ["n_trails: no such setting", "did you mean n_trials?", "timeout_s"]),
    ("+experimnt=quick", ["experimnt: no such setting"]),
    ("trainer.epoch=3", ["trainer.epoch: no such setting", "did you mean epochs?", "patience"]),
    ("optimzer.lr=0.1", ["optimzer: no such setting", "did you mean optimizer?"]),
    ("optimizer.learning_rate=0.1", ["optimizer.learning_rate: no such setting", "known: name, lr, momentum"]),
    ("runner.adress=auto", ["runner.adress: no such setting", "did you mean address?"]),
    ("runner=inline runner.workers=2", ["runner.workers: not set here", "known: name, cpus_per_trial"]),
    ("stages.lrr.n_trials=3", ["stages.lrr: no such stage", "did you mean lr?", "width"]),
    ("stage.n_trials=3", ["stage.n_trials: no such setting", "stages.NAME.n_trials"]),
    ("space.optimizer.lrr.low=1", ["space.optimizer.lrr: no such setting", "did you mean lr?", "weight_decay"]),
    ("space.optimiser.lr.low=1", ["space.optimiser: no such setting", "did you mean optimizer?", "schedule"]),
    ("space.optimizer.lr.lo=1", ["space.optimizer.lr.lo: no such setting", "did you mean low?", "scale"]),
    ("+optimizer.lrr=2", ["optimizer.lrr: no such setting", "did you mean lr?"]),
    ("task.args={foo:1}", ["task.args.foo: no such setting", "known: split_seed", "+task.args=VALUE"]),
    ("~task", ["task: is missing"]),
    ("trainer=null", ["trainer=null", "the name of an option"]),
    # values
    ("n_trials=0", ["n_trials=0: must be greater than or equal to 1"]),
    ("n_trials=ten", ["n_trials=ten: must be a valid integer"]),
    ("n_trials=3,4", ["n_trials=3,4", "-m", "[a,b]"]),
    ("seed=-1", ["seed=-1: must be greater than or equal to 0"]),
    ("dry_run=perhaps", ["dry_run=perhaps: must be a valid boolean"]),
    ("stage=train train.seed=-1", ["train.seed=-1: must be greater than or equal to 0"]),
    ("trainer.device=tpu", ["trainer.device=tpu: must be 'auto', 'cpu' or 'cuda'"]),
    ("optimizer.name=lion", ["optimizer.name=lion: must be 'sgd', 'adam' or 'adamw'"]),
    ("optimizer.lr=fast", ["optimizer.lr=fast: must be a valid number"]),
    ("optimizer.lr=nan", ["optimizer.lr=nan: must be a finite number"]),
    ("optimizer.lr=100", ["optimizer.lr=100", "limits [1e-06, 10.0]", "space.optimizer.lr.limits"]),
    ("optimizer=sgd", ["optimizer=sgd: must be a group of settings"]),
    ("schedule.kind=cosin", ["schedule.kind=cosin: must be 'constant', 'step'"]),
    ("optimizer.lr=${nope}", ["optimizer.lr", "'nope' not found"]),
    # the model's hyperparameters
    ("model.widht=3", ["model.widht", "did you mean width?", "+model.widht=VALUE"]),
    ("+model.widht=3", ["model.widht", "DigitsMLP.model takes no such argument", "did you mean width?"]),
    ("model.width=wide", ["model.width=wide: must be a number"]),
    ("model.width=64.5", ["model.width=64.5: must be a whole number"]),
    ("model.width=100000", ["model.width=100000", "limits [4, 4096]"]),
    ("model.width=null", ["model.width=null: must be true or false or a finite number or text"]),
    ("+model.gain=inf", ["model.gain=inf: must be true or false or a finite number or text"]),
    # search spaces
    ("space.optimizer.lr.low=2", ["space.optimizer.lr: low=2 must be below high=1.0"]),
    ("space.optimizer.lr.low=abc", ["space.optimizer.lr.low=abc: must be a finite number"]),
    ("space.optimizer.lr.high=100", ["space.optimizer.lr: limits=[1e-06, 10.0] must enclose", "high=100"]),
    ("space.optimizer.lr.limits=[0,10]", ["space.optimizer.lr: a log scale needs bounds above 0"]),
    ("space.optimizer.lr.scale=logarithmic", ["space.optimizer.lr.scale=logarithmic", "'log_complement'"]),
    ("space.model.depth.low=1.5", ["space.model.depth: an int needs whole bounds"]),
    ("space.schedule.kind.choices=[]", ["space.schedule.kind: a choice needs choices"]),
    ("space.schedule.kind.choices=[constant,linaer]", ["space.schedule", "kind=linaer: must be 'constant'"]),
    ("space.optimizer.momentum.limits=[0,1]", ["space.optimizer.momentum", "below 1"]),
    ("space.optimizer.momentum.limits=[-1,0.99]", ["space.optimizer", "momentum=-1.0: must be greater than"]),
    ("+space.optimizer.lrr={type:float,low:0,high:1}", ["space.optimizer.lrr: no such hyperp", "did you mean lr?"]),
    ("+space.foo.bar={type:float,low:0,high:1}", ["space.foo: no such family", "known: optimizer, data"]),
    # pruner, sampler
    ("pruner.rungs=[1,100] pruner.min_epochs=1", ["pruner.rungs=[1, 100]", "beyond the budget trainer.epochs=30"]),
    ("pruner.rungs=[1,5] pruner.min_epochs=3", ["rungs=[1, 5] has a rung below min_epochs=3"]),
    ("pruner.min_epochs=50", ["pruner.min_epochs=50 is beyond the budget trainer.epochs=30"]),
    ("pruner.name=custom", ["name=custom and _target_=IMPORT.PATH go together"]),
    ("+sampler._target_=optuna.samplers.TPESampler", ["name=custom and _target_=IMPORT.PATH go together"]),
    ("sampler.start=[0.1]", ["sampler.start.0=0.1: must be a group of settings"]),
    # places
    ("sweep.name=a/b", ["sweep.name=a/b: only letters, digits and"]),
    ("sweep.name=.hidden", ["sweep.name=.hidden", "beginning with a letter or digit"]),
    # runner, tracking
    ("runner.address=ray://host:10001", ["address=ray://host:10001", "address=auto"]),
    ("runner.gpus_per_trial=1.5", ["gpus_per_trial=1.5 must be below 1 or whole"]),
    # stages and the recipe
    ("stages.lr.varies=[optimizer.lrr]", ["stages.lr: optimizer.lrr is not a hyperparameter", "mean optimizer.lr?"]),
    ("+stages.lr.retunes={optimizer.lrr:0.1}", ["stages.lr: optimizer.lrr is not a hyperparameter"]),
    ("+stages.mine={kind:search}", ["stages.mine.asks: is missing"]),
    ("recipe.order=[lr,widht]", ["recipe.order names widht", "known stages: preflight, start, lr, batch_size"]),
    (
        "preflight.settings.init_loss.warm=2",
        ["init_loss.warm: no such setting; did you mean warn?"],
    ),
    ("preflight.settings.init_los.warn=2", ["did you mean init_loss?"]),
    ("preflight.on_fail=stop", ["preflight.on_fail=stop: must be 'block' or 'warn'"]),
    ("preflight=fast", ["preflight=fast: no such option", "known: default"]),
    ("preflight.skip=[init_los]", ["preflight.skip: there is no check init_los; did you mean init_loss?"]),
    # the user's task
    ("task=custom", ["task._target_ is missing: give task._target_=VALUE"]),
    ("task=custom task._target_=nope.Task", ["task._target_=nope.Task: cannot be imported", "'nope'"]),
    ("task=custom task._target_=orchestrator.tasks.digits.Nope", ["cannot be imported", "no attribute 'Nope'"]),
    ("task=custom task._target_=os.path", ["task._target_=os.path: is a module, not a class"]),
    ("task=custom task._target_=collections.OrderedDict", ["gives a OrderedDict, not an orchestrator.Task"]),
    (f"{MLP} +task.args.foo=1", ["task._target_=", "unexpected keyword argument 'foo'"]),
    # grammar and options of the command
    ("lr", ["lr: settings are written KEY=VALUE; did you mean stage=lr?"]),
    ("=3", ["=3: a group takes the name of an option"]),
    ("optimizer.lr=[1", ["optimizer.lr=[1: cannot be read"]),
    ("--foo", ["--foo", "options are -m, --help"]),
    ("--config-name nope", ["nope: no such configuration file"]),
    ("--config-dir nope", ["nope", "not found"]),
]

# What only the plan can check.
PARTS = [
    ("sampler.start=[{optimizer:{lrr:0.1}}]", ["sampler.start[0]: optimizer.lrr is unknown", "optimizer.lr"]),
    ("sampler.start=[{optimizr:{lr:0.1}}]", ["sampler.start[0]: optimizr.lr is unknown"]),
    ("sampler.start=[{optimizer:{lr:100}}]", ["optimizer.lr=100", "limits [1e-06, 10.0]"]),
    ("sampler.start=[{optimizer:{lr:0.1}},{model:{widht:3}}]", ["sampler.start[1]: model.widht is unknown"]),
    ("sampler.start=[{optimizer:{lr:fast}}]", ["sampler.start[0]", "lr=fast: must be a valid number"]),
    ("sampler=custom sampler._target_=optuna.samplers.Nope", ["sampler._target_=", "no attribute 'Nope'"]),
    ("sampler=custom sampler._target_=builtins.dict", ["sampler._target_=", "not an Optuna sampler"]),
    ("sampler=custom sampler._target_=optuna.samplers.RandomSampler +sampler.args.foo=1", ["argument 'foo'"]),
    ("pruner=custom pruner._target_=optuna.pruners.Nope", ["pruner._target_=", "no attribute 'Nope'"]),
    ("pruner=custom pruner._target_=builtins.dict", ["pruner._target_=", "not an Optuna pruner"]),
]


def refuse(words: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run ``words`` in the current folder; their one line of complaint."""
    code = main(words.split())
    out, err = capsys.readouterr()
    assert (code, out) == (2, ""), f"{words}: exit code {code}, printed {out!r}"
    assert err.endswith("\n")
    assert err.count("\n") == 1, err
    assert err.startswith("orchestrator: ")
    assert "Traceback" not in err
    return err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_table_is_long_and_has_no_double() -> None:
    words = [row[0] for row in WRONG + PARTS]
    assert len(words) >= 80
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(("words", "parts"), WRONG, ids=[row[0] for row in WRONG])
def test_a_wrong_command_line_is_refused_in_one_line(
    words: str, parts: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refuse(words, capsys)
    assert [part for part in parts if part not in line] == [], line
    assert not made(folder)


@pytest.mark.parametrize(("words", "parts"), PARTS, ids=[row[0] for row in PARTS])
def test_a_wrong_sampler_or_pruner_is_refused_before_a_sweep_is_made(
    words: str, parts: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refuse(f"{words} runner=inline tracking=none n_trials=1 trainer.epochs=3", capsys)
    assert [part for part in parts if part not in line] == [], line
    assert not made(folder)


def test_neither_ray_nor_mlflow_is_imported_to_refuse(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from orchestrator.app.main import main\n"
        "assert main(['stage=all', 'model.width=wide']) == 2\n"
        "print(sorted({'ray', 'mlflow', 'torch'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    # torch is needed to ask the task what its model takes, so its presence shows that the check can see.
    assert done.stdout.strip() == "['torch']"
    assert done.stderr == "orchestrator: model.width=wide: must be a number\n"
    assert not made(tmp_path)


def test_the_script_ends_with_the_exit_code(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", "stage=lrr"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_crash_of_ours_is_not_reported_as_the_users(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise ValueError("ours")

    monkeypatch.setattr("orchestrator.app.main.make_plan", crash)
    with pytest.raises(ValueError, match="ours"):
        main(["stage=lr"])


def made(folder: Path) -> list[str]:
    """What lies in ``folder``."""
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]
