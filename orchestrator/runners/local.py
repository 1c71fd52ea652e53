"""Trials in worker processes on this machine, without Ray."""

import os
import pickle
import sys
from dataclasses import dataclass, replace
from multiprocessing.connection import wait

from orchestrator.config.runner import RunnerConfig
from orchestrator.errors import OrchestratorError
from orchestrator.process import WorkerProcess
from orchestrator.runners.base import Controller
from orchestrator.runners.guard import Guarded
from orchestrator.runners.limits import Clock
from orchestrator.runners.packing import Machine, Packing, free_memory
from orchestrator.types import Decision, End, Outcome, TrialProgram, TrialSpec

LOOK_S = 1.0
"""Seconds between looks for the dead: a process that the worker started may keep its end of the pipe open."""
MAX_START_FAILURES = 3
"""Workers in a row that may die before they are up: our guess."""


@dataclass
class _Worker:
    """A worker process and what it is doing."""

    process: WorkerProcess
    loading: int = 0
    """Programs that it was sent and has not yet said to be ready for."""
    spec: TrialSpec | None = None
    """Its trial; begun once it is up."""
    clock: Clock | None = None
    end: Outcome | None = None
    """How its trial will have ended when it has answered."""

    @property
    def up(self) -> bool:
        return self.loading == 0

    @property
    def busy(self) -> bool:
        return self.spec is not None

    def load(self, program: bytes) -> None:
        self.loading += 1
        self.process.call("load", program, list(sys.path))

    def begin(self) -> None:
        assert self.spec is not None
        self.clock = Clock(self.spec)
        self.process.call("step", self.spec)

    def go_on(self) -> None:
        """The next epoch, or the end that is decided."""
        assert self.clock is not None
        self.clock.restart()
        self.process.call("step" if self.end is None else "end")

    def rest(self) -> None:
        """Its trial is over, or is not begun."""
        self.spec, self.clock, self.end = None, None, None


class LocalRunner:
    """See :class:`~orchestrator.runners.base.Runner`."""

    def __init__(self, config: RunnerConfig) -> None:
        fit = max(1, (os.cpu_count() or 1) // config.cpus_per_trial)
        self._most = config.workers or fit
        self._pool: list[_Worker] = []
        self._failed_starts = 0
        memory = free_memory() if config.memory_gb is None else int(config.memory_gb * 1e9)
        self._machine = Machine(memory) if config.pack else None
        self._environment = {"OMP_NUM_THREADS": str(config.cpus_per_trial), **os.environ}

    @property
    def workers(self) -> int:
        """How many trials run at a time, unless memory holds fewer; one before it is known what they take of it."""
        return self._most if self._machine is None or self._machine.footprints.known else 1

    def run(self, program: TrialProgram, controller: Controller) -> None:
        """See :class:`~orchestrator.runners.base.Runner`."""
        if self._machine is not None:
            controller = Packing(controller, self._machine)
        job = _Job(controller, pickle.dumps(program))
        for worker in self._pool:
            worker.load(job.program)
        try:
            while True:
                self._hand_out(job)
                if not any(worker.busy for worker in self._pool):
                    break
                self._wait(job)
        except BaseException:
            self.close()
            raise
        if job.error is not None:
            raise job.error

    def _hand_out(self, job: "_Job") -> None:
        """Give every free worker a trial; start workers while there are trials for them."""
        while sum(worker.busy for worker in self._pool) < self._most and (spec := job.ask()) is not None:
            worker = self._free() or self._start(job)
            worker.spec = spec
            if worker.up:
                job.due.append(worker)
        job.act()

    def _free(self) -> _Worker | None:
        for worker in [worker for worker in self._pool if not worker.busy]:
            if worker.process.alive:
                return worker
            self._pool.remove(worker)
            worker.process.kill()
        return None

    def _start(self, job: "_Job") -> _Worker:
        worker = _Worker(WorkerProcess("orchestrator.runners.worker", environment=self._environment))
        worker.load(job.program)
        self._pool.append(worker)
        return worker

    def _wait(self, job: "_Job") -> None:
        """Take in what the workers have to say, and end the trials that are over their limits."""
        busy = {worker.process.connection: worker for worker in self._pool if worker.busy}
        left = [worker.clock.left for worker in busy.values() if worker.clock is not None]
        ready = wait(list(busy), max(0.0, min([LOOK_S, *left])))
        for connection in ready:
            self._read(busy[connection], job)  # type: ignore[index]
        for connection, worker in busy.items():
            if connection in ready or not worker.busy:
                continue
            if not worker.process.alive:
                self._bury(worker, job)
            elif worker.clock is not None and (over := worker.clock.over()) is not None:
                self._remove(worker, job, worker.end or over)
        job.act()

    def _read(self, worker: _Worker, job: "_Job") -> None:
        try:
            answer = worker.process.connection.recv()
        except (EOFError, ConnectionResetError):
            self._bury(worker, job)
            return
        if not worker.up:
            worker.loading -= 1
            self._failed_starts = 0
            if worker.up:
                job.due.append(worker)
            return
        assert worker.spec is not None
        assert worker.clock is not None
        if worker.end is not None or answer["done"]:
            number = worker.spec.number
            outcome = answer["outcome"] if worker.end is None else replace(worker.end, work=answer)
            worker.rest()
            job.tell(number, outcome)
            return
        decision = job.report(worker.spec.number, answer["epoch_result"])
        if decision is not Decision.CONTINUE:
            worker.end = Outcome(End.STOPPED if decision is Decision.STOP else End.PAUSED)
        job.due.append(worker)

    def _bury(self, worker: _Worker, job: "_Job") -> None:
        """The worker died by itself, or by somebody else's hand."""
        if worker.up:
            self._remove(worker, job, worker.end or worker.process.death())
            return
        self._failed_starts += 1
        death = worker.process.death()
        self._pool.remove(worker)
        worker.process.kill()
        if self._failed_starts >= MAX_START_FAILURES:
            raise OrchestratorError(
                f"runner: {self._failed_starts} worker processes in a row died before they were up; of the last: "
                f"{death.detail}"
            )
        self._start(job).spec = worker.spec

    def _remove(self, worker: _Worker, job: "_Job", outcome: Outcome) -> None:
        """End the worker and what it started, and tell how its trial ended."""
        assert worker.spec is not None
        self._pool.remove(worker)
        worker.process.kill()
        job.tell(worker.spec.number, outcome)

    def close(self) -> None:
        """See :class:`~orchestrator.runners.base.Runner`. Kills what is busy."""
        for worker in self._pool:
            if worker.busy:
                worker.process.kill()
            else:
                worker.process.close()
        self._pool.clear()


class _Job(Guarded):
    """One call of ``run``."""

    def __init__(self, controller: Controller, program: bytes) -> None:
        super().__init__(controller)
        self.program = program
        self.due: list[_Worker] = []
        """Workers that begin or go on once it is durable why."""

    def act(self) -> None:
        """Let those go on that are due: all of it rests on one commit. Where that fails, trials only end."""
        self.commit()
        due, self.due = self.due, []
        for worker in due:
            if worker.clock is not None:
                if self.error is not None:
                    worker.end = worker.end or Outcome(End.PAUSED)
                worker.go_on()
            elif self.error is None:
                worker.begin()
            else:
                worker.rest()
