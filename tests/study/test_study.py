"""The study: the only owner of trial state, readable again after any kill."""

import json
import math
import tempfile
import warnings
from pathlib import Path

import optuna
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from orchestrator.config.space import RangeConfig
from orchestrator.errors import ConfigError, OrchestratorError
from orchestrator.study.records import TrialRecord, incumbent
from orchestrator.study.space import Hyperparameter, SearchSpace
from orchestrator.study.storage import mend_journal, open_journal, quiet_optuna
from orchestrator.study.study import SweepStudy
from orchestrator.types import Direction, Reason, TrialState, Value

SPACE = SearchSpace(
    {
        name: Hyperparameter(name, config)
        for name, config in {
            "optimizer.lr": RangeConfig(type="float", low=1e-4, high=1.0, limits=(1e-6, 10.0), scale="log"),
            "data.batch_size": RangeConfig(type="int", low=16, high=512, scale="log"),
            "schedule.kind": RangeConfig(type="choice", choices=("constant", "cosine")),
        }.items()
    }
)
ENDS = st.sampled_from([TrialState.COMPLETE, TrialState.PRUNED, TrialState.INFEASIBLE])


@pytest.fixture(autouse=True)
def quiet() -> None:
    quiet_optuna()


def configuration(lr: float = 0.1, batch: int = 32, kind: str = "constant") -> dict[str, Value]:
    return {
        "optimizer.lr": lr,
        "data.batch_size": batch,
        "schedule.kind": kind,
        "model.width": 7,
        "optimizer.nesterov": True,
        "optimizer.name": "sgd",
    }


def open_study(path: Path, direction: Direction = Direction.MINIMIZE) -> SweepStudy:
    return SweepStudy(open_journal(path, writable=True), "sweep", direction, SPACE)


def stored_study(path: Path) -> optuna.Study:
    """The study as any Optuna tool reads it."""
    return optuna.load_study(study_name="sweep", storage=open_journal(path, writable=False))


class Model:
    """What a trial should be: plain values, and rules simple enough to be seen to be right."""

    def __init__(self, record: TrialRecord) -> None:
        self.record = record
        self.curve: dict[int, float] = {}
        self.state = TrialState.RUNNING
        self.reason: Reason | None = None
        self.seconds = 0.0


class StudyMachine(RuleBasedStateMachine):
    """Start, report, end, and read again at any point."""

    @initialize(direction=st.sampled_from(list(Direction)))
    def begin(self, direction: Direction) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "study.journal"
        self.direction = direction
        self.models: list[Model] = []
        self.ended: dict[int, TrialRecord] = {}
        self.study = open_study(self.path, direction)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @property
    def running(self) -> list[int]:
        return [number for number, model in enumerate(self.models) if model.state is TrialState.RUNNING]

    @rule(lr=st.floats(1e-6, 10.0), batch=st.integers(16, 512), stage=st.sampled_from(["lr", "width"]))
    def start(self, lr: float, batch: int, stage: str) -> None:
        wanted = configuration(lr, batch)
        record = self.study.start(wanted, stage=stage, seed=2**32 - 1, epochs=9)
        assert record.number == len(self.models)
        assert (record.configuration, record.stage, record.seed, record.epochs) == (wanted, stage, 2**32 - 1, 9)
        self.models.append(Model(record))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), epoch=st.integers(1, 9), value=st.floats(allow_nan=False, allow_infinity=False))
    def report(self, data: st.DataObject, epoch: int, value: float) -> None:
        number = data.draw(st.sampled_from(self.running))
        model = self.models[number]
        assert self.study.report(number, epoch, value) is (epoch not in model.curve)
        model.curve.setdefault(epoch, value)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), state=ENDS, seconds=st.floats(0, 1e6), detail=st.text())
    def finish(self, data: st.DataObject, state: TrialState, seconds: float, detail: str) -> None:
        number = data.draw(st.sampled_from(self.running))
        model = self.models[number]
        if not model.curve:
            state = TrialState.INFEASIBLE
        reason = Reason.OUT_OF_MEMORY if state is TrialState.INFEASIBLE else None
        record = self.study.finish(number, state, seconds=seconds, reason=reason, detail=detail)
        model.state, model.reason, model.seconds = state, reason, seconds
        assert record.detail == detail
        self.ended[number] = record

    @precondition(lambda self: self.ended)
    @rule(data=st.data(), state=ENDS)
    def an_ended_trial_ends_once(self, data: st.DataObject, state: TrialState) -> None:
        number = data.draw(st.sampled_from(sorted(self.ended)))
        with pytest.raises(ConfigError, match=f"trial {number} has ended already"):
            self.study.finish(number, state, seconds=1.0)

    @rule()
    def reopen(self) -> None:
        before = self.study.records
        self.study = open_study(self.path, self.direction)
        assert self.study.records == before

    @invariant()
    def the_records_are_the_models(self) -> None:
        if not hasattr(self, "models"):
            return
        assert len(self.study) == len(self.models)
        for number, model in enumerate(self.models):
            record = self.study[number]
            assert (record.number, record.state, record.curve) == (number, model.state, model.curve)
            assert (record.reason, record.seconds) == (model.reason, model.seconds)
            assert record.configuration == model.record.configuration
            valued = model.state in (TrialState.COMPLETE, TrialState.PRUNED)
            best = min if self.direction is Direction.MINIMIZE else max
            assert record.value == (best(model.curve.values()) if valued else None)

    @invariant()
    def an_ended_trial_never_changes(self) -> None:
        for number, record in getattr(self, "ended", {}).items():
            assert self.study[number] == record

    @invariant()
    def the_incumbent_is_complete(self) -> None:
        if not hasattr(self, "models"):
            return
        best = incumbent(self.study.records, self.direction)
        assert self.study.incumbent == best
        complete = [self.study[n] for n, model in enumerate(self.models) if model.state is TrialState.COMPLETE]
        assert (best is None) == (not complete)
        if best is not None:
            assert best.state is TrialState.COMPLETE
            assert best.value is not None
            assert not any(self.direction.better(other.value or 0.0, best.value) for other in complete)

    @invariant()
    def optuna_reads_it(self) -> None:
        if not hasattr(self, "models"):
            return
        trials = stored_study(self.path).get_trials(deepcopy=False)
        assert len(trials) == len(self.models)
        for trial, model in zip(trials, self.models, strict=True):
            assert trial.distributions == SPACE.distributions()
            assert trial.params == {name: model.record.configuration[name] for name in trial.distributions}
            assert trial.state.is_finished() is model.state.finished
            broken = any(excess > 0 for excess in trial.constraints.values())
            assert broken is (model.state is TrialState.INFEASIBLE)
            if model.state.finished:
                assert trial.value is not None
                assert math.isfinite(trial.value)


