"""Whether a task keeps its promises: one small batch through every method that a trial calls, before anything starts.

What is wrong is said in one line: the method and where it is written, what it gave, and what is right. Whether the
data is sound and the training code correct is not asked here: the preflight asks that.
"""

import inspect
import math
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from orchestrator.config.hyperparameters import Hyperparameters
from orchestrator.config.schema import TrainerConfig
from orchestrator.errors import ConfigError, UserCodeError
from orchestrator.importing import one_line, raised_at
from orchestrator.tasks.base import Splits, Task
from orchestrator.training.data import Batch, load, size
from orchestrator.training.scores import as_scores

_FEW = 4
"""Training examples that are tried."""
_SOME = 256
"""Validation examples, spread evenly, that are scored; all of them where these do not suffice (our choice)."""
_PACKAGE = str(Path(__file__).parents[1])


def check_task(task: Task, splits: Callable[[], object], hp: Hyperparameters, trainer: TrainerConfig) -> None:
    """Try everything that a trial with ``hp`` will call.

    Args:
        task: the user's.
        splits: gives its data, as ``task.splits()`` does.
        hp: the first configuration.
        trainer: device and so on.

    Raises:
        ConfigError: a method gives what it should not.
        UserCodeError: a method raises.
    """
    if trainer.device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("trainer.device=cuda: PyTorch sees no GPU here; give trainer.device=auto or cpu")
    cuda = trainer.device != "cpu" and torch.cuda.is_available()
    _Probe(task, hp, torch.device("cuda" if cuda else "cpu")).run(splits)


