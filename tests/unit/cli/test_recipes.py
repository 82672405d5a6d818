"""The recipes and the data that come with mtbert: what a wheel has of them, and what `mtbert recipes` writes."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from mtbert.cli.main import main
from mtbert.recipe import load_data, load_recipe
from mtbert.runs import bundled

ROOT = Path(__file__).resolve().parents[3]
GIVEN = ["--encoder=x", "--data_dir=y"]


def written(name: str, capsys) -> str:
    assert main(["recipes", name]) == 0
    return capsys.readouterr().out


def test_all_recipes_are_listed_with_what_they_say_of_themselves(capsys):
    assert main(["recipes"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    files = (ROOT / "recipes" / "configs").rglob("*.yaml")
    names = {str(file.relative_to(ROOT / "recipes" / "configs").with_suffix("")) for file in files}
    assert set(lines) == names - {"cs224n/base"}
    assert lines["cs224n/A4"].startswith("Report A: annealed sampling")
    assert not [each for each in lines.values() if "accelerate" in each or "--encoder" in each]


def test_the_quickstart_runs_as_it_is_from_any_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(written("quickstart", capsys))
    recipe = load_recipe("mine.yaml")
    assert {name: len(each.splits["train"]) for name, each in load_data(recipe).items()} == {
        "sentiment": 330,
        "paraphrase": 340,
        "similarity": 300,
    }
    original = load_recipe(ROOT / "recipes" / "configs" / "quickstart.yaml", ["--training.output_dir=x"]).to_dict()
    paths = {"encoder": recipe.encoder, "data_dir": recipe.data_dir}
    original["training"]["output_dir"] = "runs/quickstart"
    assert recipe.to_dict() == original | paths


@pytest.mark.parametrize("installed", [True, False])
def test_the_quickstart_names_an_encoder_that_is_there(installed, tmp_path, monkeypatch, capsys):
    def find() -> Path:
        if not installed:
            raise FileNotFoundError
        return tmp_path / "it's here"

    monkeypatch.setattr("mtbert.cli.recipes.find_encoder", find)
    text = written("quickstart", capsys)
    encoder = yaml.safe_load(text)["encoder"]
    assert encoder == (str(find()) if installed else "sentence-transformers/all-MiniLM-L6-v2")
    assert '--encoder "$(mtbert encoder)"' in text.splitlines()[2]


@pytest.mark.parametrize("name", sorted(set(bundled.recipes()) - {"quickstart"}))
def test_a_recipe_that_is_written_says_what_its_file_says(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(written(name, capsys))
    output = f"--training.output_dir=runs/{Path(name).name}"
    assert load_recipe("mine.yaml", GIVEN).to_dict() == load_recipe(bundled.recipes()[name], [*GIVEN, output]).to_dict()


def test_a_name_that_is_wrong_or_short(capsys):
    with pytest.raises(SystemExit, match="there is no recipe 'quikstart'; did you mean quickstart"):
        main(["recipes", "quikstart"])
    assert written("E6", capsys) == written("cs224n/E6", capsys)


@pytest.mark.slow
def test_a_wheel_has_the_recipes_the_data_and_the_command(tmp_path):
    source = tmp_path / "source"
    for name in ("mtbert", "recipes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(source)]
    subprocess.run(command, check=True, capture_output=True, timeout=500)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    installed, recipes = tmp_path / "installed" / "mtbert" / "bundled", ROOT / "recipes"
    for pattern in ("configs/**/*.*", "sample_data/*", "accelerate/*"):
        found, wanted = (
            {file.relative_to(folder): file.read_bytes() for file in folder.glob(pattern) if file.is_file()}
            for folder in (installed, recipes)
        )
        assert found == wanted and wanted
    assert (installed / "published.yaml").is_file()
    (points,) = (tmp_path / "installed").glob("*.dist-info/entry_points.txt")
    assert "mtbert = mtbert.cli.main:main" in points.read_text()
    command = [sys.executable, "-m", "mtbert", "recipes", "quickstart"]
    environment = {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert yaml.safe_load(done.stdout)["data_dir"] == str(installed / "sample_data")
