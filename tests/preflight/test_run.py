"""The table of checks, what a run does around them, the report, and that nothing is changed by any check."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from preflight_tasks import HEALTHY, Blobs, BlobsWithNorm, Counting, Labels, Line, Pairs, with_loss
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

import orchestrator
from orchestrator.config.preflight import CheckSettings
from orchestrator.errors import ConfigError
from orchestrator.preflight.forms import Encoding, Kind
from orchestrator.preflight.registry import GATE, GROUPS, Check, check, checks, overview
from orchestrator.preflight.report import Baseline, Finding, Report, Severity, passed, skipped
from orchestrator.preflight.run import run_check
from orchestrator.preflight.state import random_state
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task

TABLE = checks()
NAMES = [row.name for row in TABLE]


def test_the_table_is_complete_and_in_order() -> None:
    assert TABLE[0].name == GATE
    assert len(set(NAMES)) == len(NAMES) > 40
    positions = [GROUPS.index(row.group) for row in TABLE[1:]]
    assert positions == sorted(positions)
    for row in TABLE:
        assert row.title
        assert row.source
    lines = overview().splitlines()
    assert [line.split()[1] for line in lines] == NAMES


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="two checks are called init_loss"):

        @check(name="init_loss", group="code", title="another", source="here")
        def another(subject: Subject, settings: CheckSettings) -> Finding:
            return passed("never run")


# What a check could disturb, as bytes.


def fingerprint(subject: Subject) -> list[bytes]:
    def data(value: Any) -> Iterator[bytes]:
        if isinstance(value, Tensor):
            yield value.detach().cpu().contiguous().numpy().tobytes()
        elif isinstance(value, np.ndarray):
            yield value.tobytes()
        elif isinstance(value, dict):
            for key in value:
                yield str(key).encode()
                yield from data(value[key])
        elif isinstance(value, list | tuple):
            for item in value:
                yield from data(item)
        else:
            yield repr(value).encode()

    model, optimizer = subject.model, subject.optimizer
    order = subject.procedure.training_order(subject.train_size(), 0)
    modes = [module.training for module in model.modules()]
    trainable = [p.requires_grad for p in model.parameters()]
    gradients = [p.grad for p in model.parameters()]
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    splits = [part.tensors for part in (subject.splits.train, subject.splits.validation, subject.splits.test)]
    switches = (torch.is_grad_enabled(), torch.get_default_dtype(), torch.get_num_threads())
    everything = (
        random_state(), list(model.named_parameters()), list(model.named_buffers()), gradients, modes, trainable,
        hooks, optimizer.state_dict(), order, splits, switches, vars(subject.task),
    )  # fmt: skip
    return list(data(everything))


@pytest.fixture(scope="module", params=[BlobsWithNorm, Line, Counting, Pairs], ids=lambda kind: kind.__name__)
def used_subject(request: pytest.FixtureRequest) -> Subject:
    """A subject whose model and optimizer have been in use, so that there is state to lose."""
    subject = Subject(request.param())
    model = subject.model.train()
    inputs, targets = subject.train_examples(16)
    for _ in range(2):
        subject.procedure.step(model, subject.optimizer, inputs, targets)
    model.eval()
    next(model.parameters()).requires_grad_(False)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    return subject


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_everything_is_bit_identical_after_every_check(used_subject: Subject, row: Check) -> None:
    before = fingerprint(used_subject)
    run_check(row, used_subject, CheckSettings())
    assert fingerprint(used_subject) == before


def test_everything_is_bit_identical_after_a_check_that_crashes_and_meddles() -> None:
    subject = Subject(BlobsWithNorm())
    before = fingerprint(subject)

    def meddle(subject: Subject, settings: CheckSettings) -> Finding:
        inputs, targets = subject.train_examples(32)
        subject.procedure.step(subject.model.train(), subject.optimizer, inputs, targets)
        subject.model.eval().requires_grad_(False)
        inputs.zero_()
        torch.manual_seed(1)
        random.random()
        np.random.rand()
        torch.set_grad_enabled(False)
        raise RuntimeError("no luck\nsecond line")

    (finding,) = run_check(Check("meddle", "code", "t", "s", (), meddle), subject, CheckSettings())
    assert fingerprint(subject) == before
    assert finding.severity is Severity.WARN
    assert finding.statistic == "could not be decided: RuntimeError: no luck"


# The runner.


@pytest.fixture(scope="module")
def report() -> Report:
    calls: list[tuple[str, int, int]] = []
    found = orchestrator.run_preflight(
        Line(), skip=["capacity"], progress=lambda name, done, total: calls.append((name, done, total))
    )
    assert [name for name, _, _ in calls] == NAMES
    assert [done for _, done, _ in calls] == list(range(len(NAMES)))
    assert {total for _, _, total in calls} == {len(NAMES)}
    return found


def test_a_healthy_task_has_no_fail(report: Report) -> None:
    assert report.failed == ()
    assert report.task == "Line"
    assert {finding.check for finding in report.findings} == set(NAMES)
    (left_out,) = [finding for finding in report.findings if finding.check == "capacity"]
    assert left_out.severity is Severity.SKIPPED
    assert "preflight.skip" in left_out.statistic


def test_the_report_as_json(report: Report) -> None:
    plain = json.loads(report.to_json())
    assert plain["task"] == "Line"
    assert plain["worst"] == str(report.worst)
    assert len(plain["findings"]) == len(report.findings)


def test_the_report_as_text() -> None:
    findings = (
        Finding(Severity.PASS, "fine", check="a"),
        Finding(Severity.WARN, "x is 3", "at most 2", "It is large.", ("this", "that"), "lower it", check="b"),
        Finding(Severity.FAIL, "y is 0", "above 0", check="c"),
    )
    made = Report("Mine", findings, (Baseline("mean", {"loss": 1.0}, 0.1),), (Path("a.png"),), 1.25)
    assert made.worst is Severity.FAIL
    assert made.text().splitlines() == [
        "FAIL c: y is 0 (expected above 0)",
        "WARN b: x is 3 (expected at most 2)",
        "  It is large.",
        "  likely: this; that",
        "  do: lower it",
        "baseline mean: loss 1",
        "preflight of Mine: 1 fail, 1 warn, 1 pass (1.2 s)",
    ]
    endless = Report("Mine", (Finding(Severity.FAIL, "s", values={"x": float("nan")}, check="d"),))
    assert json.loads(endless.to_json())["findings"][0]["values"] == {"x": "nan"}


def test_a_misspelt_name_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"preflight\.skip: there is no check inti_loss.*init_loss"):
        orchestrator.run_preflight(Line(), skip=["inti_loss"])


def test_a_task_that_does_not_run_is_one_fail() -> None:
    class Wrong(Line):
        def model(self, **hyperparameters: Any) -> nn.Module:
            return nn.Linear(7, 2)

    found = orchestrator.run_preflight(Wrong())
    (gate,) = [finding for finding in found.failed if finding.check == GATE]
    assert "forward pass" in gate.statistic
    later = {f.check: f for f in found.findings if f.check != GATE}
    assert later["init_loss"].severity is Severity.SKIPPED
    assert GATE in later["init_loss"].statistic
    assert later["finite_data"].severity is Severity.PASS


def test_a_task_without_data_skips_everything_else() -> None:
    class Empty(Line):
        def splits(self) -> Any:
            raise FileNotFoundError("no such file: data.csv")

    found = orchestrator.run_preflight(Empty())
    assert [f.check for f in found.failed] == [GATE]
    assert "splits() raised FileNotFoundError: no such file: data.csv" in found.failed[0].statistic
    assert {f.severity for f in found.findings if f.check != GATE} == {Severity.SKIPPED}


GATE_FAULTS = {
    "loss not scalar": with_loss(Blobs, lambda o, y: nn.functional.cross_entropy(o, y, reduction="none")),
    "loss without gradient": with_loss(Blobs, lambda o, y: torch.tensor(1.0)),
    "first loss infinite": with_loss(Blobs, lambda o, y: nn.functional.cross_entropy(o, y) * float("inf")),
}


@pytest.mark.parametrize("name", GATE_FAULTS)
def test_the_gate_names_what_is_wrong(name: str) -> None:
    (finding,) = run_check(TABLE[0], Subject(GATE_FAULTS[name]), CheckSettings())
    assert finding.severity is Severity.FAIL


def test_a_check_that_does_not_apply_says_why() -> None:
    row = Check(
        "never", "code", "t", "s", (lambda subject: None, lambda subject: "it is Tuesday"), lambda s, t: passed("")
    )
    assert run_check(row, Subject(Line()), CheckSettings()) == [skipped("it is Tuesday")]


# The subject.


@pytest.mark.parametrize(
    ("kind", "wanted", "encoding"),
    [
        (Blobs, Kind.CLASSES, Encoding.LOGITS),
        (Counting, Kind.CLASSES, Encoding.LOGITS),
        (Labels, Kind.BINARY, Encoding.LOGITS),
        (Line, Kind.VALUES, Encoding.VALUES),
    ],
)
def test_the_form_is_inferred(kind: type[Task], wanted: Kind, encoding: Encoding) -> None:
    form = Subject(kind()).form
    assert (form.kind, form.encoding) == (wanted, encoding)
    if kind is Counting:
        assert (form.axis, form.classes) == (2, 12)


def test_a_loss_on_probabilities_is_recognised() -> None:
    def likelihood(outputs: Tensor, targets: Tensor) -> Tensor:
        return -outputs.gather(1, targets[:, None]).clamp_min(1e-12).log().mean()

    class Probabilities(Blobs):
        def model(self, **hyperparameters: Any) -> nn.Module:
            return nn.Sequential(super().model(), nn.Softmax(dim=-1))

        def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
            return likelihood(outputs, targets)

    assert Subject(Probabilities()).form.encoding is Encoding.PROBABILITIES
    assert Subject(Pairs()).form.kind is Kind.OTHER


def test_examples_are_the_same_at_every_call_and_safe_to_change() -> None:
    subject = Subject(Blobs())
    first = subject.train_examples(20)
    first[0].zero_()
    again, more = subject.train_examples(20), subject.train_examples(50)
    assert not torch.equal(again[0], first[0])
    assert torch.equal(again[0], more[0][:20])
    assert len(subject.train_examples(10_000)[0]) == 300
    assert len(torch.unique(subject.train_examples(300)[0], dim=0)) == 300


class Rows(Dataset[Any]):
    """The same examples, one by one."""

    def __init__(self, base: TensorDataset) -> None:
        self.base = base

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: int) -> Any:
        return self.base[index]


def test_any_data_set_will_do() -> None:
    class Itemwise(Blobs):
        def splits(self) -> Any:
            splits = super().splits()
            return orchestrator.Splits(Rows(splits.train), Rows(splits.validation), Rows(splits.test))

    found = orchestrator.run_preflight(Itemwise())
    assert found.failed == ()
    one, other = Subject(Itemwise()).train_examples(8), Subject(Blobs()).train_examples(8)
    assert torch.equal(one[0], other[0])


def test_networks_depend_on_the_seed_only() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = Subject(Blobs(), seed=1).new_model()
    assert torch.equal(torch.get_rng_state(), before)
    same, other = Subject(Blobs(), seed=1).new_model(), Subject(Blobs(), seed=2).new_model()
    assert torch.equal(one[0].weight, same[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)


@pytest.mark.parametrize("kind", HEALTHY)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_fail_on_healthy_tasks(kind: type[Task], seed: int) -> None:
    found = orchestrator.run_preflight(kind(), seed=seed)
    assert found.failed == (), found.text()