class _Probe:
    def __init__(self, task: Task, hp: Hyperparameters, device: torch.device) -> None:
        self._task = task
        self._hp = hp
        self._device = device

    def run(self, splits: Callable[[], object]) -> None:
        data = self._splits(self._call("splits", splits))
        inputs, targets = self._batch(data.train, "train", range(min(_FEW, size(data.train))))
        if self._hp.data.augmentation > 0:
            inputs, targets = self._augmented(inputs, targets)
        model = self._model(self._call("model", lambda: self._task.model(**self._hp.model)))
        self._trains(model, inputs, targets)
        self._scores(model, data.validation)

    def _call(self, method: str, function: Callable[[], Any], doing: str = "") -> Any:
        try:
            return function()
        except (ConfigError, UserCodeError):
            raise
        except Exception as error:  # the user's code may raise anything
            what = f" {doing}" if doing else ""
            place = raised_at(error) or _written(self._task, method)
            raise UserCodeError(
                f"{type(self._task).__name__}.{method}(){what} raised {one_line(error)}{place}"
            ) from None

    def _wrong(self, method: str, found: str, right: str) -> ConfigError:
        return ConfigError(f"{type(self._task).__name__}.{method}(){_written(self._task, method)} {found}; {right}")

    def _splits(self, found: object) -> Splits:
        if not isinstance(found, Splits):
            right = "return orchestrator.Splits(train, validation, test)"
            raise self._wrong("splits", f"gives {kind(found)}", right)
        right = "give a torch.utils.data.Dataset with __len__ and __getitem__, TensorDataset(inputs, targets) say"
        for name, part in vars(found).items():
            sized = hasattr(part, "__len__") and hasattr(part, "__getitem__")
            if not sized or isinstance(part, str | Mapping | Tensor):
                raise self._wrong("splits", f"gives {kind(part)} as {name}", right)
            if not self._call("splits", part.__len__, f"gives a {name} split whose length"):
                raise self._wrong("splits", f"gives an empty {name} split", "each split needs examples")
        return found

    def _batch(self, part: Any, name: str, which: Iterable[int]) -> Batch:
        indices = torch.tensor(list(which))
        right = "each item is a pair (input, target) of tensors or numbers, of the same shape in every item"
        first = self._call("splits", lambda: part[0], f"gives a {name} split whose first item")
        if not isinstance(first, tuple | list) or len(first) != 2:
            raise self._wrong("splits", f"has {kind(first)} as the first item of {name}", right)
        try:
            [batch] = load(part, [indices], workers=0)
        except Exception as error:
            if _user_frames(error, self._task):
                raise UserCodeError(
                    f"{type(self._task).__name__}.splits(): reading {name} raised {one_line(error)}{raised_at(error)}"
                ) from None
            raise self._wrong(
                "splits", f"has items in {name} that make no batch ({one_line(error)})", right
            ) from None
        for what, value in zip(("input", "target"), batch, strict=True):
            if not isinstance(value, Tensor):
                item = kind(first[0 if what == "input" else 1])
                raise self._wrong("splits", f"has {item} as {what} of the first item of {name}", right)
        return batch[0].to(self._device), batch[1].to(self._device)

    def _augmented(self, inputs: Tensor, targets: Tensor) -> Batch:
        strength = self._hp.data.augmentation
        found = self._call("augment", lambda: self._task.augment(inputs, targets, strength))
        pair = isinstance(found, tuple | list) and len(found) == 2 and all(isinstance(part, Tensor) for part in found)
        if not pair:
            raise self._wrong("augment", f"gives {kind(found)}", "return the changed (inputs, targets), two tensors")
        if len(found[0]) != len(inputs) or len(found[1]) != len(inputs):
            sizes = f"{len(found[0])} inputs and {len(found[1])} targets of {len(inputs)}"
            raise self._wrong("augment", f"gives {sizes}", "return as many as it was given")
        return found[0], found[1]

    def _model(self, model: object) -> nn.Module:
        if isinstance(model, type):
            raise self._wrong("model", f"gives the class {model.__name__}", "return an instance of it")
        if not isinstance(model, nn.Module):
            raise self._wrong("model", f"gives {kind(model)}", "return a torch.nn.Module")
        parameters = list(model.parameters())
        if not parameters:
            raise self._wrong("model", f"gives {kind(model)} without parameters", "there is nothing to train")
        if any(is_lazy(parameter) for parameter in parameters):
            raise self._wrong("model", "has lazy layers, whose sizes are not known yet", "give their sizes")
        if not any(parameter.requires_grad for parameter in parameters):
            raise self._wrong("model", "has no parameter with requires_grad", "there is nothing to train")
        self._call("model", lambda: model.to(self._device), f"gives a model whose move to {self._device}")
        return model

    def _outputs(self, model: nn.Module, inputs: Tensor) -> Tensor:
        shape = tuple(inputs.shape)
        outputs = self._call("model", lambda: model(inputs), f"gives a network that, given inputs of shape {shape},")
        right = "model(inputs) gives a tensor whose first axis is the examples"
        if not isinstance(outputs, Tensor):
            raise self._wrong("model", f"gives a network whose output is {kind(outputs)}", right)
        if outputs.ndim == 0 or len(outputs) != len(inputs):
            found = f"gives a network whose output has shape {tuple(outputs.shape)} for {len(inputs)} examples"
            raise self._wrong("model", found, right)
        return outputs

    def _trains(self, model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
        # Batch norm cannot train on one example.
        outputs = self._outputs(model.train(len(inputs) > 1), inputs)
        shapes = f"given outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
        smoothing = self._hp.loss.label_smoothing
        loss = self._call("loss", lambda: self._task.loss(outputs, targets, smoothing), shapes)
        right = "return one number as a tensor: the mean over the batch"
        if not isinstance(loss, Tensor):
            raise self._wrong("loss", f"gives {kind(loss)}", right)
        if loss.numel() != 1:
            raise self._wrong("loss", f"gives {kind(loss)}", right)
        if not loss.is_floating_point():
            raise self._wrong("loss", f"gives {kind(loss)} of {loss.dtype}", right)
        if not loss.requires_grad:
            right = "compute it from the outputs with PyTorch, without detach, item, numpy or argmax"
            raise self._wrong("loss", "has no gradient", right)
        self._call("loss", lambda: torch.autograd.backward(loss.sum()), "gives a loss whose gradient")

    def _scores(self, model: nn.Module, validation: Any) -> None:
        total = size(validation)
        few = torch.linspace(0, total - 1, min(total, _SOME)).long().tolist()
        try:
            self._scored(model, validation, few)
        except (ConfigError, UserCodeError):
            # A few examples may lack a class.
            if len(few) == total:
                raise
            self._scored(model, validation, range(total))

    @torch.inference_mode()
    def _scored(self, model: nn.Module, validation: Any, which: Sequence[int]) -> None:
        model.eval()
        predicted, known = [], []
        for start in range(0, len(which), _SOME):
            inputs, targets = self._batch(validation, "validation", which[start : start + _SOME])
            predicted.append(self._predictions(self._outputs(model, inputs)).cpu())
            known.append(targets.cpu())
        predictions, targets = torch.cat(predicted), torch.cat(known)
        shapes = f"given predictions of shape {tuple(predictions.shape)} and targets of shape {tuple(targets.shape)}"
        found = self._call("score", lambda: self._task.score(predictions, targets), shapes)
        scores = as_scores(self._task, found)
        for name, value in scores.items():
            # Diverged from the start is for the trial to say; a score that makes NaN of numbers is wrong.
            if math.isnan(value) and bool(torch.isfinite(predictions).all()):
                found = f"gives {name}=nan for the {len(targets)} validation examples, of finite predictions"
                raise self._wrong("score", found, "every score is a finite number")

    def _predictions(self, outputs: Tensor) -> Tensor:
        found = self._call("predictions", lambda: self._task.predictions(outputs.float()), f"given {kind(outputs)}")
        right = "return a float64 tensor whose first axis is the examples"
        if not isinstance(found, Tensor) or not found.is_floating_point():
            more = f" of {found.dtype}" if isinstance(found, Tensor) else ""
            raise self._wrong("predictions", f"gives {kind(found)}{more}", right)
        if found.ndim == 0 or len(found) != len(outputs):
            raise self._wrong("predictions", f"gives {kind(found)} for {len(outputs)} examples", right)
        return found


def kind(value: object) -> str:
    """What a value is, in words."""
    if value is None:
        return "None"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def _user_frames(error: BaseException, task: Task) -> bool:
    source = inspect.getsourcefile(type(task))
    return any(frame.filename == source for frame in traceback.extract_tb(error.__traceback__))


def _written(task: Task, method: str) -> str:
    """Where the user wrote a method; empty for an inherited one of ours."""
    function = getattr(type(task), method)
    try:
        path, line = inspect.getsourcefile(function), inspect.getsourcelines(function)[1]
    except (OSError, TypeError):
        return ""
    return "" if path is None or path.startswith(_PACKAGE) else f" ({Path(path).name}:{line})"
