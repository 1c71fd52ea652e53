"""What ensembles and finalists are worth, and what they cost.

    python benchmarks/ensemble.py pipeline     # ensemble, single best, uniform average, student: 4 tasks, 5 seeds
    python benchmarks/ensemble.py speed        # greedy selection: seconds and peak memory
    python benchmarks/ensemble.py finalists    # is the finalists' winner the best of them on test? 4 tasks, 5 seeds

Each subcommand is a module of ``ensemble_parts/`` with ``add_arguments(parser)`` and ``run(words)``.
See README.md beside this file.
"""

import argparse
from importlib import import_module

PARTS = {
    "pipeline": "ensemble against single best, uniform average and student on test, after the whole recipe",
    "speed": "seconds and peak memory of selecting from many candidates",
    "finalists": "how much the finalists' winner loses, on test, to the best of the finalists",
}
"""Subcommand (a module of ``ensemble_parts/``) to what it measures."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    modules = {name: import_module(f"ensemble_parts.{name}") for name in PARTS}
    for name, told in PARTS.items():
        modules[name].add_arguments(parts.add_parser(name, help=told, description=modules[name].__doc__))
    words = parser.parse_args()
    modules[words.part].run(words)


if __name__ == "__main__":
    main()
