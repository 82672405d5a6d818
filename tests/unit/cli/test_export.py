"""`mtbert export`: what it writes and refuses, and prediction with what it wrote."""

import csv
import warnings

import pytest

from mtbert.cli import main as cli
from mtbert.export import extras, folder as exported_folder
from mtbert.modeling.onnx_export import refuse_family
from mtbert.modeling.task_spec import TaskSpec

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
ROWS = 'text,n\nthe cat runs,1\n"a dog, a bird",2\n,3\nfish,4\n'


@pytest.fixture
def checkpoint(make_model, tokenizer, tmp_path):
    """A checkpoint of one task."""
    folder = tmp_path / "run"
    model = make_model([TaskSpec("stars", labels=3, pooling="mean", calibration={"temperature": 2.0})])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def export(checkpoint, output, *more):
    return cli.main(["export", str(checkpoint), "--to", "onnx", "--output", str(output), *more])


def test_predict_reads_an_exported_folder_as_it_reads_the_checkpoint(checkpoint, tmp_path, capfd):
    output = tmp_path / "exported"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export(checkpoint, output) == 0
    printed = capfd.readouterr()
    said = [line for line in printed.err.replace("\r", "\n").splitlines() if line and "Loading weights" not in line]
    assert said in ([], ["writing graphs …"])  # which is told after three seconds
    assert printed.out.startswith(f"{output} answers 1 tasks in")
    names = {"README.md", "decisions.json", "example.py", "model.onnx", "tokenizer.json"}
    assert {file.name for file in output.iterdir()} == names
    assert "temperature 2" in (output / "README.md").read_text(encoding="utf-8")
    (tmp_path / "rows.csv").write_text(ROWS)
    tables = []
    for folder in (checkpoint, output):
        file = tmp_path / f"{folder.name}.csv"
        assert cli.main(["predict", str(folder), str(tmp_path / "rows.csv"), "--output", str(file)]) == 0
        tables.append(list(csv.DictReader(file.open())))
    for own, expected in zip(*tables, strict=True):
        assert own["row"] == expected["row"] and own["stars"] == expected["stars"]
        for label in "012":
            assert float(own[f"stars:{label}"]) == pytest.approx(float(expected[f"stars:{label}"]), abs=1e-5)
    with pytest.raises(SystemExit, match="is an exported model, which runs on the CPU"):
        cli.main(["predict", str(output), "-", "--output", "-", "--format", "csv", "--device", "cuda"])
    (output / "decisions.json").write_text('{"format": 99}')
    with pytest.raises(SystemExit, match="has format 99, but must have 1"):
        cli.main(["predict", str(output), "-", "--output", "-", "--format", "csv"])


@pytest.mark.parametrize("more", [(), ("--overwrite",)])
def test_a_folder_of_something_else_is_never_replaced(checkpoint, tmp_path, more):
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    with pytest.raises(SystemExit, match="exists; give another" if not more else "is no exported model"):
        export(checkpoint, other, *more)
    for place in (checkpoint, checkpoint.parent):
        with pytest.raises(SystemExit, match="holds the checkpoint"):
            export(checkpoint, place, *more)
    assert (other / "thesis.txt").read_text() == "years of work" and (checkpoint / "config.json").exists()


def test_nothing_half_written_is_left_and_the_old_folder_stays(checkpoint, tmp_path, monkeypatch):
    output = tmp_path / "exported"
    output.mkdir()
    (output / "decisions.json").write_text("{}")

    def fail(*args):
        raise OSError("the disk is gone")

    monkeypatch.setattr(exported_folder, "write_graphs", lambda *args: [])
    monkeypatch.setattr(exported_folder, "task_entry", fail)
    with pytest.raises(SystemExit, match="the disk is gone"):
        export(checkpoint, output, "--overwrite")
    assert (output / "decisions.json").read_text() == "{}"
    assert {file.name for file in tmp_path.iterdir()} == {"run", "exported"}


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_missing_package_is_named_with_its_extra(checkpoint, tmp_path, monkeypatch, engine):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    arguments = ["export", str(checkpoint), "--to", engine, "--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit, match=rf"pip install 'mtbert\[{engine}\]'"):
        cli.main(arguments)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--max_loss", "-1"), "--max_loss is for --int8; add that"),
        (("--int8", "--max_loss", "-1"), "--max_loss is -1.0, but must be 0 or more"),
        (("--int8", "--max_loss", "nan"), "--max_loss is nan"),
        (("--int8", "--rows", "0"), "--rows is 0"),
        (("--data_dir", "data"), "--data_dir is for --int8"),
        (("--scales", "static"), "--scales is for --int8"),
        (("--int8", "--scales", "small"), "invalid choice: 'small'"),
        (("--int8", "--scales", "dynamic", "--to", "openvino"), "--scales is dynamic, which openvino has not"),
        (("--to", "tflite"), "invalid choice: 'tflite'"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(tmp_path, arguments, why, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["export", "run", "--to", "onnx", "--output", str(tmp_path / "out"), *arguments])
    assert error.value.code == 2
    assert why in " ".join(capsys.readouterr().err.split())


def test_int8_without_a_recipe_says_so(checkpoint, tmp_path):
    with pytest.raises(SystemExit, match="name a recipe with --recipe"):
        export(checkpoint, tmp_path / "out", "--int8")


@pytest.mark.parametrize("family", ["longformer", "fnet", "convbert", "mobilebert"])
def test_families_that_a_graph_cannot_express_are_refused_by_name(family):
    encoder = type("Config", (), {"model_type": family})
    model = type("Model", (), {"config": type("Outer", (), {"encoder": encoder})})
    with pytest.raises(ValueError, match=f"'{family}' can not be exported: "):
        refuse_family(model)
