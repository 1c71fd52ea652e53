"""The only door to Hydra: from command-line words to a checked :class:`RunConfig`, errors as one line."""

import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from orchestrator.config.compose import preflight_defaults, to_run_config
from orchestrator.config.errors import known_keys, suggest
from orchestrator.config.schema import VERBS, RunConfig
from orchestrator.errors import ConfigError
from orchestrator.files import data_folder

Command = Callable[[RunConfig], int]


def run_command(command: Command) -> int:
    """Compose the configuration from ``sys.argv``, check it, and call ``command`` with it.

    With ``-m`` the command runs once per combination, one after another; the highest exit code counts.

    Raises:
        ConfigError: the words or the values are wrong.
    """
    _check_options(sys.argv[1:])
    register_options()
    codes: list[int] = [0]
    errors: list[Exception] = []

    def job(tree: DictConfig) -> None:
        # Kept and raised below: passing through Hydra an error would be printed twice, and could not be
        # told from Hydra's own.
        if errors:
            return
        try:
            codes.append(command(_typed(tree)))
        except Exception as error:
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
    except YAMLError as error:
        raise ConfigError(" ".join(str(error).split())) from None
    except ValueError as error:
        # Hydra's complaint about GROUP=null, a word without a key, or a file; it does not say which.
        words = [word for word in sys.argv[1:] if re.fullmatch(r"=.*|[\w/@]+=(null|~)?", word)]
        if not words:
            raise ConfigError(f"{_unreadable_file()}cannot be read as settings, KEY: VALUE ({error})") from None
        raise ConfigError(f"{' '.join(words)}: a group takes the name of an option ({error})") from None
    finally:
        GlobalHydra.instance().clear()
    if errors:
        raise errors[0]
    return max(codes)


def _unreadable_file() -> str:
    """The user's YAML file that is none, and ": "; empty if all are."""
    folder = get_args_parser().parse_args(sys.argv[1:]).config_dir
    for path in sorted(Path(folder).rglob("*.yaml")) if folder else []:
        try:
            if not isinstance(OmegaConf.load(path), DictConfig):
                return f"{path}: "
        except (ValueError, OSError, YAMLError):
            return f"{path}: "
    return ""


