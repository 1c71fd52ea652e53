"""Every wrong command line ends with exit code 2 and one line that says where and what would be right."""

import inspect
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import wrong_tasks
from curves import command

from orchestrator.app.main import main
from orchestrator.config.schema import TaskConfig

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
    ("trainer.epochs=0", ["trainer.epochs=0: must be greater than or equal to 1"]),
    ("trainer.epochs=true", ["trainer.epochs=True: must be a valid integer"]),
    ("data.batch_size=1.5", ["data.batch_size=1.5: must be a valid integer"]),
    ("optimizer.momentum=1", ["optimizer.momentum=1: must be less than 1"]),
    ("loss.label_smoothing=1.5", ["loss.label_smoothing=1.5: must be less than 1"]),
    ("timeout_s=0", ["timeout_s=0: must be greater than 0"]),
    ("runner.cpus_per_trial=0", ["runner.cpus_per_trial=0: must be greater than or equal to 1"]),
    ("runner.gpus_per_trial=-1", ["runner.gpus_per_trial=-1: must be greater than or equal to 0"]),
    ("recipe.budget={high:-1}", ["recipe.budget.high=-1: must be greater than or equal to 0"]),
    ("recipe.growth=nan", ["recipe.growth=nan: must be a finite number"]),
    ("pruner.audit_share=2", ["pruner.audit_share=2: must be less than or equal to 1"]),
    ("data.augmentation=0.5 task=breast_cancer", ["data.augmentation=0.5: BreastCancer has no augment method"]),
    ("stage=ui ui.port=99999999", ["ui.port=99999999: must be less than or equal to 65535"]),
    ("stage=logbook logbook.export=x.xlsx", ["export=x.xlsx: must end in .csv or .parquet"]),
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
    ("sweep.dir=", ["sweep.dir=: ", "at least 1 character"]),
    ("sweep.name=..", ["sweep.name=..: only letters, digits and"]),
    ("sweep.name=a/../../b", ["sweep.name=a/../../b: only letters, digits and"]),
    ("task.name=../x", ["task.name=../x: only letters, digits and"]),
    ("task.name=", ["task.name=: only letters, digits and"]),
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

# Files of the user's own, and what is wrong with them.
FILES = [
    ("trainer", "epochs: [1\n", ["mine.yaml", "line 2", "expected ',' or ']'"]),
    ("trainer", "epochs: 3\n\tpatience: 2\n", ["mine.yaml", "line 2", "'\\t'"]),
    ("trainer", "epochs: 3\nepochs: 4\n", ["mine.yaml", "duplicate key epochs"]),
    ("trainer", "- 3\n- 4\n", ["trainer=[3, 4]: must be a group of settings"]),
    ("trainer", b"epochs: 3 # \xff\xfe\n", ["mine.yaml: cannot be read as settings", "utf-8"]),
    ("trainer", "epochs: three\n", ["trainer.epochs=three: must be a valid integer"]),
    ("trainer", "epoch: 3\n", ["trainer.epoch: no such setting", "did you mean epochs?"]),
    ("trainer", "epochs: ${nope}\n", ["trainer.epochs", "'nope' not found"]),
    ("trainer", "epochs: ${trainer.epochs}\n", ["trainer.epochs", "ecursi"]),
    ("trainer", "epochs: ???\n", ["trainer.epochs is missing: give trainer.epochs=VALUE"]),
    ("trainer", "epochs: !!python/object/apply:os.system ['touch hacked']\n", ["mine.yaml", "could not determine"]),
    ("trainer", "defaults: [nope]\n", ["trainer=nope: no such option", "known: default"]),
    ("trainer", "defaults: 3\n", ["trainer/mine", "defaults must be a list"]),
    ("experiment", "trainer: 3\n", ["trainer=3: must be a group of settings"]),
    ("experiment", "sampler: {start: {optimizer: {lr: 0.1}}}\n", ["experiment/mine", "Cannot merge DictConfig"]),
    ("experiment", "stages: {lr: {varies: optimizer.lr}}\n", ["stages.lr.varies=optimizer.lr: must be a list"]),
    ("experiment", "stages: {lr: {kind: serach}}\n", ["stages.lr.kind=serach: must be 'preflight', 'search'"]),
    ("experiment", "stages: {lr: null}\n", ["stages.lr=null: must be a group of settings"]),
    ("experiment", "stages: {'../up': {kind: search, asks: x}}\n", ["stages.../up: a stage is named by letters"]),
    ("experiment", "stages: {lr@2: {kind: search, asks: x}}\n", ["stages.lr@2: a stage is named by letters"]),
    ("experiment", "stages: {report: {kind: search, asks: x}}\n", ["stages.report: ", "is no verb"]),
    ("experiment", "recipe: {order: []}\n", ["recipe.order=[]: must have at least 1 item"]),
    ("experiment", "recipe: {order: [lr, lr]}\n", ["recipe.order names lr twice"]),
    ("experiment", "task: {name: ../../x}\n", ["task.name=../../x: only letters, digits and"]),
    ("experiment", "space: {optimizer: {lr: {type: complex}}}\n", ["type=complex: must be 'float', 'int'"]),
    ("experiment", "space: {optimizer: {lr: {choices: [1, 2]}}}\n", ["choices belong to type=choice, not to float"]),
]

