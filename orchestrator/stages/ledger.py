"""The ledger: which stages of a sweep have ended and how, in one small file replaced atomically."""

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, StorageError
from orchestrator.files import write_json
from orchestrator.masking import masked
from orchestrator.study.records import TrialRecord, incumbent
from orchestrator.types import Direction, Value

FREE = (
    *("stage", "runner", "failure", "tracking", "n_trials", "timeout_s", "dry_run"),
    *("stages", "recipe", "finalists", "ensemble", "train", "audit", "predict"),
    *("sweep", "preflight", "logbook", "ui"),
)
"""Settings that may differ between commands of one sweep: they change what is done next, not what a
trial means."""
FREE_TRAINER = ("keep_checkpoints", "disk_gb", "data_workers", "checkpoint_epochs")


@dataclass(frozen=True)
class Audit:
    """What became of trials that were due to be stopped and let through."""

    trials: int
    epochs: int
    """What they cost beyond the epoch at which they would have been stopped."""
    best: float
    """The best value among them."""
    lost: float
    """By how much it beats the best of the stage's other finished trials; 0 if it does not."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a visit of a search stage found."""

    stage: str
    """Key of the visit: the stage's name, with ``@2`` and so on in later passes."""
    trials: int = 0
    """Trials of the visit that ended."""
    epochs: int = 0
    """What they cost."""
    pruned: int = 0
    promoted: int = 0
    """Trials that continued a stopped one."""
    infeasible: Mapping[str, int] = field(default_factory=dict)
    """Reason to count."""
    best_trial: int | None
    """The sweep's best trial after the visit; None if there is none."""
    best_value: float | None
    found_by: str = ""
    """The visit that found the best trial, where that is another one, which overlapped with this; else empty."""
    previous_trial: int | None
    previous_value: float | None
    noise: float | None = None
    """Standard deviation between seeds at the best value; None: unknown."""
    noise_measured: bool = False
    """Whether repeats measured it; else it is the surrogate's estimate."""
    changed: Mapping[str, tuple[Value, Value]] = field(default_factory=dict)
    """Searched hyperparameters that differ from the visit's base: name to (before, after)."""
    moved: Mapping[str, tuple[Value, Value]] = field(default_factory=dict)
    """Those tuned by earlier stages that moved much when tuned again: they interact."""
    at_bound: Mapping[str, str] = field(default_factory=dict)
    """Hyperparameters whose best value lies at an end of what was searched: name to low or high."""
    widened: Mapping[str, tuple[Value, Value]] = field(default_factory=dict)
    """Hyperparameters searched beyond their range: name to the least and greatest value tried."""
    opened: int = 0
    """Proposals from the whole space, because it promised more than the stage's windows."""
    rising: bool = False
    """Whether the best trial was still getting better at its last epoch."""
    audit: Audit | None = None
    seconds: float = 0.0
    usage: Mapping[str, float] = field(default_factory=dict)
    """Shares of the workers' time by :class:`~orchestrator.utilisation.Use` while the visit lasted."""
    skipped: str = ""
    """Why the stage had nothing to search; empty if it ran."""

    @property
    def improved(self) -> bool:
        """Whether the incumbent is another one than at the visit's beginning."""
        return self.best_trial != self.previous_trial

    @property
    def doubtful(self) -> bool:
        """Whether the gain is no more than seed noise."""
        if self.best_value is None or self.previous_value is None or self.noise is None:
            return False
        return self.improved and abs(self.best_value - self.previous_value) <= self.noise


def best_of(
    finished: Mapping[str, Mapping[str, Any]], records: Sequence[TrialRecord], direction: Direction
) -> TrialRecord | None:
    """The winner of a sweep: what the finalists made the best by mean over seeds, whatever a search finds with one;
    before there are finalists, the incumbent of the search. None where there is none.

    Args:
        finished: ledger entries by stage.
        records: every trial, in the order of their numbers.
        direction: of the objective.
    """
    decided = decided_by(finished)
    return incumbent(records, direction) if decided is None else records[decided]