TestStudyMachine = StudyMachine.TestCase
TestStudyMachine.settings = settings(
    max_examples=25,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.mark.parametrize("direction", list(Direction))
def test_an_infeasible_trial_is_worth_the_worst_known_and_never_chosen(tmp_path: Path, direction: Direction) -> None:
    path = tmp_path / "study.journal"
    study = open_study(path, direction)
    for value in (3.0, 1.0, 2.0):
        number = study.start(configuration(), stage="lr", seed=0, epochs=1).number
        study.report(number, 1, value)
        study.finish(number, TrialState.COMPLETE, seconds=0.0)
    number = study.start(configuration(), stage="lr", seed=0, epochs=1).number
    study.report(number, 1, direction.cost(-100.0))
    record = study.finish(number, TrialState.INFEASIBLE, seconds=0.0, reason=Reason.NON_FINITE, detail="loss is nan")
    assert (record.value, record.feasible, record.reason) == (None, False, Reason.NON_FINITE)
    stored = stored_study(path)
    assert stored.trials[number].value == (3.0 if direction is Direction.MINIMIZE else 1.0)
    assert stored.trials[number].constraints == {"feasible": 1.0}
    assert stored.trials[number].user_attrs["end"]["detail"] == "loss is nan"
    best = incumbent(study.records, direction)
    assert best is not None
    assert best.number != number
    assert stored.best_trial.number == best.number


def test_a_kill_in_the_middle_of_an_end_leaves_a_running_trial(tmp_path: Path) -> None:
    """Every prefix of the storage operations is a study in which the trial runs or has ended whole."""
    path = tmp_path / "study.journal"
    study = open_study(path)
    study.start(configuration(), stage="lr", seed=0, epochs=2)
    study.report(0, 1, 0.5)
    begun = path.read_bytes()
    study.finish(0, TrialState.INFEASIBLE, seconds=1.0, reason=Reason.WORKER_DIED, detail="killed")
    lines = path.read_bytes()[len(begun) :].splitlines(keepends=True)
    assert len(lines) == 3
    for kept in range(len(lines)):
        copy = tmp_path / f"{kept}.journal"
        copy.write_bytes(begun + b"".join(lines[:kept]))
        again = open_study(copy)
        assert (again[0].state, again[0].curve) == (TrialState.RUNNING, {1: 0.5})
        # The trial is resumed, and ends well this time.
        again.report(0, 2, 0.4)
        again.finish(0, TrialState.COMPLETE, seconds=2.0)
        trial = stored_study(copy).trials[0]
        assert trial.value == 0.4
        assert not any(excess > 0 for excess in trial.constraints.values())
        assert open_study(copy).records == again.records
        assert again[0].feasible


def test_optunas_own_tools_read_the_study(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    study = open_study(path)
    states = [TrialState.COMPLETE, TrialState.COMPLETE, TrialState.PRUNED, TrialState.INFEASIBLE]
    for number in range(16):
        lr = 10.0 ** (-number / 4)
        study.start(
            configuration(lr, 16 + number, "cosine" if number % 2 else "constant"), stage="lr", seed=0, epochs=2
        )
        study.report(number, 1, lr)
        study.finish(number, states[number % 4], seconds=1.0)
    stored = stored_study(path)
    table = stored.trials_dataframe()
    assert len(table) == 16
    assert {"params_optimizer.lr", "params_data.batch_size", "user_attrs_stage", "value"} <= set(table.columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        importance = optuna.importance.get_param_importances(
            stored, evaluator=optuna.importance.PedAnovaImportanceEvaluator()
        )
    assert set(importance) == set(SPACE.distributions())
    assert max(importance, key=importance.__getitem__) == "optimizer.lr"
    assert stored.best_trial.number == 13


# The journal file, cut and damaged.


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "study.journal"
    study = open_study(path)
    for number in range(2):
        study.start(configuration(), stage="lr", seed=0, epochs=2)
        study.report(number, 1, 0.5)
        study.finish(number, TrialState.INFEASIBLE, seconds=1.0, reason=Reason.USER_ERROR, detail="é\nline 2")
    return path


def test_a_journal_cut_anywhere_opens_and_goes_on(journal: Path, tmp_path: Path) -> None:
    """A kill in the middle of a write: every length of the file down to the last two lines."""
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    whole = open_study(journal).records
    start = len(content) - len(lines[-1]) - len(lines[-2])
    copy = tmp_path / "cut.journal"
    for length in range(start, len(content) + 1):
        copy.write_bytes(content[:length])
        kept = content[:length].rfind(b"\n") + 1
        assert mend_journal(copy) == length - kept
        assert copy.read_bytes() == content[:kept]
        assert mend_journal(copy) == 0
    # What is read, and what follows, depends on the whole lines alone.
    for count in range(len(lines) - 3, len(lines) + 1):
        half = lines[count][: len(lines[count]) // 2] if count < len(lines) else b""
        copy.write_bytes(b"".join(lines[:count]) + half)
        study = open_study(copy)
        assert study[0] == whole[0]
        assert study[1].configuration == whole[1].configuration
        number = study.start(configuration(), stage="next", seed=1, epochs=2).number
        study.report(number, 1, 0.25)
        again = open_study(copy)
        assert again.records == study.records
        again.report(number, 2, 0.125)
        again.finish(number, TrialState.COMPLETE, seconds=1.0)
        assert open_study(copy)[number].value == 0.125


def test_a_journal_cut_within_its_first_line_begins_anew(journal: Path) -> None:
    first = journal.read_bytes().splitlines(keepends=True)[0]
    for length in range(0, len(first), 7):
        journal.write_bytes(first[:length])
        study = open_study(journal)
        assert len(study) == 0
        study.start(configuration(), stage="lr", seed=0, epochs=1)
        assert len(open_study(journal)) == 1


def test_every_line_is_needed(journal: Path) -> None:
    """Unmended, half a line makes the journal unreadable after the next append: what mending is for."""
    content = journal.read_bytes()
    journal.write_bytes(content[:-9])
    with journal.open("ab") as handle:
        handle.write(json.dumps({"op_code": 2}).encode() + b"\n")
    with pytest.raises(OrchestratorError, match=r"line \d+ is damaged"):
        mend_journal(journal)


@pytest.mark.parametrize("line", [0, 3, -1])
@pytest.mark.parametrize("damage", [b"\x00\x00\n", b"{\n", b"\xff\xfe{}\n", b"\n"])
def test_a_damaged_line_is_refused_in_one_line(journal: Path, line: int, damage: bytes) -> None:
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[line] = damage
    journal.write_bytes(b"".join(lines))
    number = line % len(lines) + 1
    with pytest.raises(OrchestratorError, match=rf"study\.journal: line {number} is damaged") as error:
        open_study(journal)
    assert "\n" not in str(error.value)
    assert "sweep.name" in str(error.value)
    assert journal.read_bytes() == b"".join(lines)


def test_the_lock_of_a_killed_process_is_dropped(journal: Path) -> None:
    lock = journal.with_name(journal.name + ".lock")
    lock.symlink_to(journal)
    study = open_study(journal)
    assert not lock.is_symlink()
    study.start(configuration(), stage="lr", seed=0, epochs=1)


def test_what_others_write_beside_the_driver_is_read(journal: Path) -> None:
    """Optuna's dashboard keeps a user's notes in the study."""
    study = open_study(journal)
    study.start(configuration(), stage="lr", seed=0, epochs=3)
    beside = optuna.load_study(study_name="sweep", storage=JournalStorage(JournalFileBackend(str(journal))))
    beside.set_user_attr("note", "looks good")
    number = len(study) - 1
    study.report(number, 1, 0.5)
    study.finish(number, TrialState.PRUNED, seconds=1.0)
    again = open_study(journal)
    assert again.records == study.records
    assert stored_study(journal).user_attrs == {"note": "looks good"}


def test_to_look_changes_nothing(journal: Path) -> None:
    cut = journal.read_bytes()[:-5]
    journal.write_bytes(cut)
    storage = open_journal(journal, writable=False)
    study = SweepStudy(storage, "sweep", Direction.MINIMIZE, SPACE)
    assert len(study) == 2
    assert study[1].state is TrialState.RUNNING
    assert journal.read_bytes() == cut
