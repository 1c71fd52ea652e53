"""Which runs are made, how each is disturbed, and one such run."""

import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killed_sweeps import differences, lost_or_doubled, paid, trials, wrongly_tracked
from mlflow_servers import Server

from chaos_methods.processes import fork, in_child, kill_driver, kill_worker, wait
from chaos_methods.task import COUNTS
from orchestrator.app.main import main
from orchestrator.preflight.registry import checks

EPOCHS = 6
CHECKPOINT_EPOCHS = 4
BUDGET = round(EPOCHS * (4 * 1.0 + 3 * 0.6 + 2))
SWEEP_SEEDS = 4
CHECKS = ("task_runs", "finite_data", "init_loss")
"""Of the preflight: enough to be killed in."""
LIMIT_S = 600.0
"""Seconds after which a driver counts as hanging."""
MAX_STARTS = 12

LOCAL = ("runner=local",)
ROUNDS = ("runner=local", "runner.workers=2", "deterministic=true")
LOOSE = ("runner=local", "runner.workers=2")
RAY = ("runner=ray", "runner.workers=2")
RAY_ROUNDS = (*RAY, "deterministic=true")
PLACES = (LOCAL, ROUNDS, LOCAL, RAY_ROUNDS, LOCAL, LOOSE, LOCAL, ROUNDS, LOCAL, RAY)


@dataclass(frozen=True)
class Case:
    """One run: a command, and the kills of it. Everything follows from ``index``."""

    index: int
    seed: int
    """Of the sweep."""
    place: Sequence[str]
    tracking: str
    """none, sqlite, server."""
    kills: Sequence[tuple[float, str]]
    """Share of the undisturbed run, of its time or of its epochs, whichever comes first, after the start of the
    driver or the kill before; who is killed."""

    @property
    def exact(self) -> bool:
        """Whether trials and winner must be those of the undisturbed run."""
        return "deterministic=true" in self.place or self.place == LOCAL

    @property
    def words(self) -> list[str]:
        """The command."""
        skipped = ",".join(row.name for row in checks() if row.name not in CHECKS)
        return [
            "stage=all", "task=custom", "task.name=chaos", "task._target_=chaos_methods.task.Counted",
            f"seed={self.seed}", f"trainer.epochs={EPOCHS}", f"trainer.checkpoint_epochs={CHECKPOINT_EPOCHS}",
            "recipe.budget={high: 1.0, medium: 0.6, low: 0.4}", "stages.joint.budget=2",
            "pruner.min_epochs=2", "failure.max_restarts=20", f"preflight.skip=[{skipped}]", *self.place,
        ]  # fmt: skip


def make_case(index: int) -> Case:
    """The case with that number."""
    rng = random.Random(index)
    place = PLACES[index % len(PLACES)]
    tracking = "none"
    if index % 5 == 2:
        tracking = rng.choice(["sqlite", "server"])
    kinds = ["driver", "worker", "driver", "worker"] + ["server"] * (2 if tracking == "server" else 0)
    count = rng.randint(2, 4)
    kills = [(rng.uniform(0.02, 0.6), rng.choice(kinds)) for _ in range(count)]
    return Case(index, index % SWEEP_SEEDS, place, tracking, kills)


def undisturbed(case: Case, folder: Path) -> tuple[Path, float]:
    """The sweep of the case's command when nobody disturbs it, and its seconds. Run once for each seed and place."""
    # Ray trains the same bits, so the local runner's sweep is the reference for both.
    place = [word.replace("runner=ray", "runner=local") for word in case.place]
    name = f"undisturbed-{case.seed}-{'-'.join(word.partition('=')[2] for word in place)}"
    own, done = folder / name, folder / name / "seconds"
    if not done.exists():
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir(parents=True)
        began = time.monotonic()
        words = [*Case(0, case.seed, place, "none", ()).words, "tracking=none", f"sweep.dir={own}"]
        (own / "counts").mkdir()
        environment = {COUNTS: str(own / "counts")}
        if wait(fork(lambda: main(words), own / "output.log", environment)) != 0:
            raise RuntimeError(f"the undisturbed run failed: {(own / 'output.log').read_text()}")
        done.write_text(str(time.monotonic() - began))
    return own / f"chaos-seed{case.seed}", float(done.read_text())


def trained(folder: Path) -> int:
    """How many epochs were really trained for the sweep in ``folder``."""
    return sum(path.stat().st_size for path in (folder / "counts").iterdir())


