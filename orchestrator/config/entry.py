"""The only door to Hydra: from command-line words to a checked :class:`RunConfig`, errors as one line."""

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from orchestrator.config.compose import to_run_config
from orchestrator.config.errors import known_keys, suggest
from orchestrator.config.schema import VERBS, RunConfig
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.files import data_folder

Command = Callable[[RunConfig], int]


def run_command(command: Command) -> int:
    """Compose the configuration from ``sys.argv``, check it, and call ``command`` with it.

    With ``-m`` the command runs once per combination, one after another; the highest exit code counts.

    Raises:
        ConfigError: the words or the values are wrong.
    """
    register_search_spaces()
    codes: list[int] = [0]
    errors: list[OrchestratorError] = []

    def job(tree: DictConfig) -> None:
        # Kept and raised below: passing through Hydra an error would be printed twice.
        if errors:
            return
        try:
            codes.append(command(_typed(tree)))
        except OrchestratorError as error:
            errors.append(error)

    # Without this Hydra prints its own text and ends the process with exit code 1.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    entry = hydra.main(version_base="1.3", config_path=str(data_folder("conf")), config_name="config")(job)
    try:
        entry()
    except HydraException as error:
        raise ConfigError(explain(error)) from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    finally:
        GlobalHydra.instance().clear()
    if errors:
        raise errors[0]
    return max(codes)


def register_search_spaces() -> None:
    """Offer every file of ``search_spaces/`` as an option of the group of that name."""
    store = ConfigStore.instance()
    for path in sorted(data_folder("search_spaces").glob("*.yaml")):
        store.store(
            group="search_spaces",
            name=path.stem,
            node=OmegaConf.load(path),
            package="space",
            provider="search_spaces",
        )


def _typed(tree: DictConfig) -> RunConfig:
    if HydraConfig.get().mode == hydra.types.RunMode.MULTIRUN and tree.sweep.name is None:
        tree.sweep.name = multirun_name(tree.task.name, tree.seed, HydraConfig.get().overrides.task)
    with open_dict(tree):
        tree.task.option = HydraConfig.get().runtime.choices["task"]
    return to_run_config(tree)


def multirun_name(task: str, seed: int, overrides: list[str]) -> str:
    """The sweep name of one job of ``-m``: task, seed, and whatever else the words change."""
    own = ("stage=", "task=", "seed=", "sweep.", "runner", "tracking", "dry_run=")
    extra = [word.lstrip("+~") for word in overrides if not word.startswith(own)]
    return re.sub(r"[^A-Za-z0-9._=,+-]", "_", "-".join([f"{task}-seed{seed}", *sorted(extra)]))


def explain(error: HydraException) -> str:
    """One line for what Hydra could not compose, with the known names."""
    text = str(error)
    if found := re.search(r"Could not override '([^'@]+)(?:@[^']*)?'\.?\s*No match in the defaults list", text):
        return f"{found[1]}: no such group; {suggest(found[1], _options(''))}"
    if found := re.search(r"In '[^']*': Could not find '([^']+)'|Could not find '([^']+)'", text):
        group, _, option = (found[1] or found[2]).rpartition("/")
        known = [*_options(group)]
        return f"{group}={option}: no such option; {suggest(option, known)}"
    if found := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(found[1])
    if found := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"+{found[1]}: is there already; write it without the +"
    return " ".join(text.split())


def _unknown_key(key: str) -> str:
    parent, _, name = key.rpartition(".")
    if key.split(".")[0] == "stage":
        return f"{key}: no such setting; settings of a stage are stages.NAME.{name or 'n_trials'}"
    if parent == "model":
        return f"{key}: not among the task's defaults; to add an argument of its model write +{key}=VALUE"
    known = known_keys(RunConfig, parent)
    if parent.startswith("stages.") and name in known:
        stage = parent.removeprefix("stages.")
        names = [option for option in _options("stage") if option not in VERBS]
        return f"{parent}: no such stage; {suggest(stage, names)}"
    if not known:
        return f"{key}: no such setting; to add it write +{key}=VALUE"
    return f"{key}: no such setting; {suggest(name, known)}"


def _options(group: str) -> list[str]:
    """The groups (``group`` empty) or the options of a group that ship with the package."""
    folder: Path = data_folder("conf") / group
    if not group:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
        return sorted([*names, "search_spaces"])
    if group == "stage":
        return [path.stem for path in sorted(folder.glob("*.yaml")) if path.stem not in VERBS] + list(VERBS)
    if group == "search_spaces":
        folder = data_folder("search_spaces")
    return sorted(path.stem for path in folder.glob("*.yaml"))


def use_words(words: list[str] | None) -> None:
    """Take ``words`` as the command line, and find the user's modules where the command runs."""
    if words is not None:
        sys.argv = [sys.argv[0], *words]
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
