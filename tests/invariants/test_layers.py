"""Imports run one way: recipes → cli → serving, runs → export → recipe → training → evaluation → data → modeling."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import mtbert

PACKAGE = Path(mtbert.__file__).parent
RECIPES = PACKAGE.parent / "recipes"
# what the files of each part may import of mtbert; "" is the package itself, whose import loads hub and modeling
ALLOWED = {
    "modeling": {"modeling"},
    "errors": {"errors", "modeling"},
    "files": {"files", "errors"},
    "data": {"data", "errors", "modeling"},
    "evaluation": {"evaluation", "files", "data", "errors", "modeling"},
    "origins": {"origins", "errors", "modeling"},
    "model_card": {"model_card", "origins", "files", "errors", "modeling"},
    "hub": {"hub", "origins", "model_card", "evaluation", "data", "errors", "modeling"},
    "training": {"training", "origins", "files", "model_card", "evaluation", "data", "errors", "modeling"},
    "recipe": {"recipe", "files", "training", "model_card", "evaluation", "data", "errors", "modeling"},
    "export": {"export", "__version__", "recipe", "files", "model_card", "evaluation", "data", "errors", "modeling"},
    "serving": {"serving", "__version__", "export", "errors", "modeling"},
    "runs": {
        "runs",
        "origins",
        "__version__",
        "export",
        "recipe",
        "files",
        "hub",
        "training",
        "model_card",
        "evaluation",
        "data",
    }
    | {"errors", "modeling"},
    "cli": {
        "cli",
        "origins",
        "serving",
        "runs",
        "__version__",
        "export",
        "recipe",
        "files",
        "hub",
        "training",
        "model_card",
    }
    | {"evaluation", "data", "errors", "modeling"},
    "__main__": {"cli"},
}
# transformers itself needs the last three
CHECKPOINT_NEEDS = {"torch", "transformers", "huggingface_hub", "numpy", "safetensors", *sys.stdlib_module_names}


def imports(source: str | ast.Module, module: str) -> list[tuple[str, int]]:
    """All (module, level) pairs that a file imports, inside functions too; relative ones are made absolute."""
    found = []
    for node in ast.walk(ast.parse(source) if isinstance(source, str) else source):
        if isinstance(node, ast.Import):
            found += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = module.split(".")[: -node.level]
                base = ".".join([*parents, base] if base else parents)
            # `from package import name`: the name may be a module
            names = [alias.name for alias in node.names] if base == "mtbert" or not node.module else []
            found += [(f"{base}.{name}", node.level) for name in names] or [(base, node.level)]
    return found


def part(module: str) -> str:
    """The part of mtbert that a module belongs to: `recipe_io` is `recipe`'s."""
    name = (module.split(".") + [""])[1]
    return "recipe" if name.split("_")[0] == "recipe" else name


FILES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def own_imports(module: str, typing: bool = True) -> set[str]:
    """The modules of mtbert that a module of mtbert imports, with or without those for type checkers only."""
    tree = ast.parse(FILES[module].read_text(encoding="utf-8"))
    if not typing:
        tree.body = [
            node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
        ]
    found = imports(tree, module)
    return {name for name, _ in found if name.split(".")[0] == "mtbert"}


def test_imports_are_read_as_python_means_them():
    source = """
import os.path, torch
from . import packing
from .heads import IGNORED
from ..data.sampling import Plan
def later():
    from mtbert import recipe
    from ..evaluation import metrics
"""
    assert imports(source, "mtbert.modeling.tokenization") == [
        ("os.path", 0),
        ("torch", 0),
        ("mtbert.modeling.packing", 1),
        ("mtbert.modeling.heads", 1),
        ("mtbert.data.sampling", 2),
        ("mtbert.recipe", 0),
        ("mtbert.evaluation", 2),
    ]
    assert [part(name) for name in ("mtbert.recipe_io", "mtbert.data.sampling", "mtbert")] == ["recipe", "data", ""]


@pytest.mark.parametrize("module", FILES)
def test_a_module_imports_only_the_parts_below_it(module):
    assert part(module) in ALLOWED, f"{module} is in no part that this test knows"
    wrong = {name for name in own_imports(module) if part(name) not in ALLOWED[part(module)]}
    assert not wrong


@pytest.mark.parametrize("module", [name for name in FILES if part(name) == "modeling"])
def test_modeling_imports_torch_transformers_numpy_and_its_own_files(module):
    """They are uploaded beside the weights, so its own files come by relative import and from the same folder."""
    for name, level in imports(FILES[module].read_text(encoding="utf-8"), module):
        if level:
            assert level == 1 and name in FILES and name.startswith("mtbert.modeling."), name
        else:
            assert name.split(".")[0] in CHECKPOINT_NEEDS, name


@pytest.mark.parametrize("module", [name for name in FILES if part(name) in ("evaluation", "hub")])
def test_evaluation_and_hub_never_import_training(module):
    seen, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= {each for each in own_imports(name) if each in FILES} - seen if name in FILES else set()
    assert not [name for name in seen if part(name) in ("training", "recipe")]


def test_the_package_itself_loads_no_training():
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    at_once = {node.module for node in tree.body if isinstance(node, ast.ImportFrom) and node.level}
    assert at_once == {"training.methods"}  # a table of names, which imports no method
    later = [node for each in tree.body if isinstance(each, ast.FunctionDef) for node in ast.walk(each)]
    assert {node.module for node in later if isinstance(node, ast.ImportFrom)} == {"hub"}


def test_modules_do_not_import_each_other_in_circles():
    graph = {module: own_imports(module, typing=False) & FILES.keys() for module in FILES}
    while leaves := [module for module, needs in graph.items() if not needs & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph


def test_nothing_in_the_package_imports_recipes():
    for module, path in FILES.items():
        found = {name.split(".")[0] for name, _ in imports(path.read_text(encoding="utf-8"), module)}
        assert "recipes" not in found and "tests" not in found, module


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.name)
def test_recipes_do_not_import_each_other(path):
    scripts = {each.stem for each in RECIPES.glob("*.py")}
    found = imports(path.read_text(encoding="utf-8"), f"recipes.{path.stem}")
    assert not [name for name, level in found if level or name.split(".")[0] in {"recipes", *scripts}]
