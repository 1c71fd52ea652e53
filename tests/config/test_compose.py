"""Every shipped configuration composes; users override what they like from the command line or a folder."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from orchestrator.app.main import main
from orchestrator.config.compose import from_plain, to_plain, to_run_config, to_yaml
from orchestrator.config.entry import multirun_name, register_options, run_command, use_words
from orchestrator.config.hyperparameters import from_flat
from orchestrator.config.ranks import check_ranks
from orchestrator.config.schema import RunConfig

ROOT = Path(__file__).parents[2]
CONF = ROOT / "conf"
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir())
OPTIONS = sorted((group, path.stem) for group in GROUPS for path in (CONF / group).glob("*.yaml"))
TARGETS = {
    "task": "orchestrator.tasks.digits.DigitsMLP",
    "sampler": "optuna.samplers.RandomSampler",
    "pruner": "optuna.pruners.NopPruner",
}
TASK = """
from torch import nn
from orchestrator.tasks.digits import DigitsMLP

class MyTask(DigitsMLP):
    def model(self, gain: float = 0.5, rank: int = 2) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
"""


@pytest.fixture
def composer() -> Iterator[None]:
    register_options()
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        yield
    GlobalHydra.instance().clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["orchestrator"])
    return tmp_path


def composed(*words: str) -> RunConfig:
    """What ``words`` compose to, by way of the command's own entry."""
    seen: list[RunConfig] = []
    use_words(list(words))
    assert run_command(lambda config: seen.append(config) or 0) == 0
    (config,) = seen
    return config


def test_every_group_has_options() -> None:
    assert set(GROUPS) >= {"task", "stage", "sampler", "pruner", "runner", "tracking", "trainer", "recipe"}
    assert len(OPTIONS) > 25


@pytest.mark.usefixtures("composer")
@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_into_a_valid_configuration(group: str, option: str) -> None:
    words = [f"+{group}={option}" if group == "experiment" else f"{group}={option}"]
    if option == "custom":
        words.append(f"{group}._target_={TARGETS[group]}")
    config = to_run_config(compose(config_name="config", overrides=words))
    if group not in ("experiment", "recipe", "trainer"):
        # gpus and cluster are presets of ray.
        assert getattr(config, group).name == ("ray" if option in ("gpus", "cluster") else option)
    # What is written beside a sweep reads back as the same.
    assert from_plain(json.loads(json.dumps(to_plain(config)))) == config
    assert from_plain(OmegaConf.to_container(OmegaConf.create(to_yaml(to_plain(config))))) == config
    assert from_flat(config.hyperparameters.flat()) == config.hyperparameters


@pytest.mark.usefixtures("composer")
def test_every_stage_of_the_recipe_is_an_option_and_asks_something() -> None:
    config = to_run_config(compose(config_name="config"))
    options = {path.stem for path in (CONF / "stage").glob("*.yaml")}
    assert set(config.recipe.order) <= options
    # Distillation is there to be asked for.
    assert {*config.recipe.order, "distill"} == set(config.stages)
    for name, stage in config.stages.items():
        assert stage.asks.endswith("?"), name
        assert bool(stage.varies) == (stage.kind == "search"), name


@pytest.mark.usefixtures("composer")
def test_the_yaml_states_the_defaults_of_the_schema() -> None:
    config = to_run_config(compose(config_name="config"))
    assert config.pruner.name == RunConfig.__dataclass_fields__["pruner"].default.name
    assert config.trainer == RunConfig.__dataclass_fields__["trainer"].default
    assert config.sampler == RunConfig.__dataclass_fields__["sampler"].default
    assert config.tracking == RunConfig.__dataclass_fields__["tracking"].default
    assert config.runner == RunConfig.__dataclass_fields__["runner"].default
    assert config.failure == RunConfig.__dataclass_fields__["failure"].default
    assert config.preflight == RunConfig.__dataclass_fields__["preflight"].default


def test_a_threshold_of_a_check_is_overridden_on_the_command_line(folder: Path) -> None:
    config = composed("preflight.settings.init_loss.warn=1.5", "preflight.skip=[init_loss]", "preflight.on_fail=warn")
    settings = config.preflight.settings
    assert settings.init_loss.warn == 1.5
    assert replace(settings, init_loss=type(settings.init_loss)()) == type(settings)()
    assert (config.preflight.skip, config.preflight.on_fail) == (("init_loss",), "warn")


