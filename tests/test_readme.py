"""The README's blocks run, with the tiny encoder in place of the one they name."""

import re
from pathlib import Path

import yaml

from mtbert.recipe import Recipe

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", README, re.DOTALL | re.MULTILINE)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def test_python_blocks_run_in_order(encoder_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in blocks("python"):
        exec(compile(block.replace(ENCODER, encoder_dir), "README.md", "exec"), names)
    assert names["logits"].shape == (2, 2)


def test_yaml_blocks_are_recipes():
    for block in blocks("yaml"):
        recipe = Recipe.from_dict(yaml.safe_load(block.replace("5e-5", "0.00005")))
        assert recipe.tasks


def test_targets_of_make_exist():
    makefile = (Path(__file__).resolve().parents[1] / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_files_that_it_names_exist():
    root = Path(__file__).resolve().parents[1]
    for name in re.findall(r"(?:recipes|mtbert|tests|benchmarks)/[\w/.]+", README):
        assert (root / name.rstrip("./")).exists() or name.endswith("mine.yaml"), name
