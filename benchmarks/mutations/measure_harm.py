"""Measure every fault's harm over five seeds and keep it: ``python -m benchmarks.mutations.measure_harm``.

The figures go to ``harm.json`` beside this file, where the table reads them.
"""

import argparse
import json
import math
from dataclasses import asdict
from pathlib import Path

from benchmarks.mutations.catalogue import FAULTS
from benchmarks.mutations.harm import Outcome, harm, outcome, threads
from benchmarks.mutations.pool import BY_NAME

HARM = Path(__file__).with_name("harm.json")
SEEDS = 5


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", nargs="*", default=None, help="names of faults; the others keep their figures")
    arguments.add_argument("--seeds", type=int, default=SEEDS)
    arguments.add_argument("--raw", type=Path, default=Path("benchmarks/results/harm.json"), help="every score")
    given = arguments.parse_args()
    threads()
    known = json.loads(HARM.read_text()) if HARM.exists() and given.only is not None else {}
    clean: dict[str, list[Outcome]] = {}
    raw: dict[str, object] = {}
    for fault in FAULTS:
        if given.only is not None and fault.name not in given.only:
            continue
        for base in fault.bases:
            healthy = BY_NAME[base]
            if base not in clean:
                clean[base] = [outcome(healthy, None, seed) for seed in range(given.seeds)]
            wrong = [outcome(healthy, fault, seed) for seed in range(given.seeds)]
            found = harm(healthy.build(0).directions, clean[base], wrong)
            known[f"{fault.name} | {base}"] = {
                key: round(value, 4) if isinstance(value, float) and math.isfinite(value) else value
                for key, value in asdict(found).items()
            }
            print(f"{fault.name:45} {base:18} {found}", flush=True)
            HARM.write_text(json.dumps(known, indent=1) + "\n")
            raw[f"{fault.name} | {base}"] = {
                "clean": list(map(asdict, clean[base])),
                "faulty": list(map(asdict, wrong)),
            }
            given.raw.parent.mkdir(parents=True, exist_ok=True)
            given.raw.write_text(json.dumps(raw, indent=1) + "\n")


if __name__ == "__main__":
    main()