# Tasks that break their promises (tests/helpers/wrong_tasks.py): the exit code, and what the line must hold.
TASKS = [
    ("NoDirections", 2, ["directions={'loss': 'min'}: must map each score to Direction.MINIMIZE"]),
    ("IdleText", 2, ["without_effect='loss.label_smoothing': must be a tuple of names"]),
    ("BuiltBadly", 1, ["building it raised FileNotFoundError: no such file: data.csv", "in __init__"]),
    ("BuiltWithTypo", 2, ["object of type 'int' has no len()", "wrong_tasks.py:"]),
    ("SplitsRaises", 1, ["SplitsRaises.splits() raised FileNotFoundError: no such file: data.csv (wrong_tasks.py:"]),
    ("SplitsTuple", 2, ["splits() (wrong_tasks.py:", "gives a tuple of 3; return orchestrator.Splits(train,"]),
    ("SplitsNone", 2, ["gives None; return orchestrator.Splits(train, validation, test)"]),
    ("TrainNone", 2, ["gives None as train; give a torch.utils.data.Dataset"]),
    ("TrainGenerator", 2, ["gives a generator as train; give a torch.utils.data.Dataset with __len__"]),
    ("TrainStream", 2, ["gives a Stream as train; give a torch.utils.data.Dataset with __len__"]),
    ("TrainTensor", 2, ["gives a tensor of shape (30, 5) as train", "TensorDataset(inputs, targets)"]),
    ("TrainPath", 2, ["gives a str as train; give a torch.utils.data.Dataset"]),
    ("TrainEmpty", 2, ["gives an empty train split; each split needs examples"]),
    ("ValidationEmpty", 2, ["gives an empty validation split; each split needs examples"]),
    ("TestEmpty", 2, ["gives an empty test split; each split needs examples"]),
    ("ItemsAlone", 2, ["has a tensor of shape (5,) as the first item of train; each item is a pair"]),
    ("ItemsDict", 2, ["has a dict as the first item of train; each item is a pair"]),
    ("ItemsTriple", 2, ["has a tuple of 3 as the first item of train; each item is a pair"]),
    ("ItemsText", 2, ["has a str as input of the first item of train"]),
    ("TargetText", 2, ["has a str as target of the first item of train"]),
    ("TargetNone", 2, ["items in train that make no batch", "NoneType", "each item is a pair"]),
    ("ItemsRagged", 2, ["items in train that make no batch", "got [5] at entry 0 and [6]", "of the same shape"]),
    ("ItemsObject", 2, ["items in train that make no batch", "found <class 'object'>", "tensors or numbers"]),
    ("ItemsRaise", 1, ["first item raised KeyError: 'row 0' (wrong_tasks.py:", "in __getitem__"]),
    ("ValidationNarrow", 1, ["given inputs of shape (20, 4), raised RuntimeError: mat1 and mat2 shapes"]),
    ("ModelRaises", 1, ["model() raised NameError: name 'nope' is not defined (wrong_tasks.py:", "in model)"]),
    ("ModelNone", 2, ["model() (wrong_tasks.py:", "gives None; return a torch.nn.Module"]),
    ("ModelClass", 2, ["gives the class Linear; return an instance of it"]),
    ("ModelFunction", 2, ["gives a function; return a torch.nn.Module"]),
    ("ModelBare", 2, ["gives a Sequential without parameters; there is nothing to train"]),
    ("ModelFrozen", 2, ["has no parameter with requires_grad; there is nothing to train"]),
    ("ModelLazy", 2, ["has lazy layers", "give their sizes"]),
    ("ModelNarrow", 1, ["given inputs of shape (4, 5), raised RuntimeError: mat1 and mat2", "(wrong_tasks.py:"]),
    ("OutputsTuple", 2, ["output is a tuple of 2; model(inputs) gives a tensor whose first axis"]),
    ("OutputsMean", 2, ["output has shape (1, 2) for 4 examples; model(inputs) gives a tensor"]),
    ("LossRaises", 1, ["loss() given outputs of shape (4, 2) and targets of shape (4,) raised ValueError"]),
    ("LossWithoutSmoothing", 1, ["loss()", "raised TypeError", "takes 3 positional arguments but 4"]),
    ("LossFloat", 2, ["gives a float; return one number as a tensor: the mean over the batch"]),
    ("LossNone", 2, ["gives None; return one number as a tensor"]),
    ("LossEach", 2, ["gives a tensor of shape (4,); return one number as a tensor"]),
    ("LossWhole", 2, ["gives a tensor of shape () of torch.int64; return one number"]),
    ("LossDetached", 2, ["has no gradient; compute it from the outputs with PyTorch, without detach"]),
    ("PredictionsRaise", 1, ["predictions() given a tensor of shape (20, 2) raised IndexError"]),
    ("PredictionsNumpy", 2, ["gives a ndarray; return a float64 tensor whose first axis is the examples"]),
    ("PredictionsWhole", 2, ["gives a tensor of shape (20,) of torch.int64; return a float64 tensor"]),
    ("PredictionsMean", 2, ["gives a tensor of shape () for 20 examples; return a float64 tensor"]),
    ("ScoreRaises", 1, ["score() given predictions of shape (20, 2) and targets of shape (20,) raised"]),
    ("ScoreFloat", 2, ["score() gives a float; return a dictionary of loss, accuracy"]),
    ("ScoreNone", 2, ["score() gives a NoneType; return a dictionary of loss, accuracy"]),
    ("ScoreMissing", 2, ["score() does not give accuracy, which directions names; did you mean acuracy?"]),
    ("ScoreOfNone", 2, ["score()['loss'] is None; give a number"]),
    ("ScoreOfText", 2, ["score()['loss'] is '0.5'; give a number"]),
    ("ScoreOfComplex", 2, ["score()['loss'] is 1j; give a number"]),
    ("ScoreOfNan", 2, ["gives loss=nan for the 20 validation examples", "every score is a finite number"]),
    ("ScoreOfArray", 2, ["score()['loss'] is a ndarray of shape (3,); give one number"]),
    ("ScoreOfVector", 2, ["score()['loss'] is a Tensor of shape (3,); give one number"]),
    ("ScoreOfList", 2, ["score()['loss'] is a list, not a number", "give a number"]),
    ("ScoreOnMeta", 2, ["score()['loss'] is a Tensor, not a number", "give a number"]),
    ("AugmentNone", 2, ["augment() (wrong_tasks.py:", "gives None; return the changed (inputs, targets)"]),
    ("AugmentOne", 2, ["gives a tensor of shape (4, 5); return the changed (inputs, targets)"]),
    ("AugmentMore", 2, ["gives 8 inputs and 4 targets of 4; return as many as it was given"]),
    ("AugmentRaises", 1, ["augment() raised AttributeError: 'Tensor' object has no attribute 'rotate'"]),
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


def refuse(words: str, capsys: pytest.CaptureFixture[str], wanted: int = 2) -> str:
    """Run ``words`` in the current folder; their one line of complaint."""
    code = main(words.split())
    out, err = capsys.readouterr()
    assert (code, out) == (wanted, ""), f"{words}: exit code {code}, printed {out!r}"
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
    words = [row[0] for row in WRONG + PARTS] + [row[1] for row in FILES] + [row[0] for row in TASKS]
    assert len(words) >= 180
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


@pytest.mark.parametrize(("group", "text", "parts"), FILES, ids=[repr(row[1])[:60] for row in FILES])
def test_a_wrong_file_is_refused_in_one_line(
    group: str, text: str | bytes, parts: list[str], tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my_conf" / group / "mine.yaml"
    path.parent.mkdir(parents=True)
    head = b"# @package _global_\n" if group == "experiment" else b""
    path.write_bytes(head + (text if isinstance(text, bytes) else text.encode()))
    plus = "+" if group == "experiment" else ""
    line = refuse(f"--config-dir my_conf stage=lr task=breast_cancer {plus}{group}=mine", capsys)
    assert [part for part in parts if part not in line] == [], line
    assert sorted(made(folder)) == ["my_conf", f"my_conf/{group}", f"my_conf/{group}/mine.yaml"]


@pytest.mark.parametrize(("name", "code", "parts"), TASKS, ids=[row[0] for row in TASKS])
def test_a_task_that_breaks_its_promises_is_refused_in_one_line(
    name: str,
    code: int,
    parts: list[str],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = command("stage=lr", f"data.augmentation={0.5 * name.startswith('Augment')}")
    config = replace(config, task=TaskConfig(name="mine", target=f"wrong_tasks.{name}"), model={})
    # Everything but composing, which takes most of the time.
    monkeypatch.setattr("orchestrator.app.main.run_command", lambda run: run(config))
    line = refuse("", capsys, code)
    assert [part for part in parts if part not in line] == [], line
    assert not made(folder)


def test_every_wrong_task_is_in_the_table() -> None:
    tasks = {
        name
        for name, item in vars(wrong_tasks).items()
        if inspect.isclass(item) and issubclass(item, wrong_tasks.Good)
    }
    assert tasks - {"Good", "Scored", "Unusual"} == {row[0] for row in TASKS}


def test_a_task_that_is_only_unusual_is_accepted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores as tensors and NumPy numbers, items in lists, a score that needs all of validation."""
    words = "stage=lr task=custom task._target_=wrong_tasks.Unusual runner=local tracking=none n_trials=1"
    assert main([*words.split(), "trainer.epochs=1"]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("words", ["stage=train", "stage=preflight", "stage=all", "stage=lr dry_run=true"])
def test_whatever_trains_tries_the_task_first(words: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refuse(f"{words} task=custom task._target_=wrong_tasks.SplitsNone", capsys)
    assert "return orchestrator.Splits" in line
    assert not made(folder)


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("def broken(:\n", ["my_wrong.Task: cannot be imported: invalid syntax (my_wrong.py:1)"]),
        ("import nope_nope\n", ["cannot be imported: No module named 'nope_nope'"]),
        ("1 / 0\n", ["cannot be imported: ZeroDivisionError: division by zero (my_wrong.py:1"]),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(
    source: str, parts: list[str], folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "my_wrong.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    line = refuse("stage=lr task=custom task._target_=my_wrong.Task", capsys)
    assert [part for part in parts if part not in line] == [], line
    assert set(made(folder)) <= {"my_wrong.py", "__pycache__"}


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
