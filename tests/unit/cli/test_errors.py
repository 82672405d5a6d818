"""How a script ends: errors for the user in one line and with status 1, all others with their traceback."""

import errno
import json
import subprocess
import sys
import warnings

import pytest

from mtbert.cli.errors import clear_errors
from mtbert.data.sampling import Schedule
from mtbert.errors import NotFinite, RecipeError
from mtbert.modeling.task_spec import HeadSpec, TaskSpec
from mtbert.recipe import Recipe, load_recipe, yaml_layers
from mtbert.training.checkpoints import run_folder
from mtbert.training.checkpoints.run_folder import choose_checkpoint
from mtbert.training.methods.distillation import Distillation

TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"


@pytest.fixture(autouse=True)
def same_hooks():
    """What `clear_errors` leaves behind for an error that goes through it is gone after the test."""
    before = sys.excepthook
    yield
    sys.excepthook = before


def test_our_own_errors_end_the_process_with_their_message(tmp_path):
    class Args:
        output_dir, resume_from_checkpoint = str(tmp_path), "gone"

    with pytest.raises(SystemExit) as left, clear_errors():
        choose_checkpoint(Args)
    assert left.value.code == "resume_from_checkpoint: there is no folder gone; give a checkpoint's, or true"
    with pytest.raises(SystemExit, match="gone.yaml: cannot be read: No such file or directory"), clear_errors():
        load_recipe("gone.yaml")


@pytest.mark.parametrize("error", [ValueError("x"), OSError("x"), NotFinite("x"), RecipeError(["x"]), KeyError("x")])
def test_errors_of_others_keep_their_traceback(error):
    with pytest.raises(type(error)) as kept, clear_errors():
        raise error
    assert kept.value is error


def test_what_goes_well_goes_on():
    with clear_errors():
        assert Schedule().problems() == [] and Distillation(("a",)).problems() == []


BUGS = {  # what Python itself raises for a slip in our code
    "int": lambda *_: int("x"),
    "max": lambda *_: max([]),
    "zip": lambda *_: list(zip([1], [], strict=True)),
    "index": lambda *_: [].index(1),
    "unpacking": lambda *_: (lambda a, b: None)(*map(int, ("1", "y"))),
    "division": lambda *_: 1 // 0,
    "overflow": lambda *_: int(float("inf")),
    "key": lambda *_: {}["x"],
    "file descriptor": lambda *_: open(-1),  # noqa: SIM115
}


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_a_bug_of_ours_keeps_its_traceback(bug, monkeypatch, tmp_path):
    """The slip stands in a function of mtbert: its code says that it is of that file."""
    code = bug.__code__.replace(co_filename=run_folder.__file__)
    monkeypatch.setattr(run_folder, "damage", type(bug)(code, {}))
    (tmp_path / "checkpoint").mkdir()

    class Args:
        output_dir, resume_from_checkpoint = str(tmp_path), str(tmp_path / "checkpoint")

    with pytest.raises(Exception) as kept, clear_errors():
        choose_checkpoint(Args)
    assert not isinstance(kept.value, SystemExit)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
@pytest.mark.parametrize("cls", [HeadSpec, TaskSpec, Schedule])
def test_a_bug_in_a_check_is_no_problem_of_the_recipe(cls, bug, monkeypatch):
    """What collects the problems of a recipe takes errors for the user alone."""
    tasks = {"one": {"labels": 2, "head": {"type": "linear"}, "data": {"train": "a.csv"}}}
    tree = {"encoder": "e", "tasks": tasks, "training": {"output_dir": "out"}}
    Recipe.from_dict(tree)
    monkeypatch.setattr(cls, "problems", bug)
    with pytest.raises(Exception) as kept, clear_errors():
        Recipe.from_dict(tree)
    assert not isinstance(kept.value, RecipeError | SystemExit)


@pytest.mark.parametrize(
    ("error", "clear"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "data.csv"), True),
        (PermissionError(errno.EACCES, "Permission denied", "data.csv"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), True),
        (OSError(errno.EBADF, "Bad file descriptor"), False),
        (OSError("something"), False),
    ],
    ids=repr,
)
def test_a_file_that_the_machine_refuses_is_no_bug(error, clear, monkeypatch):
    def refused(*_):
        raise error

    refused.__code__ = refused.__code__.replace(co_filename=yaml_layers.__file__)
    monkeypatch.setattr(Schedule, "problems", refused)
    with pytest.raises(SystemExit if clear else OSError) as left, clear_errors():
        Schedule().problems()
    assert left.value.code == str(error) if clear else left.value is error


