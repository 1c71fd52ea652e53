"""Kill everything, again and again: nothing may be lost or doubled.

``python benchmarks/chaos.py N``: see README.md beside this file.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The task is found by workers, too: they get the driver's path.
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "tests" / "helpers")]

from chaos_methods.cases import disturb, make_case  # noqa: E402

Record = dict[str, Any]


def read(path: Path) -> dict[int, Record]:
    """The newest record of each case."""
    if not path.exists():
        return {}
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return {record["index"]: record for record in records}


def table(records: Sequence[Record]) -> str:
    """A row for each place, and one for all."""
    rows = [["place", "runs", "faulty", "kills: driver", "worker", "server", "epochs", "repeated", "lost s a kill"]]
    places = sorted({record["place"] for record in records})
    for place in (*places, "all"):
        own = [record for record in records if place in (record["place"], "all")]
        killed = {who: sum(record["kills"].get(who, 0) for record in own) for who in ("driver", "worker", "server")}
        lost = sum(record["seconds"] - record["undisturbed_s"] for record in own)
        figures: list[Any] = [len(own), sum(bool(record["faults"]) for record in own), *killed.values()]
        figures += [sum(record.get(name, 0) for record in own) for name in ("epochs", "repeated")]
        rows.append([place, *map(str, figures), f"{lost / max(1, sum(killed.values())):.1f}"])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


def main() -> int:
    """Run the cases that are not done, print the table; 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=int, help="cases 0 to N-1; those that are done without a fault are left out")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "chaos.jsonl")
    parser.add_argument("--folder", type=Path, default=HERE / "results" / "chaos", help="where sweeps are made")
    parser.add_argument("--only", type=int, nargs="*", help="these cases, done or not")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    words.results.parent.mkdir(parents=True, exist_ok=True)
    known = read(words.results)
    wanted = range(words.runs) if words.only is None else words.only
    for index in wanted:
        if words.only is None and index in known and not known[index]["faults"]:
            continue
        began = time.monotonic()
        record = disturb(make_case(index), words.folder.resolve())
        known[index] = record
        with words.results.open("a") as handle:
            handle.write(json.dumps(record) + "\n")
        say = "; ".join(record["faults"])[:300] or "nothing lost or doubled"
        print(
            f"case {index}: {record['place']}, killed {record['kills']}, {time.monotonic() - began:.0f} s: {say}",
            flush=True,
        )
    found = [known[index] for index in sorted(known) if index in wanted]
    print(f"\n{table(found)}")
    return int(any(record["faults"] for record in found))


if __name__ == "__main__":
    sys.exit(main())
