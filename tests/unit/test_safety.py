"""What the package's own code never calls: whatever runs what a file or a text says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for folder in ("mtbert", "recipes", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
PACKAGE = [path for path in FILES if path.relative_to(ROOT).parts[0] != "benchmarks"]
# classes that no config can exchange for another: they run no code that they find
OWN_CLASSES = ("MtBertForMultiTask", "MtBertConfig", "PeftModel", "super()", "model_class.config_class")
PICKLES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
YAML = ("load", "load_all", "full_load", "full_load_all", "unsafe_load", "unsafe_load_all")


def dangers(source: str) -> list[str]:
    """The calls in a source that may run what they read, each with its line."""
    tree, found = ast.parse(source), []
    names = {}  # what a name stands for: `from torch import load as read` makes read torch.load
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            first, *rest = ast.unparse(node.func).split(".")
            called = ".".join([names.get(first, first), *rest])
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if reason := _danger(called, node, given):
                found.append(f"line {node.lineno}: {reason}")
    return found


def _danger(called: str, node: ast.Call, given: dict[str, str]) -> str | None:
    module, _, name = called.rpartition(".")
    if called in ("eval", "exec", "compile", "builtins.eval", "builtins.exec", "__import__"):
        return called
    if module.split(".")[0] in PICKLES and name in ("load", "loads", "Unpickler", "open"):
        return called
    if called in ("torch.load", "torch.serialization.load") and given.get("weights_only") != "True":
        return f"{called} without weights_only=True"
    if module == "yaml" and (name in YAML and not _safe_loader(node, given)):
        return called
    if given.get("allow_pickle", "False") != "False" or name in ("read_pickle", "get_class_from_dynamic_module"):
        return called
    if given.get("shell", "False") != "False" or called in ("os.system", "os.popen"):
        return f"{called} through a shell"
    if given.get("trust_remote_code", "False") not in ("False", "None") or given.get("weights_only") == "False":
        return f"{called}({given})"
    return None


def _safe_loader(node: ast.Call, given: dict[str, str]) -> bool:
    loader = given.get("Loader") or (ast.unparse(node.args[1]) if len(node.args) > 1 else "")
    return loader.rpartition(".")[2] in ("SafeLoader", "CSafeLoader")


def asking(source: str) -> list[str]:
    """Uses of loaders that ask on the terminal whether to run the code that they find, each with its line."""
    found, safe = [], set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and any(
            word.arg == "trust_remote_code" and ast.unparse(word.value) == "False" for word in node.keywords
        ):
            safe.add(node.func)
        if isinstance(node, ast.Call) and any(
            word.arg is None and "'trust_remote_code': False}" in ast.unparse(word.value) for word in node.keywords
        ):
            safe.add(node.func)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in ("from_pretrained", "from_config"):
            ours = ast.unparse(node.value) in OWN_CLASSES
            if not ours and ast.dump(node) not in {ast.dump(each) for each in safe}:
                found.append(f"line {node.lineno}: {ast.unparse(node)}")
    return found


@pytest.mark.parametrize("file", PACKAGE, ids=lambda file: str(file.relative_to(ROOT)))
def test_nobody_is_asked_to_trust_code(file):
    """Outside `encoder_loading.py` no auto class loads anything; there, none without `trust_remote_code=False`."""
    source = file.read_text(encoding="utf-8")
    assert asking(source) == []
    if file.name != "encoder_loading.py":
        used = {ast.unparse(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute)}
        assert not [name for name in used if re.fullmatch(r"(.*\.)?Auto\w+\.from_(pretrained|config)", name)]


@pytest.mark.parametrize(
    ("source", "number"),
    [
        ("AutoModel.from_pretrained(name)", 1),
        ("AutoModel.from_pretrained(name, trust_remote_code=None)", 1),
        ("AutoModel.from_pretrained(name, trust_remote_code=False)", 0),
        ("load = AutoTokenizer.from_pretrained", 1),
        ("transformers.AutoConfig.from_pretrained(name, **where)", 1),
        ("AutoModel.from_config(config)", 1),
        ("kind.from_pretrained(name, **{**kwargs, 'trust_remote_code': False})", 0),
        ("kind.from_pretrained(name, **{'trust_remote_code': False, **kwargs})", 1),
        ("MtBertConfig.from_pretrained(name)", 0),
        ("PeftModel.from_pretrained(model, name)", 0),
    ],
)
def test_the_search_finds_who_asks(source, number):
    assert len(asking(source)) == number


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(file):
    assert dangers(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle; pickle.load(file)",
        "from pickle import loads as read; read(data)",
        "import torch; torch.load(path)",
        "from torch import load; load(path, weights_only=False)",
        "import torch as t; t.load(path, weights_only=flag)",
        "import yaml; yaml.load(text, Loader=yaml.Loader)",
        "import yaml; yaml.unsafe_load(text)",
        "eval(text)",
        "exec(text)",
        "import subprocess; subprocess.run(text, shell=True)",
        "import subprocess as s; s.check_output(text, shell=flag)",
        "import os; os.system(text)",
        "import numpy as np; np.load(path, allow_pickle=True)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
    ],
)
def test_the_search_finds(source):
    assert len(dangers(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "import torch; torch.load(path, weights_only=True)",
        "import yaml; yaml.load(text, Loader=yaml.SafeLoader)",
        "import yaml; yaml.safe_load(text)",
        "model.eval()",
        "import subprocess; subprocess.run(['ls', folder])",
        "import json; json.load(file)",
    ],
)
def test_the_search_lets_pass(source):
    assert dangers(source) == []