def compose(words: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of a command, from the words one would type after ``python run.py``.

    Raises:
        ConfigError: the words or the values are wrong.
    """
    register_options()
    try:
        with hydra.initialize_config_dir(str(data_folder("conf").resolve()), version_base="1.3"):
            tree = hydra.compose("config", list(words), return_hydra_config=True)
    except HydraException as error:
        raise ConfigError(explain(error)) from None
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from None
    choice = tree.hydra.runtime.choices.get("task", "custom")
    with open_dict(tree):
        del tree["hydra"]
        tree.task.option = choice
    return to_run_config(tree)


def _check_options(words: list[str]) -> None:
    """Refuse an unknown ``--option`` in one line, where Hydra would print its usage."""

    def refuse(message: str) -> NoReturn:
        raise ConfigError(f"{message}; options are -m, --help, --cfg job, --config-dir DIR; settings are KEY=VALUE")

    parser = get_args_parser()
    setattr(parser, "error", refuse)  # noqa: B010
    parser.parse_args(words)


def register_options() -> None:
    """Offer what no file of ``conf/`` holds as options of a group.

    Every file of ``search_spaces/``, and the defaults of the preflight, so that each of its thresholds can be
    overridden.
    """
    store = ConfigStore.instance()
    for path in sorted(data_folder("search_spaces").glob("*.yaml")):
        store.store(
            group="search_spaces",
            name=path.stem,
            node=OmegaConf.load(path),
            package="space",
            provider="search_spaces",
        )
    store.store(group="preflight", name="default", node=preflight_defaults(), package="preflight", provider="schema")


def _typed(tree: DictConfig) -> RunConfig:
    hydra_config = HydraConfig.get()
    if isinstance(tree.get("task"), DictConfig):
        if hydra_config.mode == hydra.types.RunMode.MULTIRUN and tree.sweep.name is None:
            tree.sweep.name = multirun_name(tree.task.name, tree.seed, hydra_config.overrides.task)
        with open_dict(tree):
            tree.task.option = hydra_config.runtime.choices.get("task", "custom")
    return to_run_config(tree)


def multirun_name(task: str, seed: int, overrides: list[str]) -> str:
    """The sweep name of one job of ``-m``: task, seed, and whatever else the words change."""
    own = ("stage=", "task=", "seed=", "sweep.", "runner", "tracking", "dry_run=")
    extra = [word.lstrip("+~") for word in overrides if not word.startswith(own)]
    return re.sub(r"[^A-Za-z0-9._=,+-]", "_", "-".join([f"{task}-seed{seed}", *sorted(extra)]))


def explain(error: HydraException) -> str:
    """One line for what Hydra could not compose, with the known names."""
    text = str(error)
    cause = error.__cause__
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override or "")
    if found := re.search(r"Could not (?:find|load) '([^']+)'", text):
        return _unknown_option(found[1], text)
    if found := re.search(r"Could not override '([^'@]+)", text):
        return (
            _unknown_key(found[1], cause) if isinstance(cause, OmegaConfBaseException) else _unknown_group(found[1])
        )
    if found := re.search(r"Could not delete (?:from config\. )?'([^'=]+)", text):
        return f"~{found[1]}: there is no such setting to remove"
    if found := re.search(r"Could not append to config. An item is already at '([^']+)'", text):
        return f"+{found[1]}: is there already; write it without the +"
    if found := re.search(r"Ambiguous value for argument '(.+)'\n", text):
        return f"{found[1]}: several values need -m (one sweep for each); a list is written KEY=[a,b]"
    if found := re.search(r"Cannot find primary config '([^']+)'", text):
        return f"{found[1]}: no such configuration file"
    return " ".join(text.split())


def _unreadable(word: str) -> str:
    if "=" in word:
        return f"{word}: cannot be read; a value with special characters is quoted twice: 'KEY=\"a, b\"'"
    stages = _options("stage")
    hint = f"stage={word}" if word in stages else f"{word}=VALUE"
    return f"{word}: settings are written KEY=VALUE; did you mean {hint}?"


def _unknown_option(path: str, text: str) -> str:
    """``path`` is GROUP/OPTION, and so may be the option's own name; Hydra's ``text`` may list what is there."""
    groups = _options("")
    group = next((name for name in groups if path.startswith(f"{name}/")), path.partition("/")[0])
    option = path.removeprefix(f"{group}/")
    listed = re.search(r"Available options in '[^']*':\n((?:\t[^\n]+\n?)+)", text)
    known = listed[1].split() if listed else _options(group)
    return f"{group}={option}: no such option; {suggest(option, known)}"


def _unknown_group(name: str) -> str:
    return f"{name}: no such group; {suggest(name, _options(''))}"


def _unknown_key(key: str, cause: OmegaConfBaseException) -> str:
    """``cause`` knows where the walk along ``key`` ended, and what it found there."""
    missing = str(cause.full_key)
    parent, _, name = missing.rpartition(".")
    here = [str(item) for item in cause.parent_node] if isinstance(cause.parent_node, DictConfig) else []
    known = known_keys(RunConfig, parent)
    if missing.split(".")[0] == "stage":
        return f"{missing}: no such setting; settings of a stage are stages.NAME.{name or 'n_trials'}"
    if parent == "stages":
        return f"{missing}: no such stage; {suggest(name, here)}"
    if parent == "model":
        add = f"to add an argument of its model write +{key}=VALUE"
        return f"{missing}: not among the task's defaults; {suggest(name, here)}; {add}"
    if missing.startswith(f"{key}."):
        return f"{missing}: no such setting; {suggest(name, here)}; to add it write +{key}=VALUE"
    if name in known:
        return f"{missing}: not set here (known: {', '.join(here)}); to add it write +{key}=VALUE"
    if not known:
        return f"{missing}: no such setting; {suggest(name, here)}; to add it write +{key}=VALUE"
    return f"{missing}: no such setting; {suggest(name, known)}"


def _options(group: str) -> list[str]:
    """The groups (``group`` empty) or the options of a group that ship with the package."""
    folder: Path = data_folder("conf") / group
    if not group:
        names = [path.name for path in folder.iterdir() if path.is_dir()]
        return sorted([*names, "search_spaces", "preflight"])
    if group == "preflight":
        return ["default"]
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
