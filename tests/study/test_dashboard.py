"""Optuna's dashboard reads the study of a sweep as it is."""

import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna_dashboard import wsgi

from orchestrator.app.main import main


def test_the_dashboard_shows_the_trials_of_a_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["task=breast_cancer", "runner=inline", "tracking=none", "trainer.epochs=2", "n_trials=3"]
    assert main(["stage=lr", *words]) == 0
    (journal,) = tmp_path.glob("sweeps/*/study.journal")
    page = wsgi(JournalStorage(JournalFileBackend(str(journal))))

    def get(path: str) -> Any:
        told: list[str] = []
        environment = {"PATH_INFO": path, "QUERY_STRING": "after=0"}
        setup_testing_defaults(environment)
        body = b"".join(page(environment, lambda status, *_: told.append(status)))
        assert told == ["200 OK"], body
        return json.loads(body)

    (study,) = get("/api/studies")["study_summaries"]
    assert study["study_name"] == "breast_cancer-seed0"
    detail = get(f"/api/studies/{study['study_id']}")
    assert [trial["state"] for trial in detail["trials"]] == ["Pruned", "Pruned", "Complete"]
