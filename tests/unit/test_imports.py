"""Imports run one way, and what is uploaded beside a checkpoint needs nothing of the rest."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.dynamic_module_utils import get_relative_import_files

import mtbert

PACKAGE = Path(__file__).resolve().parents[2] / "mtbert"
MODELING = sorted((PACKAGE / "modeling").glob("[!_]*.py"))


def imports(file: Path) -> list[tuple[int, str]]:
    """(level, module) of every import in a file, those inside functions too."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module)] if node.module else [(node.level, f" {a.name}") for a in node.names]
    return found


@pytest.mark.parametrize("file", MODELING, ids=lambda file: file.stem)
def test_modeling_imports_its_own_folder_only(file):
    for level, module in imports(file):
        assert level <= 1 and not (level == 0 and module.split(".")[0] == "mtbert"), f"{file.name}: {module}"
        # transformers finds `from .module import name`, and only that, when it fetches code from a hub
        assert level == 0 or not module.startswith(" "), f"{file.name}: from . import{module}"


def test_every_file_of_modeling_is_reached_from_the_model():
    found = {Path(file).name for file in get_relative_import_files(PACKAGE / "modeling" / "modeling_mtbert.py")}
    assert {file.name for file in MODELING} == found | {"modeling_mtbert.py"}


@pytest.mark.parametrize("name", ["hub.py", "model_card.py"])
def test_hub_and_card_do_not_import_training(name):
    assert not [module for _, module in imports(PACKAGE / name) if module.split(".")[0] in ("training", "recipe")]


def needed(file: Path, seen: set[Path]) -> set[str]:
    """The packages that an import of a file of mtbert imports, over all files of mtbert that it leads to."""
    if file in seen:
        return set()
    seen.add(file)
    found = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:  # what functions import comes when they are called
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            module = file.parents[node.level - 1] / node.module.replace(".", "/")
            found |= needed(module / "__init__.py" if module.is_dir() else module.with_suffix(".py"), seen)
    return found - set(sys.stdlib_module_names)


def test_every_public_name_is_there_and_every_class_of_settings_is_public():
    assert sorted(mtbert.__all__) == mtbert.__all__ and set(mtbert.__all__) == set(mtbert._MODULES)
    assert all(isinstance(getattr(mtbert, name), type) or name.islower() for name in mtbert.__all__)
    assert set(mtbert.__all__) <= set(dir(mtbert))
    taken = inspect.signature(mtbert.MtBertTrainer.__init__).parameters.values()
    settings = {word for each in taken for word in re.findall(r"[A-Z]\w+", str(each.annotation))}
    others = {
        "Any",
        "Iterable",
        "Dataset",
        "Mapping",
        "None",
        "PeftModel",
        "PreTrainedTokenizerBase",
        "Splits",
        "Stage",
    }
    assert settings - others <= set(mtbert.__all__)


HEAVY = ("matplotlib", "sklearn", "pandas", "datasets", "peft", "tensorboard", "scipy", "evaluate", "pyarrow", "rich")
LOADED = "import json, sys; print(json.dumps([name for name in sys.modules if '.' not in name]))"


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a statement loads in a new process."""
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", f"{statement}; {LOADED}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=300)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_mtbert_loads_no_heavy_module_that_its_models_do_not_need():
    needs = "from transformers import AutoConfig, AutoModel, PreTrainedModel, pipelines"  # which load scipy
    of_transformers = loaded_by(needs)
    more = loaded_by("import mtbert") - of_transformers
    assert not {*HEAVY, "accelerate"} & more
    third_party = more - set(sys.stdlib_module_names) - {"mtbert"}
    assert len(third_party) < 12, sorted(third_party)


def test_help_loads_neither_torch_nor_transformers():
    loaded = loaded_by("from mtbert.cli import main, arguments")
    loaded_by_help = loaded_by(
        "import sys; sys.argv = ['/bin/mtbert']; from mtbert.cli.main import main; main(['--help'])"
    )
    assert "mtbert" in loaded and not {"torch", "transformers", *HEAVY} & loaded_by_help


def test_prediction_needs_nothing_of_the_training_side():
    files: set[Path] = set()
    of_transformers = {"numpy", "huggingface_hub", "safetensors", "yaml"}
    assert needed(PACKAGE / "__init__.py", files) == set()  # which registers what hub.py names
    files.remove(PACKAGE / "training" / "methods" / "__init__.py")  # the names of the methods' settings alone
    assert needed(PACKAGE / "hub.py", files) == {"torch", "transformers"} | of_transformers
    assert {file.parent.name for file in files} == {"mtbert", "modeling", "origins"}
