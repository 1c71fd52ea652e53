"""benchmarks/landscapes.py: curves that are what they say, and every method runs."""

import json
from pathlib import Path

import landscapes
import numpy as np
import optuna
import pytest


@pytest.mark.parametrize("kind", landscapes.KINDS)
def test_nothing_beats_the_optimum(kind: str) -> None:
    landscape = landscapes.Landscape(kind, 0)
    optimum = landscape.optimum()
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ends = [landscape.curve(landscape.ask(study.ask()))[-1] for _ in range(200)]
    assert landscape.least < optimum <= min(ends)
    assert np.ptp(ends) > 0.1


@pytest.mark.parametrize("method", list(landscapes.METHODS))
def test_every_method_spends_the_budget(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                        capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    monkeypatch.setattr(landscapes, "MARKS", (1, 2))
    out = tmp_path / "out.jsonl"
    landscapes.main(["--kinds", "lr", "--methods", method, "--seeds", "1", "--workers", "2", "--out", str(out)])
    [record] = map(json.loads, out.read_text().splitlines())
    first, second = record["regret"]
    assert first >= second > -1e-6
    assert f"| {method}, 2, all | " in capsys.readouterr().out