def test_an_experiment_may_be_overridden(folder: Path) -> None:
    config = composed("+experiment=debug", "n_trials=7", "trainer.patience=2")
    assert (config.runner.name, config.tracking.name) == ("inline", "none")
    assert (config.n_trials, config.trainer.epochs, config.trainer.patience) == (7, 3, 2)


def test_a_search_space_is_overridden_on_the_command_line(folder: Path) -> None:
    before = composed().space["optimizer"]
    config = composed(
        "space.optimizer.lr.low=1e-3",
        "space.optimizer.lr.limits=[1e-4,100]",
        "+space.optimizer.eps={type: float, low: 1e-9, high: 1e-4, scale: log}",
    )
    space = config.space["optimizer"]
    assert (space["lr"].low, space["lr"].high, space["lr"].hard_limits) == (1e-3, before["lr"].high, (1e-4, 100))
    assert space["lr"].scale == before["lr"].scale == "log"
    assert space["eps"].hard_limits == (1e-9, 1e-4)
    assert set(space) == {*before, "eps"}
    assert space["momentum"] == before["momentum"]


def test_a_users_folder_brings_tasks_spaces_stages_and_experiments(folder: Path) -> None:
    own = folder / "own"
    write(own / "task/mine.yaml", "# @package _global_\ntask: {name: mine, _target_: mine.MyTask, args: {}}\n")
    write(own / "search_spaces/mine.yaml", "# @package space\nmodel:\n  gain: {type: float, low: 0.1, high: 1}\n")
    write(own / "stage/gain.yaml", "name: gain\n")
    write(
        own / "experiment/mine.yaml",
        "# @package _global_\ndefaults:\n  - override /task: mine\n"
        "stages:\n  gain: {kind: search, asks: 'how much gain?', varies: [model.gain]}\n"
        "space: {optimizer: {lr: {low: 0.02}}}\n",
    )
    words = [
        "--config-dir",
        str(own),
        "+experiment=mine",
        "search_spaces=[optimizer,data,model,schedule,loss,mine]",
        "stage=gain",
    ]
    config = composed(*words)
    assert (config.task.name, config.task.target, config.task.option) == ("mine", "mine.MyTask", "mine")
    assert config.stage.name == "gain"
    assert config.stages["gain"].varies == ("model.gain",)
    assert config.space["model"]["gain"].hard_limits == (0.1, 1)
    assert "width" in config.space["model"]
    assert config.space["optimizer"]["lr"].low == 0.02


def test_the_names_of_a_users_folder_are_known_to_the_errors(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(folder / "own/task/peacock.yaml", "# @package _global_\ntask: {name: x, _target_: y.Z, args: {}}\n")
    assert main(["--config-dir", str(folder / "own"), "task=peacok"]) == 2
    assert "did you mean peacock?" in capsys.readouterr().err


def test_a_broken_file_of_the_user_is_named_in_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "own/experiment/broken.yaml", "# @package _global_\nn_trials: [1\n")
    assert main(["--config-dir", str(folder / "own"), "+experiment=broken"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "broken.yaml" in err
    assert "line 3" in err


def test_a_users_task_is_planned_from_its_module(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(folder / "my_own_task.py", TASK)
    words = [
        "task=custom",
        "task._target_=my_own_task.MyTask",
        "stage=gain",
        "+stages.gain={kind: search, asks: how much?, varies: [model.gain], n_trials: 3}",
        "+space.model.gain={type: float, low: 0.1, high: 1}",
        "dry_run=true",
    ]
    # A stage of the command line has no option of the group; its name is a value.
    words[2] = "stage.name=gain"
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "plan of sweep custom-seed0" in out
    assert "model.gain" in out


def test_help_and_the_composed_configuration_are_printed(tmp_path: Path) -> None:
    done = command(tmp_path, "--help")
    assert "usage: python run.py stage=STAGE" in done
    for group, option in OPTIONS:
        assert group in done
        assert option in done
    text = command(tmp_path, "--cfg", "job", "task=diabetes", "optimizer.lr=0.25")
    tree = OmegaConf.create(text)
    assert (tree.task.name, tree.optimizer.lr, tree.space.data.batch_size.high) == ("diabetes", 0.25, 256)
    assert [*tmp_path.iterdir()] == []


def test_each_job_of_a_multirun_is_a_sweep_of_its_own(folder: Path) -> None:
    seen: list[RunConfig] = []
    use_words(["-m", "seed=0,1", "optimizer.lr=0.1,0.2", "stage=width"])
    assert run_command(lambda config: seen.append(config) or len(seen)) == 4
    names = [config.sweep.name for config in seen]
    assert len(set(names)) == 4
    assert names[0] == "digits_mlp-seed0-optimizer.lr=0.1"
    assert [config.seed for config in seen] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "toy-seed3"),
        (["seed=3", "stage=all", "task=toy", "runner=local", "runner.workers=2", "tracking=none"], "toy-seed3"),
        (["sweep.dir=x", "dry_run=true"], "toy-seed3"),
        (["optimizer.lr=0.1", "data.batch_size=8"], "toy-seed3-data.batch_size=8-optimizer.lr=0.1"),
        (["data.batch_size=8", "optimizer.lr=0.1"], "toy-seed3-data.batch_size=8-optimizer.lr=0.1"),
        (["+model.gain=1"], "toy-seed3-model.gain=1"),
        (["sampler.start=[{a: 1}]"], "toy-seed3-sampler.start=__a__1__"),
    ],
)
def test_a_multirun_names_its_sweeps_by_what_makes_them_differ(words: list[str], name: str) -> None:
    assert multirun_name("toy", 3, words) == name


