"""What must hold of a sweep whose processes were killed, however often, once the same command has ended.

Also for ``benchmarks/chaos.py``. Everything is read with the tools of Optuna and MLflow, not with ours.
"""

import json
from pathlib import Path
from typing import Any

Trial = dict[str, Any]


def trials(sweep: Path) -> list[Trial]:
    """Every stored trial of the sweep in the folder ``sweep``: stage, configuration, seed, state and curve."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage = optuna.storages.JournalStorage(JournalFileBackend(str(sweep / "study.journal")))
    study = optuna.load_study(study_name=sweep.name, storage=storage)
    return [
        {
            "stage": trial.user_attrs["stage"],
            "configuration": trial.user_attrs["configuration"],
            "seed": trial.user_attrs["seed"],
            "state": trial.state.name,
            "curve": trial.intermediate_values,
            "parent": trial.user_attrs.get("parent"),
            "inherited": trial.user_attrs.get("inherited", 0),
            "finalist": trial.user_attrs["schedule_epochs"] is not None,
        }
        for trial in study.get_trials()
    ]


def finished(sweep: Path) -> list[str]:
    """The stages that the ledger calls finished."""
    return list(json.loads((sweep / "ledger.json").read_text())["stages"])


def winner(sweep: Path) -> list[str]:
    """The winner as it can be trained again, without the comments that name the sweep's folder."""
    return [line for line in (sweep / "experiment/winner.yaml").read_text().splitlines() if not line.startswith("#")]


def paid(found: list[Trial]) -> int:
    """Epochs that the trials trained themselves."""
    return sum(len(trial["curve"]) - trial["inherited"] for trial in found)


def lost_or_doubled(sweep: Path, like: Path, budget: int) -> list[str]:
    """What is wrong with the trials and the ledger; empty: nothing is lost or doubled.

    Args:
        sweep: folder of the sweep that was killed.
        like: folder of one that was left alone.
        budget: epochs that the trials of its search may cost.
    """
    faults = []
    found = trials(sweep)
    if states := {trial["state"] for trial in found} - {"COMPLETE", "PRUNED"}:
        faults.append(f"trials are left {states}")
    searched = paid([trial for trial in found if not trial["finalist"]])
    if not 0.8 * budget <= searched <= budget:
        faults.append(f"the search cost {searched} epochs of {budget}")
    for number, trial in enumerate(found):
        if sorted(trial["curve"]) != list(range(1, len(trial["curve"]) + 1)):
            faults.append(f"trial {number} has the epochs {sorted(trial['curve'])}")
    continued = [trial["parent"] for trial in found if trial["parent"] is not None]
    if len(continued) != len(set(continued)):
        faults.append(f"trials were continued twice: {sorted(continued)}")
    # By stage: a visit that nothing is left for is left out, which on free workers is a matter of timing.
    here, there = ({name.split("@")[0] for name in finished(folder)} for folder in (sweep, like))
    if here != there:
        faults.append(f"finished stages: {sorted(here)}, undisturbed {sorted(there)}")
    return faults


def differences(sweep: Path, like: Path) -> list[str]:
    """In what trials and winner are not exactly those of ``like``."""
    here, there = trials(sweep), trials(like)
    faults = [f"trial {n}: {a}, undisturbed {b}" for n, (a, b) in enumerate(zip(here, there, strict=False)) if a != b]
    if len(here) != len(there):
        faults.append(f"{len(here)} trials, undisturbed {len(there)}")
    if finished(sweep) != finished(like):
        faults.append(f"finished visits: {finished(sweep)}, undisturbed {finished(like)}")
    if winner(sweep) != winner(like):
        faults.append(f"the winner is {winner(sweep)}, undisturbed {winner(like)}")
    return faults


def wrongly_tracked(uri: str, experiment: str, sweep: Path) -> list[str]:
    """What is missing or twice in MLflow: every trial has one run with one point for each epoch of its own."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    runs = client.search_runs([found.experiment_id], max_results=1000)
    stored = trials(sweep)
    keys = sorted(run.data.tags["orchestrator.key"] for run in runs)
    expected = ["sweep", *(f"stage:{name}" for name in finished(sweep)), *(f"trial:{n}" for n in range(len(stored)))]
    faults = [] if keys == sorted(expected) else [f"MLflow has the runs {keys}, not {sorted(expected)}"]
    for run in runs:
        key = run.data.tags["orchestrator.key"]
        if run.info.status != "FINISHED":
            faults.append(f"MLflow has {key} as {run.info.status}")
        if key.startswith("trial:") and key in expected:
            trial = stored[int(key.removeprefix("trial:"))]
            steps = [point.step for point in client.get_metric_history(run.info.run_id, "val/loss")]
            if sorted(steps) != sorted(trial["curve"])[trial["inherited"] :]:
                faults.append(f"MLflow has the epochs {steps} of {key}, the study {sorted(trial['curve'])}")
    return faults
