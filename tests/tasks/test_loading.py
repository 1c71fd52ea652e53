from typing import Any

import pytest
import user_tasks

from orchestrator.config.schema import TaskConfig
from orchestrator.errors import ConfigError
from orchestrator.tasks.digits import DigitsMLP
from orchestrator.tasks.loading import load_once, load_task, model_defaults


def config(target: str, **args: Any) -> TaskConfig:
    return TaskConfig(name="mine", target=target, args=args)


def test_a_task_is_built_from_its_import_path_and_arguments() -> None:
    task = load_task(config("orchestrator.tasks.digits.DigitsMLP", split_seed=4))
    assert type(task) is DigitsMLP
    assert task.split_seed == 4


@pytest.mark.parametrize(
    ("target", "args", "says"),
    [
        ("no_such_module.Task", {}, "cannot be imported: No module named 'no_such_module'"),
        ("orchestrator.tasks.digits.DigitMLP", {}, "cannot be imported: .*no attribute 'DigitMLP'"),
        ("not an import path", {}, "cannot be imported"),
        ("", {}, "cannot be imported"),
        ("user_tasks.CONSTANT", {}, "is a int, not a class or function"),
        ("user_tasks.NotATask", {}, "gives a NotATask, not an orchestrator.Task"),
        ("user_tasks.UnknownObjective", {}, "objective=acuracy .*did you mean accuracy"),
        ("orchestrator.tasks.digits.DigitsMLP", {"sed": 1}, "unexpected keyword argument 'sed'"),
        ("orchestrator.tasks.base.ClassificationTask", {}, "abstract class ClassificationTask"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(target: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        load_task(config(target, **args))
    text = str(caught.value)
    assert text.startswith(f"task._target_={target}: ")
    assert "\n" not in text
    assert caught.value.exit_code == 2


def test_the_defaults_of_a_model_are_those_of_its_method() -> None:
    task = DigitsMLP()
    assert model_defaults(task, {}) == {"width": 64, "depth": 2, "dropout": 0.0}
    assert model_defaults(task, {"depth": 3}) == {"width": 64, "depth": 3, "dropout": 0.0}


def test_an_argument_the_model_does_not_take_is_named() -> None:
    with pytest.raises(
        ConfigError, match=r"model\.widht: DigitsMLP\.model takes no such argument; did you mean width"
    ):
        model_defaults(DigitsMLP(), {"widht": 3})


def test_an_argument_the_model_needs_is_named() -> None:
    with pytest.raises(ConfigError, match=r"model\.heads: Needy\.model needs it; give \+model\.heads=VALUE"):
        model_defaults(user_tasks.Needy(), {})
    assert model_defaults(user_tasks.Needy(), {"heads": 2}) == {"heads": 2, "width": 8}


def test_a_model_that_takes_anything_is_given_anything() -> None:
    assert model_defaults(user_tasks.OpenEnded(), {"anything": 1}) == {"width": 8, "anything": 1}


def test_a_worker_builds_a_task_once() -> None:
    before = user_tasks.Counted.built
    first = load_once(config("user_tasks.Counted"))
    assert load_once(config("user_tasks.Counted")) is first
    assert user_tasks.Counted.built == before + 1
    assert load_once(config("user_tasks.Counted", split_seed=1)) is not first
