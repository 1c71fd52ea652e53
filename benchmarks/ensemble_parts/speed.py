"""Selecting from many candidates: seconds and peak memory, each step as the product does it.

Made-up predictions of networks of different quality are stored first, as the ensemble stage stores them (not timed).
Then a fresh process reads them, and selects: greedy selection among all of them, and what the stage does (a library
of the best 200; every way of choosing on all of validation and cross-fitted).
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from pathlib import Path

import torch
from torch.utils.data import TensorDataset

GOAL_S, GOAL_MB = 10.0, 1024.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--examples", type=int, default=10_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)


def data(examples: int, classes: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.zeros(examples, 1), torch.randint(0, classes, (examples,), generator=generator))


def fill(folder: Path, words: argparse.Namespace) -> None:
    """Store the predictions: the right class's logit grows with the candidate's quality."""
    from orchestrator.ensemble.predictions import PredictionStore

    split = data(words.examples, words.classes)
    targets = split.tensors[1]
    store = PredictionStore(folder, "validation", split)
    generator = torch.Generator().manual_seed(1)
    shared = torch.randn(words.examples, words.classes, generator=generator)
    right = torch.nn.functional.one_hot(targets, words.classes)
    for number in range(words.candidates):
        own = torch.randn(words.examples, words.classes, generator=generator)
        quality = 2 + 2 * float(torch.rand(1, generator=generator))
        chances = (shared + own + quality * right).softmax(dim=1)
        store.add(f"trial-{number}", "made-up", [(chances, targets)])


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def select_all(folder: str, words: argparse.Namespace, results: "multiprocessing.Queue[list]") -> None:
    """In a process of its own: what it takes to get from the files to a choice."""
    torch.set_num_threads(words.threads)
    from orchestrator.ensemble.crossfit import KINDS, Way, cross, decide
    from orchestrator.ensemble.greedy import select, shares_of
    from orchestrator.ensemble.judge import Judge, make_library
    from orchestrator.ensemble.predictions import PredictionStore
    from orchestrator.tasks.digits import DigitsMLP

    class Named:
        def __init__(self, number: int) -> None:
            self.key = (f"trial-{number}", "made-up")

    rows: list[tuple[str, float, float, str]] = [("imports", 0.0, peak_mb(), "")]

    began = time.perf_counter()
    store = PredictionStore(Path(folder), "validation", data(words.examples, words.classes))
    candidates = [Named(number) for number in range(words.candidates)]
    judge = Judge(DigitsMLP(), store.targets(), torch.stack([store.get(*one.key) for one in candidates[:4]]))
    _, everything = make_library(judge, store, candidates, most=words.candidates, memory_mb=256)
    rows.append(("read and reduce all", time.perf_counter() - began, peak_mb(), judge.recognised.form.name))
    began = time.perf_counter()
    chosen = shares_of(select(everything, limit=5))
    cost = everything.cost(chosen)
    rows.append((f"greedy among {words.candidates}", time.perf_counter() - began, peak_mb(), f"log-loss {cost:.4f}"))
    began = time.perf_counter()
    kept, library = make_library(judge, store, candidates, most=200, memory_mb=256)
    ways = {kind: Way(kind, 5, 0, range(len(kept)), range(len(kept))) for kind in KINDS}
    picked = {kind: way.choose(library) for kind, way in ways.items()}
    crossed = {kind: cross(library, way, count=5, repeats=1) for kind, way in ways.items()}
    kind = decide(library, crossed)
    told = f"{kind}, log-loss {library.cost(picked[kind]):.4f}, cross-fitted {crossed[kind].cost:.4f}"
    rows.append((f"the stage's choice among {len(kept)}", time.perf_counter() - began, peak_mb(), told))
    results.put(rows)


def run(words: argparse.Namespace) -> None:
    os.environ["OMP_NUM_THREADS"] = str(words.threads)
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), words)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.f32"))
        results = context.Queue()
        child = context.Process(target=select_all, args=(folder, words, results))
        child.start()
        rows = results.get()
        child.join()
    shape = f"{words.candidates} x {words.examples} x {words.classes}"
    print(f"{shape} predictions, {size / 1e6:.0f} MB on disk, {words.threads} threads")
    print(f"{'':34} {'seconds':>8} {'peak MB':>8}")
    for name, seconds, peak, told in rows:
        print(f"{name:34} {seconds:8.2f} {peak:8.0f}  {told}")
    total, peak = sum(row[1] for row in rows), max(row[2] for row in rows)
    met = total < GOAL_S and peak < GOAL_MB
    print(f"{'in all':34} {total:8.2f} {peak:8.0f}  goal: {GOAL_S:g} s, {GOAL_MB:g} MB: {'met' if met else 'MISSED'}")