def disturb(case: Case, folder: Path) -> dict[str, Any]:
    """Run a case to its end; what was survived, what it cost, and what is wrong (``faults``, empty if nothing)."""
    like, seconds = undisturbed(case, folder)
    own = folder / f"case-{case.index}"
    shutil.rmtree(own, ignore_errors=True)
    (own / "counts").mkdir(parents=True)
    run = _Run(case, own, seconds, trained(like.parent))
    began = time.monotonic()
    try:
        run.until_done()
    finally:
        if run.server is not None and run.faults:
            run.server.kill()
    taken = time.monotonic() - began
    found = {} if run.faults else in_child(lambda: run.judge(like), own)
    if run.server is not None:
        run.server.kill()
    faults = run.faults + found.pop("faults", [])
    if not faults:
        shutil.rmtree(own)
    record = {"index": case.index, "seed": case.seed, "place": " ".join(case.place), "tracking": case.tracking}
    record |= {"exact": case.exact, "kills": run.kills, "starts": run.starts, "seconds": round(taken, 1)}
    return record | {"undisturbed_s": round(seconds, 1), **found, "faults": faults}


class _Run:
    """A case under way."""

    def __init__(self, case: Case, folder: Path, seconds: float, epochs: int) -> None:
        """``seconds`` and ``epochs``: of the undisturbed run."""
        self._case = case
        self._folder = folder
        self._pending = list(case.kills)
        self._seconds = seconds
        self._epochs = epochs
        self._rng = random.Random(case.index)
        self.kills: dict[str, int] = {}
        self.starts = 0
        self.faults: list[str] = []
        self.server: Server | None = None
        words = [*case.words, f"sweep.dir={folder}", f"tracking={'none' if case.tracking == 'none' else 'mlflow'}"]
        self.uri = f"sqlite:///{folder / 'mlflow.db'}"
        if case.tracking == "server":
            self.server = Server(folder)
            self.uri = self.server.uri
            words.append(f"tracking.uri={self.uri}")
            self.server.start()
            self.server.wait()
        self._words = words

    def until_done(self) -> None:
        """Start the command again until it has ended by itself; note what is wrong on the way."""
        output = self._folder / "output.log"
        while self.starts < MAX_STARTS:
            self.starts += 1
            driver = fork(lambda: main(list(self._words)), output, {COUNTS: str(self._folder / "counts")})
            code = self._kill_in_turn(driver)
            if code == 0:
                return
            if code is not None:
                self.faults.append(f"start {self.starts} ended with exit code {code}: {output.read_text()[-2000:]}")
                return
        self.faults.append(f"not done after {self.starts} starts")

    def _kill_in_turn(self, driver: int) -> int | None:
        """Kill as planned until the driver has ended; None: it was killed."""
        while self._pending:
            share, victim = self._pending[0]
            if (code := self._wait(driver, share)) is not None:
                return code
            self._pending.pop(0)
            if victim == "driver":
                self._count(victim)
                if left := kill_driver(driver):
                    self.faults.append(f"left behind by a killed driver: {left}")
                return None
            if victim == "worker":
                while not kill_worker(driver, self._rng):
                    # It has none yet, or none any more.
                    if (code := wait(driver, time.monotonic() + 0.1)) is not None:
                        return code
                self._count(victim)
            if victim == "server" and self.server is not None:
                self._count(victim)
                self.server.kill()
                code = wait(driver, time.monotonic() + self._rng.uniform(0.2, 3.0))
                self.server.start()
                if code is not None:
                    return code
        code = wait(driver, time.monotonic() + LIMIT_S)
        if code is None:
            kill_driver(driver)
            return 124
        return code

    def _wait(self, driver: int, share: float) -> int | None:
        """Wait for that share of the undisturbed run; the exit code of a driver that ends before."""
        until, enough = time.monotonic() + share * self._seconds, trained(self._folder) + share * self._epochs
        while time.monotonic() < until and trained(self._folder) < enough:
            if (code := wait(driver, time.monotonic() + 0.05)) is not None:
                return code
        return None

    def _count(self, victim: str) -> None:
        self.kills[victim] = self.kills.get(victim, 0) + 1

    def judge(self, like: Path) -> dict[str, Any]:
        """What is wrong with the ended sweep, and what was trained more than once. In a child."""
        sweep = self._folder / like.name
        faults = lost_or_doubled(sweep, like, BUDGET)
        if self._case.exact:
            faults += differences(sweep, like)
        if self._case.tracking != "none":
            if self.server is not None:
                self.server.wait()
            faults += wrongly_tracked(self.uri, "chaos", sweep)
        repeated = trained(self._folder) - paid(trials(sweep))
        at_a_time = 2 if "runner.workers=2" in self._case.place else 1
        most = sum(self.kills.get(who, 0) for who in ("driver", "worker")) * at_a_time * CHECKPOINT_EPOCHS
        if not 0 <= repeated <= most:
            faults.append(f"{repeated} epochs were trained again, at most {most} may be")
        return {"epochs": paid(trials(sweep)), "repeated": repeated, "faults": faults}
