"""One trial on several ranks: the same training as on one, and a clean end whatever becomes of a rank."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from ranked_task import arguments, rank_processes

from orchestrator.config.hyperparameters import DataConfig, Hyperparameters, OptimizerConfig
from orchestrator.config.schema import RunnerConfig, TaskConfig, TrainerConfig
from orchestrator.errors import InfeasibleTrialError
from orchestrator.runners.local import LocalRunner
from orchestrator.training import checkpoint
from orchestrator.training.parallel import Rank
from orchestrator.trial import TrainingProgram
from orchestrator.types import Decision, End, EpochResult, Outcome, Reason, TrialSpec

pytestmark = pytest.mark.timeout(240)

EPOCHS = 4


def program(ranks: int, task: dict[str, Any] | None = None, **trainer: Any) -> TrainingProgram:
    config = TaskConfig(name="ranked", target="ranked_task.Ranked", args=task or {})
    settings = TrainerConfig(epochs=EPOCHS, device="cpu", workers=ranks, checkpoint_epochs=1, **trainer)
    return TrainingProgram(config, settings, threads=1)


def spec(folder: Path, *, norm: bool = True, name: str = "sgd", seed: int = 5) -> TrialSpec:
    optimizer = OptimizerConfig(name=name, lr=0.05, clip_norm=1.0, ema_decay=0.9)
    found = Hyperparameters(optimizer=optimizer, data=DataConfig(batch_size=16), model={"width": 8, "norm": norm})
    return TrialSpec(0, "lr", found.flat(), seed=seed, epochs=EPOCHS, directory=folder)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(folder)
    found = {name: tensor for name, tensor in state["model"].items() if tensor.is_floating_point()}
    return {**found, **{f"average {name}": tensor.double() for name, tensor in state["average"].items()}}


def close(here: Path, there: Path) -> bool:
    one, other = weights(here), weights(there)
    assert one.keys() == other.keys()
    return all(torch.allclose(one[name], other[name], atol=1e-6, rtol=0) for name in one)


def values(results: Sequence[EpochResult]) -> list[float]:
    return [number for result in results for name, number in sorted(result.metrics.items()) if name != "seconds"]


@pytest.mark.parametrize("norm", [False, True])
def test_ranks_train_what_one_trains(norm: bool, tmp_path: Path) -> None:
    """Two shares of every batch, the last one with an example each; batch norm over both."""
    alone = list(program(1)(spec(tmp_path / "alone", norm=norm)))
    both = list(program(2)(spec(tmp_path / "both", norm=norm)))
    assert values(both) == pytest.approx(values(alone), abs=1e-5)
    assert close(tmp_path / "alone", tmp_path / "both")
    # Every example of the validation split, once.
    assert [result.metrics["val/examples"] for result in both] == [21] * EPOCHS


def test_ranks_learn_from_a_teacher_what_one_learns(tmp_path: Path) -> None:
    """Each rank finds the teacher's predictions of its own share of a batch."""
    chances = np.random.default_rng(0).dirichlet([1.0, 1.0, 1.0], 50).astype("float32")
    np.save(tmp_path / "teacher.npy", chances)
    taught = {"distill.temperature": 2.0, "distill.weight": 0.9}
    found = {}
    for ranks in (1, 2):
        plain = spec(tmp_path / str(ranks))
        own = replace(plain, configuration={**plain.configuration, **taught})
        found[ranks] = values(list(program(ranks, teacher=str(tmp_path / "teacher.npy"))(own)))
    assert found[2] == pytest.approx(found[1], abs=1e-5)
    assert close(tmp_path / "1", tmp_path / "2")
    assert found[1] != pytest.approx(values(list(program(1)(spec(tmp_path / "untaught")))), abs=1e-3)


def test_a_stopped_trial_goes_on_on_other_numbers_of_ranks(tmp_path: Path) -> None:
    list(program(1)(spec(tmp_path / "alone")))
    begun: Iterator[EpochResult] = program(2)(spec(tmp_path / "both"))
    assert [next(begun).epoch for _ in range(2)] == [1, 2]
    begun.close()  # type: ignore[attr-defined]
    assert [result.epoch for result in program(2)(spec(tmp_path / "both"))] == [2, 3, 4]
    assert close(tmp_path / "alone", tmp_path / "both")


