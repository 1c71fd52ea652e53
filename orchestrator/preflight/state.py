"""Snapshots of everything a check might disturb, restored bit for bit afterwards."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn, optim


def random_state() -> tuple[Any, ...]:
    """The state of Python's, NumPy's and PyTorch's global generators (all devices)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), cuda


def set_random_state(state: tuple[Any, ...]) -> None:
    """Undo whatever happened since :func:`random_state`."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])
    if state[3]:
        torch.cuda.set_rng_state_all(state[3])


@contextmanager
def untouched_globals() -> Iterator[None]:
    """Generators, thread count, autograd and determinism switches are as before when the block ends."""
    state, threads = random_state(), torch.get_num_threads()
    grad, kind = torch.is_grad_enabled(), torch.get_default_dtype()
    try:
        yield
    finally:
        set_random_state(state)
        torch.set_grad_enabled(grad)
        if torch.get_default_dtype() != kind:
            torch.set_default_dtype(kind)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def model_state(model: nn.Module) -> tuple[Any, ...]:
    """Copies of parameters, buffers and gradients; training flags; which parameters are trainable."""
    tensors = {name: tensor.detach().clone() for name, tensor in _tensors(model)}
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    flags = {name: module.training for name, module in model.named_modules()}
    trainable = {name: p.requires_grad for name, p in model.named_parameters()}
    return tensors, gradients, flags, trainable


def set_model_state(model: nn.Module, state: tuple[Any, ...]) -> None:
    """Undo whatever happened to ``model`` since :func:`model_state`."""
    tensors, gradients, flags, trainable = state
    with torch.no_grad():
        for name, tensor in _tensors(model):
            tensor.copy_(tensors[name])
    for name, parameter in model.named_parameters():
        parameter.grad = gradients[name]
        parameter.requires_grad_(trainable[name])
    for name, module in model.named_modules():
        module.training = flags[name]


@contextmanager
def untouched_model(model: nn.Module, optimizer: optim.Optimizer | None = None) -> Iterator[None]:
    """``model`` and the state of ``optimizer`` are as before when the block ends."""
    before = model_state(model)
    steps = None if optimizer is None else _copied(optimizer.state_dict())
    try:
        yield
    finally:
        set_model_state(model, before)
        if optimizer is not None and steps is not None:
            optimizer.load_state_dict(steps)


def _tensors(model: nn.Module) -> list[tuple[str, torch.Tensor]]:
    # Buffers that are not persistent are not in the state dictionary.
    return [*model.named_parameters(), *model.named_buffers()]


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
