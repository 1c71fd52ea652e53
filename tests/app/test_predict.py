"""``stage=predict``: a sweep's models on files."""

import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from orchestrator.app.main import main
from orchestrator.serving.model import Model

SMALL = ["runner=inline", "tracking=none", "trainer.epochs=2", "sampler=random", "n_trials=2"]
TABLE, IMAGES = load_breast_cancer(), load_digits()


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep on a table with an ensemble, and one on images without."""
    folder = tmp_path_factory.mktemp("swept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["run.py"])
        patch.setattr(sys, "path", [*sys.path])
        patch.chdir(folder)
        assert main(["stage=all", "recipe.order=[lr,ensemble]", "task=breast_cancer", *SMALL]) == 0
        assert main(["stage=lr", "task=digits_mlp", *SMALL]) == 0
    return folder


@pytest.fixture(autouse=True)
def _there(swept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("sweeps").symlink_to(swept / "sweeps")


def run(*words: str, task: str = "breast_cancer") -> int:
    return main(["stage=predict", f"task={task}", *words])


def model(task: str, name: str) -> Model:
    return Model.load(Path(f"sweeps/{task}-seed0/models/{name}/model"))


def table(count: int = 50) -> pa.Table:
    """Measurements in another order, with the patient's number."""
    columns = {name: TABLE.data[:count, at] for at, name in enumerate(TABLE.feature_names)}
    return pa.table({"patient": [f"p{n}" for n in range(count)], **dict(sorted(columns.items()))})


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_in_and_a_table_out_with_the_columns_to_keep(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    write = {"csv": pyarrow.csv.write_csv, "parquet": pyarrow.parquet.write_table}
    read = {"csv": pyarrow.csv.read_csv, "parquet": pyarrow.parquet.read_table}
    write[kind](table(), f"in.{kind}")
    words = [f"predict.input=in.{kind}", f"predict.output=out.{kind}", "predict.keep=[patient]", "predict.rows=7"]
    assert run(*words) == 0
    assert re.search(r"predicted 50 examples with the ensemble \(trial-\d.*\): out", capsys.readouterr().out)
    found = read[kind](f"out.{kind}")
    assert found.column_names == ["patient", "malignant", "benign"]
    assert found["patient"].to_pylist() == table()["patient"].to_pylist()
    wanted = model("breast_cancer", "ensemble").predict(TABLE.data[:50])
    assert np.allclose(np.stack([found["malignant"], found["benign"]], axis=1), wanted, rtol=1e-4)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_arrays_in_and_arrays_out(kind: str) -> None:
    images = IMAGES.images[:50]
    np.save("in.npy", images) if kind == "npy" else np.savez("in.npz", other=images[:3], inputs=images)
    words = [f"predict.input=in.{kind}", f"predict.output=out.{kind}", "predict.model=winner", "predict.rows=8"]
    assert run(*words, task="digits_mlp") == 0
    found = np.load(f"out.{kind}")
    found = found if kind == "npy" else found["predictions"]
    assert np.allclose(found, model("digits_mlp", "winner").predict(images), rtol=1e-4)


def test_a_table_of_pixels_is_shaped_as_images() -> None:
    pixels = {f"p{at}": IMAGES.data[:9, at].astype(int) for at in range(64)}
    pyarrow.csv.write_csv(pa.table(pixels), "in.csv")
    assert run("predict.input=in.csv", "predict.output=out.npy", task="digits_mlp") == 0
    assert np.allclose(np.load("out.npy"), model("digits_mlp", "winner").predict(IMAGES.images[:9]), rtol=1e-4)


def test_the_settings_of_the_sweep_and_its_data_are_not_needed() -> None:
    shutil.copytree("sweeps/breast_cancer-seed0/models", "alone/elsewhere/models")
    np.save("in.npy", TABLE.data[:4])
    words = ["sweep.dir=alone", "sweep.name=elsewhere", "predict.input=in.npy", "predict.output=out.npy"]
    assert run(*words, task="digits_cnn") == 0
    assert np.load("out.npy").shape == (4, 2)


def without(name: str) -> pa.Table:
    return table().drop_columns(["patient", name])


def changed(values: list[str | None]) -> pa.Table:
    known = table().drop_columns(["patient"])
    return known.set_column(known.column_names.index("mean area"), "mean area", pa.array(values, pa.string()))


NUMBERS = ["1.5"] * 50


@pytest.mark.parametrize(
    ("given", "words", "said"),
    [
        (None, ["predict.input=gone.csv"], r"gone\.csv: there is no such file"),
        (None, ["predict.input=in.txt"], r"predict\.input=in\.txt: must end in one of \.npy, \.npz, \.csv"),
        (None, ["predict.output=null"], r"stage=predict needs predict\.input=FILE and predict\.output=FILE"),
        (None, ["predict.output=in.csv"], r"predict\.output=in\.csv: is the input"),
        (None, ["predict.model=student"], r"=student: sweep breast_cancer-seed0 has none; .*winner, ensemble"),
        (None, ["predict.model=best"], r"predict\.model=best: must be 'winner', 'ensemble' or 'student'"),
        (table(), [], r"in\.csv: the ensemble has no input patient; .*: predict\.keep=\[patient\]"),
        (table(), ["predict.keep=[patent]"], r"in\.csv: has no column patent to keep; did you mean patient\?"),
        (without("mean area"), [], r"in\.csv: has no column mean area; did you mean"),
        (changed([*NUMBERS[:30], None, *NUMBERS[31:]]), [], r"in\.csv: column mean area has no value in row 31"),
        (changed([*NUMBERS[:30], "many", *NUMBERS[31:]]), [], r"in\.csv: cannot be read: .*many"),
        (table(0).drop_columns(["patient"]), [], r"in\.csv: .*"),
        (table(), ["predict.keep=[patient]", "predict.output=o.npy"], r"o\.npy: an array cannot keep columns"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_one_line_and_nothing_is_written(
    given: pa.Table | None, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if given is not None:
        pyarrow.csv.write_csv(given, "in.csv")
    before = sorted(path.name for path in Path().iterdir())
    plain = {"predict.input": "in.csv", "predict.output": "out.csv"}
    plain |= dict(word.split("=", 1) for word in words)
    assert run(*(f"{key}={value}" for key, value in plain.items())) == 2
    error = capsys.readouterr().err
    assert re.search(said, error)
    assert len(error.splitlines()) == 1
    assert sorted(path.name for path in Path().iterdir()) == before


def test_an_array_of_another_shape_is_refused_with_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    np.save("in.npy", IMAGES.data)
    assert run("predict.input=in.npy", "predict.output=out.npy", task="digits_mlp") == 2
    said = r"in\.npy: inputs have shape \(1797, 64\); the winner takes \(examples, 8, 8\)"
    assert re.search(said, capsys.readouterr().err)
    np.save("in.npy", np.array([None]), allow_pickle=True)
    assert run("predict.input=in.npy", "predict.output=out.npy", task="digits_mlp") == 2
    assert "in.npy: cannot be read" in capsys.readouterr().err


def test_a_sweep_without_a_model_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("predict.input=in.npy", "predict.output=out.npy", "sweep.name=none") == 4
    assert re.search(r"none: there is no such sweep; run a search stage", capsys.readouterr().err)
