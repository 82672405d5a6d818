"""The command line answers --help and wrong arguments without torch; every other error is one message, status 1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mtbert.cli import arguments, parsing
from mtbert.cli.main import main
from mtbert.data.delimited import QUOTING
from mtbert.data.streaming import KINDS, STDIN
from mtbert.evaluation.prediction_files import FILE_FORMATS
from mtbert.modeling.task_spec import POOLINGS
from mtbert.recipe import Recipe
from mtbert.recipe.fields import known_fields
from mtbert.training.methods import sections

ROOT = Path(__file__).resolve().parents[3]
QUICKSTART = str(ROOT / "recipes" / "configs" / "quickstart.yaml")
HELP = [[command, "--help"] for command in arguments.COMMANDS]
WRONG = {
    "a command": (["finetun", "x.yaml"], "there is no command 'finetun'; did you mean finetune?"),
    "no recipe": (["finetune"], "the following arguments are required: RECIPE.yaml"),
    "a recipe that is not there": (
        ["pretrain", "gone.yaml"],
        "there is no file 'gone.yaml'; `mtbert recipes`",
    ),
    "a name that no file has": (["finetune", "x" * 400], "there is no file 'xxx"),
    "the name of a recipe": (["finetune", "quickstart"], "write it first: mtbert recipes quickstart > mine.yaml"),
    "an option": (["finetune", QUICKSTART, "--num_proceses", "2"], "no option --num_proceses; did you mean --num_proc"),
    "no value": (["finetune", QUICKSTART, "--training.seed"], "--training.seed has no value; write --training.seed V"),
    "a number": (["finetune", QUICKSTART, "--num_processes", "0"], "--num_processes is 0, but must be 1 or more"),
    "a choice": (["predict", "x", "--output", "y", "--format", "xml"], "argument --format: invalid choice: 'xml'"),
    "what a search sets": (
        ["search", "x", "--space", "y", "--tralis", "3"],
        "no option --tralis; did you mean --trials",
    ),
}


def run(*command: str, **environment: str) -> tuple[int, str, bool]:
    """Status and output of a program of Python, and whether it imported torch."""
    kept = {key: value for key, value in os.environ.items() if key != "WORLD_SIZE"}
    environment = {**kept, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    command = [sys.executable, "-X", "importtime", *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    imported = [line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    said = "\n".join(line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert "mtbert.cli.main" in imported
    return done.returncode, done.stdout + said, "torch" in imported or "transformers" in imported


@pytest.mark.parametrize("words", [["--help"], [], *HELP, ["recipes"]], ids=" ".join)
def test_help_needs_no_torch(words):
    status, said, torch = run("-m", "mtbert", *words)
    assert status == 0 and not torch
    assert "mtbert" in said


@pytest.mark.parametrize(("words", "message"), WRONG.values(), ids=WRONG)
def test_wrong_arguments_end_with_2_and_need_no_torch(words, message):
    status, said, torch = run("-m", "mtbert", *words)
    assert status == 2 and not torch
    assert message in said and "Traceback" not in said


@pytest.mark.parametrize("script", sorted((ROOT / "recipes").glob("*.py")), ids=lambda path: path.name)
def test_scripts_of_recipes_are_the_commands(script):
    if script.name == "quickstart_predict.py":
        pytest.skip("shows how a checkpoint is used; it is no command")
    assert len([line for line in script.read_text().splitlines() if line and not line.startswith('"""')]) <= 4
    status, said, torch = run(str(script), "--help")
    assert status == 0 and not torch
    assert said.startswith("usage: mtbert")


def test_the_installed_program_needs_no_torch_for_help(tmp_path):
    program = tmp_path / "bin" / "mtbert"  # as pip writes it
    program.parent.mkdir()
    program.write_text(
        "import sys\nfrom mtbert.cli.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n"
    )
    status, said, torch = run(str(program), "finetune", "--help")
    assert (status, torch) == (0, False) and said.startswith("usage: mtbert finetune")


def test_an_error_is_one_message_with_status_1(tmp_path):
    (tmp_path / "bad.yaml").write_text("tasks: {}\nzork: 1\n")
    status, said, _ = run("-m", "mtbert", "finetune", str(tmp_path / "bad.yaml"))
    assert status == 1
    assert "bad.yaml:2: zork" in said and "Traceback" not in said


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("mtbert.cli.main.find_spec", lambda name: None)
    with pytest.raises(SystemExit, match=r"needs optuna; install it with: pip install 'mtbert\[search\]'"):
        main(["search", "x.yaml", "--space", "y.yaml"])


def test_all_keys_are_listed_on_demand(capsys):
    with pytest.raises(SystemExit) as left:
        main(["finetune", "--help-keys"])
    assert not left.value.code
    assert "--training.learning_rate" in capsys.readouterr().out


def test_the_version(capsys):
    import mtbert

    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == mtbert.__version__


def test_what_arguments_repeats_is_what_the_library_has():
    """It is repeated so that the library, which imports torch, need not be asked."""
    assert arguments.INPUT_FORMATS == KINDS
    assert arguments.OUTPUT_FORMATS == FILE_FORMATS
    assert arguments.QUOTING == QUOTING
    assert tuple(each for each in POOLINGS if each != "pooler") == parsing.POOLINGS
    assert set(parsing.SECTIONS) == {*known_fields(Recipe), *sections(), "all_tasks", "base"}
    assert arguments.predict(["x", "--output", "y"]).file == STDIN


REGISTERED = """
from transformers import AutoConfig, AutoModel
from transformers.pipelines import PIPELINE_REGISTRY
assert "multi-task-text-classification" in PIPELINE_REGISTRY.supported_tasks
assert AutoConfig.for_model("mtbert").model_type == "mtbert"
import mtbert
assert sorted(mtbert.__all__) == sorted(name for name in mtbert.__all__ if getattr(mtbert, name).__name__ == name)
"""


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("mtbert", "import mtbert"),
        ("bin/mtbert", "import mtbert, sys\nassert 'torch' not in sys.modules\nmtbert.MtBertConfig"),
    ],
)
def test_who_imports_mtbert_has_it_registered(name, first, tmp_path):
    """At once; in the installed program with the first public name."""
    program = tmp_path / name
    program.parent.mkdir(exist_ok=True)
    program.write_text(f"{first}\n{REGISTERED}")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, str(program)], env=environment, check=True, timeout=300)