def decided_by(finished: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The trial that the finalists made the best; None: there were none."""
    decided = [int(entry["best_trial"]) for entry in finished.values() if entry.get("winner") is not None]
    return decided[-1] if decided else None


@dataclass(frozen=True)
class Reading:
    """One reading of the test split."""

    at: str
    """When, ISO 8601, UTC."""
    lost: bool = False
    """Whether the command ended before anything came of it."""


def describe_reads(reads: Sequence[Reading]) -> str:
    """How often and when the test split was read, as the end of a sentence; empty: never."""
    if not reads:
        return ""
    known = [read for read in reads if not read.lost]
    lost = [f"at {read.at} by a command that ended before anything came of it" for read in reads if read.lost]
    first = [f"once, at {known[0].at}"] if len(known) == 1 else []
    if len(known) > 1:
        again = " and ".join(read.at for read in known[1:])
        first = [
            f"{len(known)} times: at {known[0].at}, and again at {again} (ensemble.read_test_again): what was "
            "decided in between may fit it"
        ]
    return "; also ".join([*first, *lost]) if first else "; ".join(lost)


class Ledger:
    """Identity, configuration and finished stages of a sweep."""

    def __init__(self, path: Path, data: dict[str, Any]) -> None:
        self._path = path
        self._data = data
        self._command: dict[str, Any] = {"began": _now()}

    @classmethod
    def read(cls, path: Path) -> "Ledger | None":
        """The ledger at ``path``, or None if there is none.

        Raises:
            StorageError: the file is damaged.
        """
        if not path.exists():
            return None
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise _damaged(path, str(error)) from None
        kinds = {"id": str, "created": str, "config": dict, "stages": dict}
        if not isinstance(data, dict) or "test_reads" not in data:
            raise _damaged(path, "it is no ledger")
        for key, wanted in kinds.items():
            if not isinstance(data.get(key), wanted):
                raise _damaged(path, f"{key} is missing")
        return cls(path, data)

    @classmethod
    def open(cls, path: Path, config: Mapping[str, Any], begun: Callable[[], bool] = lambda: True) -> "Ledger":
        """The ledger of a new sweep, or of the one at ``path`` if ``config`` asks for the same.

        Without a trial (``begun`` says so, asked only then) changed settings make a new sweep of it: after a
        failed preflight settings are there to be changed.

        Raises:
            ConfigError: the configuration changed under the sweep's name, and there are trials.
        """
        ledger = cls.read(path)
        if ledger is None or (ledger._data["config"] != _fixed(config) and not begun()):
            data = {
                "id": uuid.uuid4().hex,
                "created": _now(),
                "config": _fixed(config),
                "stages": {},
                "test_reads": [],
            }
            ledger = cls(path, data)
            ledger._write()
            return ledger
        _refuse_change(ledger._data["config"], _fixed(config), path.parent.name)
        return ledger

    @property
    def sweep_id(self) -> str:
        """Identity of the sweep."""
        return str(self._data["id"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The settings that the sweep began with, as nested plain values."""
        return dict(self._data["config"])

    @property
    def finished(self) -> Mapping[str, Mapping[str, Any]]:
        """Finished stages by name, with their results."""
        return dict(self._data["stages"])

    @property
    def test_reads(self) -> Sequence[Reading]:
        """Every reading of the test split."""
        return [Reading(**read) for read in self._data["test_reads"]]

    def finish(self, stage: str, result: Any, text: str) -> None:
        """Note the end of ``stage``: its result (a dataclass) and the same in words."""
        self._data["stages"][stage] = masked({"finished": _now(), **asdict(result), "text": text})
        self._write()

    def note_usage(self, seconds: float, workers: Sequence[Mapping[str, float]]) -> None:
        """Note what the workers' time went into in this command so far: seconds by use, of each worker."""
        self._command |= {"seconds": seconds, "workers": [dict(worker) for worker in workers]}
        commands = self._data.setdefault("usage", [])
        if self._command not in commands:
            commands.append(self._command)
        self._write()

    @property
    def usage(self) -> Sequence[Mapping[str, Any]]:
        """Of each command that searched: ``began``, ``seconds``, and ``workers``: seconds by use, of each."""
        return list(self._data.get("usage", []))

    def note_test_read(self) -> None:
        """Note that the test split is read now. It should be for the first time, or with the user's consent
        (``ensemble.read_test_again``): see :meth:`test_reader`."""
        known = self._data["test_reads"]
        if known and self.test_reader is None:
            # Nobody has seen what a reading gave that no stage finished with.
            known[-1]["lost"] = True
        known.append(asdict(Reading(_now())))
        self._write()

    @property
    def test_reader(self) -> str | None:
        """The finished stage whose result rests on the test split; None: nobody knows anything of it yet."""
        return next((key for key, entry in self._data["stages"].items() if "test" in entry), None)

    def _write(self) -> None:
        write_json(self._path, self._data)


def _damaged(path: Path, how: str) -> StorageError:
    return StorageError(f"{path}: is damaged ({how}); restore it from a backup, or begin anew: sweep.name=NAME")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _fixed(config: Mapping[str, Any]) -> dict[str, Any]:
    # Masked: a changed password is no change of a sweep.
    kept = masked({key: value for key, value in config.items() if key not in FREE})
    kept["trainer"] = {key: value for key, value in kept["trainer"].items() if key not in FREE_TRAINER}
    kept["cpus_per_trial"] = config["runner"]["cpus_per_trial"]
    if config["deterministic"]:
        kept["workers"] = config["runner"]["workers"]
    plain: dict[str, Any] = json.loads(json.dumps(kept))
    return plain


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    result: dict[str, Any] = {}
    for key, value in values.items():
        result.update(_flat(value, f"{prefix}.{key}" if prefix else key))
    return result


def _refuse_change(old: dict[str, Any], new: dict[str, Any], name: str) -> None:
    before, after = _flat(old), _flat(new)
    changed = [key for key in sorted({*before, *after}) if before.get(key) != after.get(key)]
    if changed:
        listed = ", ".join(f"{key} {before.get(key)} -> {after.get(key)}" for key in changed[:4])
        more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
        raise ConfigError(
            f"sweep {name} was begun with other settings: {listed}{more}; go back to them, or begin another "
            "sweep: sweep.name=NAME"
        )