def schema_fields() -> list[tuple[str, str, bool]]:
    """Class, field and whether a docstring follows it, read from the source."""
    found = []
    for module in ("schema", "hyperparameters", "space"):
        tree = ast.parse((ROOT / f"orchestrator/config/{module}.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                for item, after in zip(node.body, [*node.body[1:], None], strict=True):
                    if isinstance(item, ast.AnnAssign):
                        said = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
                        found.append((node.name, ast.unparse(item.target), said))
    return found


def test_every_setting_has_a_docstring() -> None:
    found = schema_fields()
    assert len(found) > 80
    # The groups of RunConfig and Hyperparameters say what they are in the docstring of their own class.
    groups = {(cls, name) for cls in ("RunConfig", "Hyperparameters") for name in RunConfig.__dataclass_fields__}
    silent = [f"{cls}.{name}" for cls, name, said in found if not said and (cls, name) not in groups]
    assert silent == []
    documented = {name for cls, name, said in found if cls == "RunConfig" and said}
    assert documented >= {"seed", "n_trials", "timeout_s", "dry_run", "stages", "space"}


SPACES: list[tuple[str, str, dict[str, Any]]] = [
    (family, name, entry)
    for path in sorted((ROOT / "search_spaces").glob("*.yaml"))
    for family, ranges in OmegaConf.to_container(OmegaConf.load(path)).items()
    for name, entry in ranges.items()
]


def test_the_search_spaces_are_found() -> None:
    assert len(SPACES) >= 10


@pytest.mark.parametrize(("family", "name", "entry"), SPACES, ids=[f"{row[0]}.{row[1]}" for row in SPACES])
def test_every_search_space_says_its_unit_why_and_source(family: str, name: str, entry: dict[str, Any]) -> None:
    assert entry["why"].endswith(".")
    assert entry["source"]
    assert entry["impact"] in ("high", "medium", "low")
    if entry["type"] == "choice":
        assert len(entry["choices"]) > 1
    else:
        assert entry["unit"]
        assert entry["limits"][0] <= entry["low"] < entry["high"] <= entry["limits"][1]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def command(folder: Path, *words: str) -> str:
    """What ``run.py`` prints for ``words`` in ``folder``."""
    done = subprocess.run(
        [sys.executable, ROOT / "run.py", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_ranks_need_a_core_each_and_a_gpu_each_or_none() -> None:
    check_ranks(1, 1, 0.25)
    check_ranks(2, 4, 2.0)
    with pytest.raises(ValueError, match=r"trainer.workers=2 .* runner.cpus_per_trial=3: give a multiple of 2"):
        check_ranks(2, 3, 0.0)
    with pytest.raises(ValueError, match=r"runner.gpus_per_trial=0.5: give 2, one GPU each"):
        check_ranks(2, 2, 0.5)