def test_a_file_that_is_opened_by_the_standard_library_for_us(tmp_path):
    with pytest.raises(SystemExit) as left, clear_errors():
        run_folder.save_run(tmp_path / "file" / "below", recipe={}) if (tmp_path / "file").write_text("") == 0 else None
    assert left.value.code == f"[Errno 20] Not a directory: '{tmp_path / 'file' / 'below'}'"


LETTERS = "abcdefghijklmnopqrstuvwxyz012345"
FORMS = {  # ways in which a token may stand in a recipe or in a message
    "a token": f"hf_{LETTERS}",
    "in a URL": f"https://user:hf_{LETTERS}@host/data.csv",
    "a password in a URL": f"https://user:{LETTERS}@host/data.csv",
    "on the command line": f"--training.hub_tokn=hf_{LETTERS}",
    "in a list": ["a", f"hf_{LETTERS}"],
    "in nested mappings": {"a": {"b": {"c": f"hf_{LETTERS}"}}},
    "as a key": {f"hf_{LETTERS}": 1},
    "as an environment has it": f"HF_TOKEN=hf_{LETTERS}",
    "of an organisation": f"api_org_{LETTERS}",
    "of GitHub": f"ghp_{LETTERS}",
    "of an API": f"sk-{LETTERS}",
}


def run_in_a_process(tmp_path, lines):
    """Status and output of a script that ends as `recipes/` do; `FORMS` is what it knows."""
    script = "import json, sys, warnings\nfrom mtbert.recipe import load_recipe\nfrom mtbert.cli.errors import "
    script += f"clear_errors\nFORMS = json.load(open({str(tmp_path / 'forms.json')!r}))\nwith clear_errors():\n"
    (tmp_path / "forms.json").write_text(json.dumps(FORMS))
    (tmp_path / "script.py").write_text(script + "".join(f"    {line}\n" for line in lines))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    return done.returncode, done.stdout + done.stderr


def test_no_token_in_a_refused_recipe(tmp_path):
    tree = {"encoder": "e", "tasks": {"one": {"labels": 2, "data": {"train": "a.csv"}}}}
    tree |= {f"key_{number}": form for number, form in enumerate(FORMS.values())}
    tree["training"] = {"output_dir": "out", "hub_tokn": TOKEN, **FORMS["as a key"]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    code, text = run_in_a_process(tmp_path, ["load_recipe('recipe.yaml', [FORMS['on the command line']])"])
    assert code == 1 and "Traceback" not in text and LETTERS not in text
    assert text.count("there is no such key") == len(FORMS) + 2  # hub_tokn, and the token that is a key
    assert not (tmp_path / "out").exists()


def test_no_token_in_a_traceback_or_a_warning(tmp_path):
    lines = ["[warnings.warn(str(form)) for form in FORMS.values()]", "try: {}[str(FORMS)]"]
    lines += ["except KeyError as error: raise RuntimeError(f'a bug with {FORMS}') from error"]
    code, text = run_in_a_process(tmp_path, lines)
    assert code == 1 and text.count("UserWarning: ") == len(FORMS) and LETTERS not in text
    assert text.count("Traceback (most recent call last):") == 2 and "RuntimeError: a bug with" in text
    assert "KeyError: " in text and "The above exception was the direct cause" in text


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_no_token_in_what_is_printed(form, capsys):
    """In this process: the hook for tracebacks, and the text of a warning, also as logging takes it."""
    hook = sys.excepthook
    with pytest.raises(RuntimeError) as left, clear_errors():
        shown = warnings.formatwarning(str(form), UserWarning, __file__, 1)
        raise RuntimeError(form)
    assert sys.excepthook is not hook
    sys.excepthook(RuntimeError, left.value, left.tb)
    text = shown + capsys.readouterr().err
    assert text.count("***") >= 2 and LETTERS not in text and "RuntimeError: " in text


def test_hooks_are_as_before(monkeypatch, capsys):
    """At once where all goes well, else after one traceback; that of another error is not ours to show."""
    shown, form = [], warnings.formatwarning
    monkeypatch.setattr(sys, "excepthook", hook := lambda *error: shown.append(error))
    with clear_errors():
        assert warnings.formatwarning is not form
    assert sys.excepthook is hook and warnings.formatwarning is form
    for raised in (True, False):
        with pytest.raises(KeyError) as left, clear_errors():
            raise KeyError(TOKEN)
        assert warnings.formatwarning is form and sys.excepthook is not hook
        error = left.value if raised else ValueError("another")
        sys.excepthook(type(error), error, None)
        assert sys.excepthook is hook
    assert shown == [(ValueError, error, None)] and "KeyError: 'hf_***'" in capsys.readouterr().err