@pytest.mark.parametrize(
    ("how", "reason", "said"),
    [
        ("nan", Reason.NON_FINITE, "training loss nan in epoch 1, step 0"),
        ("raises", Reason.USER_ERROR, "ValueError: broken on purpose"),
    ],
)
def test_what_ends_a_rank_ends_the_trial(how: str, reason: Reason, said: str, tmp_path: Path) -> None:
    trial = program(2, arguments(tmp_path, how))(spec(tmp_path / "trial"))
    with pytest.raises(InfeasibleTrialError) as caught:
        list(trial)
    assert caught.value.reason is reason
    assert caught.value.detail.startswith(said)
    # The next trial finds its ranks, new ones if it must.
    assert [result.epoch for result in program(2)(spec(tmp_path / "next"))] == [1, 2, 3, 4]


def test_three_ranks_share_a_last_batch_of_two(tmp_path: Path) -> None:
    list(program(1)(spec(tmp_path / "alone")))
    list(program(3)(spec(tmp_path / "three")))
    assert close(tmp_path / "alone", tmp_path / "three")


@dataclass
class Again:
    """A controller that tries a trial again when its worker died."""

    spec: TrialSpec
    waiting: int = 1
    restarts: int = 0

    def __post_init__(self) -> None:
        self.epochs: list[int] = []
        self.outcomes: list[Outcome] = []

    def ask(self) -> TrialSpec | None:
        self.waiting -= 1
        return self.spec if self.waiting >= 0 else None

    def report(self, number: int, result: EpochResult) -> Decision:
        self.epochs.append(result.epoch)
        return Decision.CONTINUE

    def tell(self, number: int, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        if outcome.reason is Reason.WORKER_DIED and self.restarts < 3:
            self.restarts += 1
            self.waiting = 1

    def commit(self) -> None:
        pass


def test_a_rank_that_is_killed_restarts_the_trial_and_no_process_is_left(tmp_path: Path) -> None:
    list(program(1)(spec(tmp_path / "alone")))
    runner = LocalRunner(RunnerConfig(name="local", workers=1))
    controller = Again(spec(tmp_path / "killed"))
    try:
        runner.run(program(2, arguments(tmp_path, "killed")), controller)
        alive = [pid for pid in rank_processes(tmp_path) if psutil.pid_exists(pid)]
        # The first rank lives on; the other is a new one.
        assert len(alive) == 2
    finally:
        runner.close()
    first, second = controller.outcomes
    assert first.reason is Reason.WORKER_DIED
    assert "rank 1: its worker process" in first.detail
    assert "SIGKILL" in first.detail
    assert second == Outcome(End.FINISHED)
    assert controller.epochs == [1, 2, 2, 3, 4]
    assert close(tmp_path / "alone", tmp_path / "killed")
    assert len(rank_processes(tmp_path)) == 3
    psutil.wait_procs([psutil.Process(pid) for pid in rank_processes(tmp_path) if psutil.pid_exists(pid)], timeout=20)
    assert not any(psutil.pid_exists(pid) for pid in rank_processes(tmp_path))


def test_shares_are_all_of_a_batch_and_their_weights_sum_to_one() -> None:
    for size in (1, 2, 3, 4, 7):
        ranks = [Rank(rank, size) for rank in range(size)]
        for examples in (2, 3, 6, 7, 16, 50):
            indices = torch.arange(examples)
            shares = [rank.share(indices) for rank in ranks]
            assert sum(rank.weight(examples) for rank in ranks) == pytest.approx(1)
            assert set(torch.cat(shares).tolist()) == set(range(examples))
            if examples >= size:
                assert torch.equal(torch.cat(shares), indices)
            for largest in (1, 2, 5, 100):
                parts = [
                    rank.passes(len(share), examples, largest) for rank, share in zip(ranks, shares, strict=True)
                ]
                assert len({len(part) for part in parts}) == 1
                assert [sum(part) for part in parts] == [len(share) for share in shares]
                assert all(part > 0 for rank in parts for part in rank)
