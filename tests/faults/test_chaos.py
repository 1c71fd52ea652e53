"""A bounded part of ``benchmarks/chaos.py``: one run in which tracking server, worker and driver are killed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHAOS = Path(__file__).resolve().parents[2] / "benchmarks" / "chaos.py"
CASE = 12
"""A fixed seed: all three are killed, on the local runner with one worker, so that everything must be exact."""


@pytest.mark.timeout(280)
def test_a_run_killed_at_random_is_the_undisturbed_run(tmp_path: Path) -> None:
    results = tmp_path / "chaos.jsonl"
    words = ["1", "--only", str(CASE), "--folder", str(tmp_path / "work"), "--results", str(results)]
    done = subprocess.run(
        [sys.executable, str(CHAOS), *words], capture_output=True, text=True, timeout=270, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    [record] = map(json.loads, results.read_text().splitlines())
    assert record["faults"] == []
    assert record["exact"]
    assert record["starts"] >= 1 + record["kills"].get("driver", 0)
    assert record["kills"].keys() == {"driver", "worker", "server"}
