"""Errors for users are one family, whose members are also the builtin errors that they were before."""

import ast
import pickle
from pathlib import Path

import pytest

import mtbert
from mtbert import errors

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("mtbert", "recipes") for path in (ROOT / folder).rglob("*.py"))
CLASSES = [
    each for each in map(vars(errors).get, errors.__all__) if isinstance(each, type) and issubclass(each, Exception)
]
BUILTIN = {
    "ValueError": ["InputError", "CheckpointError", "FolderInUseError", "MissingTokenizer", "ReadError", "RecipeError"],
    "TypeError": ["InputTypeError"],
    "KeyError": ["UnknownTaskError"],
    "RuntimeError": ["TrainingError"],
    "FloatingPointError": ["NotFinite"],
    "OSError": ["FileError", "PushError"],
    "FileNotFoundError": ["MissingFileError"],
    "FileExistsError": ["FileInTheWayError"],
    "IsADirectoryError": ["FolderInTheWayError"],
    "AttributeError": ["MissingTokenizer"],
}
# Plain builtin errors that may be raised, as (file, class): why they are not for the user.
PLAIN = {
    ("mtbert/__init__.py", "AttributeError"): "the protocol of a module's __getattr__",
    ("mtbert/recipe/__init__.py", "AttributeError"): "as above",
    ("mtbert/data/json_rows.py", "ValueError"): "caught there, and told as a ReadError with its line",
    ("mtbert/recipe/schema.py", "AttributeError"): "as above",
    ("mtbert/training/methods/per_task_optimizer.py", "KeyError"): "whoever steps the optimizer by hand has a bug",
    ("mtbert/training/methods/per_task_optimizer.py", "RuntimeError"): "as above",
    ("mtbert/training/pretraining.py", "RuntimeError"): "no recipe leads to it",
}
ENDINGS = ("StopIteration", "SystemExit", "KeyboardInterrupt")  # no errors


def plain_errors(source: str) -> set[str]:
    """Builtin errors that a source makes, to raise or to return them."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call | ast.Raise))
    names = [node.func if isinstance(node, ast.Call) else node.exc for node in calls]
    builtin = vars(__builtins__) if not isinstance(__builtins__, dict) else __builtins__
    kinds = {name for name, kind in builtin.items() if isinstance(kind, type) and issubclass(kind, BaseException)}
    return {name.id for name in names if isinstance(name, ast.Name)} & kinds - set(ENDINGS)


def test_no_file_raises_a_plain_error_for_the_user():
    found = {(str(file.relative_to(ROOT)), name) for file in FILES for name in plain_errors(file.read_text("utf-8"))}
    assert found == set(PLAIN)


@pytest.mark.parametrize("source", ["raise ValueError('x')", "raise OSError", "def f():\n    return KeyError('x')"])
def test_the_search_finds(source):
    assert len(plain_errors(source)) == 1


def test_every_class_is_of_the_family_and_still_of_its_builtin():
    assert mtbert.MtBertError is errors.MtBertError
    assert all(issubclass(each, mtbert.MtBertError) for each in CLASSES)
    builtin = {name: getattr(__import__("builtins"), name) for name in BUILTIN}
    for name, classes in BUILTIN.items():
        assert all(issubclass(getattr(errors, each), builtin[name]) for each in classes)
    assert {each for classes in BUILTIN.values() for each in classes} == {each.__name__ for each in CLASSES} - {
        "MtBertError"
    }


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_message_is_kept_word_for_word_between_processes(kind):
    error = kind(["a: b is 'c'; give d"]) if kind is errors.RecipeError else kind("a: b is 'c'; give d")
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "a: b is 'c'; give d"


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_value_of_any_size_is_shortened_but_not_the_remedy(kind):
    token = "hf_" + "aB3" * 10
    message = f"a: b is '{'x' * 190}={token}.{'y' * 10**6}'; give d\nand c"
    text = str(kind([message] if kind is errors.RecipeError else message))
    assert text.startswith("a: b is 'xxx") and text.endswith("yyy'; give d\nand c")
    assert len(text) < 1100 and "(1,000,2" in text and "aB3" not in text


def test_all_classes_are_in_one_module():
    """One family, one place: none is defined anywhere else."""
    for file in FILES:
        classes = [node for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.ClassDef)]
        own = [node.name for node in classes if {ast.unparse(base) for base in node.bases} & set(errors.__all__)]
        assert not own or file.name == "errors.py", f"{file}: {own}"
