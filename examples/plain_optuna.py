"""The staged search in plain Optuna, with a training loop of your own that goes on from checkpoints.

python examples/plain_optuna.py
"""

import tempfile
from pathlib import Path

import optuna
import torch
from sklearn.datasets import load_digits
from torch import nn

from orchestrator import StagedSampler

EPOCHS = 20
DATA = load_digits()
INPUTS = torch.tensor(DATA.data / 16, dtype=torch.float32)
TARGETS = torch.tensor(DATA.target)
CHECKPOINTS = Path(tempfile.mkdtemp())


def objective(trial: optuna.Trial) -> float:
    """Validation loss after the last epoch; steps are epochs, from 0."""
    torch.manual_seed(0)
    width = trial.suggest_int("width", 8, 128, log=True)
    batch_size = trial.suggest_int("batch_size", 16, 256, log=True)
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10))
    lr, momentum = trial.suggest_float("lr", 1e-3, 1.0, log=True), trial.suggest_float("momentum", 0.0, 0.98)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)

    first = 0
    if "continue_from" in trial.user_attrs:  # promoted: the same parameters, from where that trial stopped
        saved = torch.load(CHECKPOINTS / f"{trial.user_attrs['continue_from']}.pt")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["epochs"]

    for epoch in range(first, EPOCHS):
        for batch in torch.randperm(1200).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(INPUTS[batch]), TARGETS[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            loss = nn.functional.cross_entropy(model(INPUTS[1200:]), TARGETS[1200:]).item()
        trial.report(loss, epoch)
        if trial.should_prune():
            saved = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "epochs": epoch + 1}
            torch.save(saved, CHECKPOINTS / f"{trial.number}.pt")
            raise optuna.TrialPruned
    return loss


def search(n_trials: int = 60) -> optuna.Study:
    """Search, beginning with a configuration that seems sensible."""
    start = {"lr": 0.1, "momentum": 0.9, "batch_size": 64, "width": 32}
    sampler = StagedSampler(EPOCHS, stages=[["lr"], ["batch_size"], ["momentum"], ["width"]], start=start)
    study = optuna.create_study(sampler=sampler, pruner=sampler.pruner)
    study.optimize(objective, n_trials=n_trials)
    return study


if __name__ == "__main__":
    best = search().best_trial
    print(f"best: trial {best.number}, validation loss {best.value:.4f} with {best.params}")
