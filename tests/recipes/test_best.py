"""recipes/best.mk: its commands are ones that the scripts take, and each makes what later ones read."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from mtbert.cli.arguments import evaluate, reproduce
from mtbert.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
DRY_RUN = ["make", "--no-print-directory", "--dry-run", "-f", "recipes/best.mk"]


STUDENTS = ("distilled", "base_distilled")
GOALS = (*(f"{each}/scores.json" for each in STUDENTS), "base_mean/averaged.json")


def commands(tmp_path, *goals: str) -> list[list[str]]:
    given = [*DRY_RUN, "DATA=data", f"OUT={tmp_path}", "BIN=bin", *(f"{tmp_path}/{each}" for each in goals or GOALS)]
    ended = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, check=True)
    return [shlex.split(line) for line in ended.stdout.replace("\\\n", " ").splitlines()]


def test_what_a_student_needs_is_made_before_it(tmp_path):
    made, students = set(), []
    for command in commands(tmp_path):
        at = next(at for at, word in enumerate(command) if word.endswith(".py"))
        script, arguments = Path(command[at]).name, command[at + 1 :]
        if script == "average.py":
            members = arguments[: arguments.index("--greedy")]
            assert len(members) == 3 and set(members) <= made and arguments[-2:] == ["--out", f"{tmp_path}/base_mean"]
            continue
        if script != "finetune.py":
            made.add(arguments[arguments.index({"get_encoder.py": "--base"}.get(script, "--out")) + 1])
            continue
        recipe = Recipe.from_cli(arguments)
        assert recipe.data_dir == "data"
        assert recipe.training["resume_from_checkpoint"] == "auto"
        assert recipe.encoder in made or recipe.encoder == "$(bin/python recipes/get_encoder.py)"
        if (distillation := recipe.methods.get("distillation")) is not None:
            texts = {task.data.unlabelled for task in recipe.tasks.values()}
            assert len(texts) == len(recipe.tasks)
            assert texts | set(distillation.teachers) <= made
            students.append(Path(recipe.training["output_dir"]).name)
        made.add(recipe.training["output_dir"])
    assert tuple(students) == STUDENTS and len(members) == 3


def test_what_is_there_is_kept(tmp_path):
    every = commands(tmp_path)
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "scores.json").write_text("{}")
    left = commands(tmp_path)
    assert [command for command in every if command not in left] == [
        command for command in every if f"{tmp_path}/base" in command and "finetune.py" in " ".join(command)
    ]
    assert len(left) == len(every) - 1


def test_the_report_is_of_the_run_and_hides_its_texts(tmp_path):
    *_, last = commands(tmp_path, "base/report/report.html")
    assert Path(last[1]).name == "evaluate_run.py" and last[2] == f"{tmp_path}/base"
    options = evaluate(last[2:])
    assert options.output == tmp_path / "base/report" and options.changes == ["--data_dir", "data"]
    assert options.hide_texts


@pytest.mark.parametrize("entry", ["small", "base"])
def test_an_entry_is_chosen_by_folds_before_its_final_runs(tmp_path, entry):
    *_, choosing, final = commands(tmp_path, f"{entry}.md")
    options = [reproduce(words[words.index("recipes/reproduce.py") + 1 :]) for words in (choosing, final)]
    assert options[0].candidates == Path(f"recipes/candidates/{entry}.yaml") and not options[0].rows
    assert options[1].rows == [str(options[0].results / "chosen.yaml")] and options[1].candidates is None
    assert (options[1].budget, options[1].seeds, options[1].title) == ("published", [42, 43], entry)
    assert options[1].output == tmp_path and options[1].results == options[0].results / "final"
    assert len({each.encoder for each in options}) == 1 and {each.data_dir for each in options} == {"data"}


def test_the_folder_of_the_data_is_asked_for():
    ended = subprocess.run(DRY_RUN, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode
    assert "give DATA=DIR, the folder of the course's files" in ended.stderr
