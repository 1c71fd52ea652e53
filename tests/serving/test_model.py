"""A model to ship, without a sweep: written, loaded, exported, and refused where it does not fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from orchestrator.errors import ConfigError, StorageError
from orchestrator.serving.combine import Form, combine
from orchestrator.serving.model import Description, Member, Model, Network
from orchestrator.serving.package import EXPORTED, MODEL, Parts, export, version_in, write_package
from orchestrator.tasks.base import Interface, Task
from orchestrator.tasks.digits import DigitsCNN
from orchestrator.tasks.tabular import Diabetes

SHARES = [0.75, 0.25]


def made(task: Task, shares: list[float], temperature: float | None = None, form: Form = "values") -> tuple[Any, ...]:
    """A description and parts, of networks with random weights."""
    interface = task.interface()
    assert interface is not None
    members = [
        Member(origin=f"trial {n}", share=share, weights=f"{n}.pt", model={"width": 4 + n}, configuration={})
        for n, share in enumerate(shares)
    ]
    torch.manual_seed(0)
    networks = [task.model(**member.model).eval() for member in members]
    description = Description(
        name="ensemble", version="1", sweep="s", task=f"{type(task).__module__}.{type(task).__qualname__}", args={},
        members=members, shape=list(interface.example.shape[1:]), dtype="float64",
        output_shape=[len(interface.outputs)], columns=interface.columns, outputs=interface.outputs,
        parameters=1, megabytes=1.0, ms_per_example=1.0,
        temperature=temperature, form=form,
    )  # fmt: skip
    return description, Parts(task, networks, interface.statistics, interface.example), interface


def expected(task: Task, parts: Parts, interface: Interface, raw: Tensor, temperature: float | None) -> Tensor:
    with torch.inference_mode():
        inputs = task.prepare(raw, interface.statistics)
        each = [task.predictions(network(inputs)) for network in parts.networks]
    average = sum(share * values for share, values in zip(SHARES, each, strict=True))
    assert isinstance(average, Tensor)
    if temperature is not None:
        average = (average.log() / temperature).softmax(dim=1)
    return task.restore(average, interface.statistics)


@pytest.mark.parametrize(
    ("task", "temperature", "form"), [(DigitsCNN(), 1.7, "classes"), (Diabetes(), None, "values")]
)
def test_a_loaded_model_predicts_what_its_members_do(
    task: Task, temperature: float | None, form: Form, tmp_path: Path
) -> None:
    description, parts, interface = made(task, SHARES, temperature, form)
    write_package(tmp_path / "ensemble", description, parts)
    model = Model.load(tmp_path / "ensemble" / MODEL)
    raw = interface.example.repeat(300, *[1] * (interface.example.dim() - 1))
    found = model.predict(raw.numpy())
    wanted = expected(task, parts, interface, raw, temperature)
    assert found.dtype == np.float64
    assert torch.allclose(torch.as_tensor(found), wanted, rtol=1e-6)
    assert model.predict(raw[:0].numpy()).shape == (0, wanted.shape[1])
    # Whole numbers are taken for what they are.
    whole = raw.round().long()
    assert np.array_equal(model.predict(whole.numpy()), model.predict(whole.double().numpy()))


def test_an_exported_program_gives_the_same_for_any_number_of_examples(tmp_path: Path) -> None:
    description, parts, interface = made(DigitsCNN(), [1.0])
    assert export(tmp_path, description, parts) is None
    program = torch.export.load(tmp_path / EXPORTED).module()
    network = Network(parts.task, [(parts.networks[0], 1.0)], parts.statistics)
    raw = interface.example.repeat(3, 1, 1)
    for count in (1, 2, 7, 15):
        with torch.inference_mode():
            assert torch.allclose(program(raw[:count]), network(raw[:count]), rtol=1e-5)


class Branching(nn.Module):
    """What it computes depends on the values of its inputs: no program for all of them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.inner(inputs)
        return -outputs if float(outputs.sum()) > 0 else outputs


def test_a_network_that_cannot_be_exported_leaves_a_reason_in_one_line(tmp_path: Path) -> None:
    description, parts, _ = made(DigitsCNN(), [1.0])
    why = export(tmp_path, description, replace(parts, networks=[Branching(parts.networks[0])]))
    assert why is not None
    assert len(why.splitlines()) == 1
    assert not (tmp_path / EXPORTED).exists()


def test_a_package_takes_the_place_of_another_whole(tmp_path: Path) -> None:
    description, parts, _ = made(Diabetes(), [1.0])
    folder = tmp_path / "models" / "winner"
    assert version_in(folder) is None
    write_package(folder, description, parts)
    (folder / EXPORTED).write_text("of the old one")
    write_package(folder, replace(description, version="2"), parts)
    assert version_in(folder) == "2"
    assert not (folder / EXPORTED).exists()
    assert [path.name for path in folder.parent.iterdir()] == ["winner"]
    assert "torch==" in (folder / "requirements.txt").read_text()
    assert (folder / "code/orchestrator/tasks/tabular.py").exists()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (np.zeros((3, 9)), r"inputs have shape \(3, 9\); the ensemble takes \(examples, 10\)"),
        (np.zeros(10), r"inputs have shape \(10,\); the ensemble takes \(examples, 10\)"),
        (np.array(1.0), r"inputs have shape \(\)"),
        (np.full((1, 10), "a"), "inputs are <U1; the ensemble takes float64"),
    ],
)
def test_inputs_that_do_not_fit_are_named(inputs: np.ndarray, said: str, tmp_path: Path) -> None:
    description, parts, _ = made(Diabetes(), [1.0])
    write_package(tmp_path / "winner", description, parts)
    with pytest.raises(ConfigError, match=said):
        Model.load(tmp_path / "winner" / MODEL).predict(inputs)


def test_a_damaged_model_is_named(tmp_path: Path) -> None:
    description, parts, _ = made(Diabetes(), [1.0])
    write_package(tmp_path / "winner", description, parts)
    (tmp_path / "winner" / MODEL / "0.pt").write_bytes(b"half")
    with pytest.raises(StorageError, match=r"0\.pt: is damaged"):
        Model.load(tmp_path / "winner" / MODEL)
    (tmp_path / "winner" / MODEL / "model.json").write_text("{}")
    with pytest.raises(StorageError, match=r"model\.json: is no description of a model"):
        Model.load(tmp_path / "winner" / MODEL)


def test_shares_and_temperature_make_one_prediction_of_several() -> None:
    parts = [torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])]
    assert torch.allclose(combine(parts, [0.5, 0.5], None, "classes"), torch.tensor([[0.7, 0.3]]).double())
    sharper = combine(parts, [0.5, 0.5], 0.5, "classes")
    assert torch.allclose(sharper, torch.tensor([[0.49, 0.09]]).double() / 0.58)
