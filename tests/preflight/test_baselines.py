"""Classical models: scored as a network would be, whatever the form of the task."""

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from data_faults import Categories, EasyBlobs, Slope, changed
from preflight_tasks import HEALTHY, Blobs, Counting, Labels, Line, Pairs, run
from torch import Tensor
from torch.nn import functional

from orchestrator.preflight.report import Severity
from orchestrator.preflight.subject import Subject
from orchestrator.tasks.base import Task
from orchestrator.tasks.tabular import BreastCancer, Diabetes


def table(task: Task) -> dict[str, Mapping[str, float]]:
    subject = Subject(task)
    assert run("baselines", subject).severity in (Severity.PASS, Severity.INFO)
    return {baseline.name: baseline.scores for baseline in subject.baselines}


@pytest.mark.parametrize("kind", [*HEALTHY, Slope, EasyBlobs, Categories, BreastCancer, Diabetes])
def test_healthy_tasks_pass_or_are_skipped(kind: type[Task]) -> None:
    assert run("baselines", kind()).severity in (Severity.PASS, Severity.SKIPPED)


def test_the_constant_scores_what_arithmetic_says() -> None:
    task = Blobs()
    train, validation = (getattr(task.splits(), name).tensors[1] for name in ("train", "validation"))
    shares = torch.bincount(train, minlength=3).double() / len(train)
    scores = table(task)["base rates"]
    assert scores["loss"] == pytest.approx(float(-shares[validation].log().mean()), rel=1e-5)
    assert scores["accuracy"] == pytest.approx(float((validation == shares.argmax()).double().mean()))


def test_models_find_linear_and_bent_signals() -> None:
    easy = table(EasyBlobs())
    assert easy["logistic regression"]["accuracy"] > 0.95
    assert easy["boosted trees"]["accuracy"] > 0.95
    slope = table(Slope())
    assert slope["mean"]["r2"] == pytest.approx(0, abs=0.05)
    assert slope["ridge"]["r2"] > 0.8


def test_several_labels_and_several_values() -> None:
    labels = table(Labels())
    assert labels["logistic regression"]["loss"] < 0.5 * labels["base rates"]["loss"]
    values = table(Line())
    assert values["ridge"]["loss"] < 0.5 * values["mean"]["loss"]


def test_a_language_model_is_compared_with_its_bigrams() -> None:
    scores = table(Counting())
    assert scores["base rates"]["loss"] == pytest.approx(np.log(12), rel=0.02)
    assert scores["token at the position"]["loss"] == pytest.approx(np.log(2), rel=0.1)
    assert "ridge" not in scores


def test_without_a_signal_it_is_noted_and_a_mixing_loss_is_skipped() -> None:
    def shuffled(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x, y[torch.randperm(len(y), generator=torch.Generator().manual_seed(len(name)))]

    assert run("baselines", changed(Blobs, shuffled)).severity is Severity.INFO
    assert run("baselines", Pairs()).severity is Severity.SKIPPED


def test_predictions_are_scored_in_the_unit_of_the_targets() -> None:
    class Inside(Slope):
        def loss(self, outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
            return functional.mse_loss(outputs, (targets - 500) / 80)

        def predictions(self, outputs: Tensor) -> Tensor:
            return outputs.double() * 80 + 500

    scores = table(changed(Inside, lambda n, x, y: (x, 500 + 80 * y)))
    assert scores["ridge"]["r2"] > 0.8
    assert scores["ridge"]["loss"] == pytest.approx(6400 * table(Slope())["ridge"]["loss"], rel=1e-3)


def test_the_given_ceiling_stands_in_the_table() -> None:
    class Annotated(EasyBlobs):
        def ceiling(self) -> Mapping[str, float]:
            return {"accuracy": 0.97}

    assert table(Annotated())["ceiling (given)"] == {"accuracy": 0.97}
