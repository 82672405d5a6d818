"""Modules of a user's own, which a recipe imports before anything in it is checked.

They are honoured from a recipe file, a mapping or a command line that the user names: what a run's folder, a checkpoint
or a hub holds is never imported.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from ..errors import InputError, RecipeError
from .yaml_layers import Layer

SAVED = "recipe.json"  # the recipe that a run leaves in its folder
_LOADED: dict[Path, str] = {}  # files that were imported: where → the name that the module has


def honour_imports(layer: Layer, source: str) -> None:
    """Import what a recipe names under `imports`; of a run's own recipe, which nobody wrote, check that it was.

    Args:
        layer: of the recipe. Paths begin at the folder of the file that sets the key, or at the current one.
        source: the recipe's file, or another name of it.

    Raises:
        RecipeError: if there is no such module or file, or a run's recipe names one that was not imported.
    """
    names = layer.tree.get("imports")
    if not names:
        return
    origin = layer.origins.get(("imports",), source)
    file = Path(origin.rpartition(":")[0] or origin)
    if file.name == SAVED:
        missing = [name for name in names if not _is_imported(name)] if isinstance(names, list) else []
        if missing:
            reason = f"imports names {', '.join(missing)}, which is never imported from a run's folder"
            raise RecipeError([f"{source}: {reason}; give it on the command line: --imports {' '.join(missing)}"])
        return
    try:
        import_all(names, file.parent if file.is_file() else Path.cwd(), f"{origin}: imports")
    except InputError as error:
        raise RecipeError([str(error)]) from error


def _is_imported(name: Any) -> bool:
    return name in sys.modules or any(path.name == Path(str(name)).name for path in _LOADED)


def import_all(names: Any, folder: Path, where: str) -> None:
    """Import modules by name, or Python files.

    Args:
        names: names of modules, or paths of files that end in `.py`, relative to `folder`.
        where: the key and its place, for errors.

    Raises:
        InputError: for another form, and where there is no such module or file; what a module raises itself goes
            through, with its traceback.
    """
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"{where} is {names!r}, but must be a list of modules or .py files")
    for name in names:
        if name.endswith(".py"):
            _import_file(Path(folder, name), name, where)
        else:
            _import_module(name, where)


def _import_module(name: str, where: str) -> None:
    try:
        missing = importlib.util.find_spec(name) is None
    except (ImportError, ValueError):  # of a package above it, or a name that is none
        missing = True
    if missing:
        raise InputError(f"{where} names {name!r}, but there is no such module; install it, or name a .py file")
    import_module(name)


def _import_file(path: Path, name: str, where: str) -> None:
    if not path.is_file():
        raise InputError(f"{where} names {name!r}, but there is no file {path}; paths begin at the recipe's folder")
    path = path.resolve()
    if path in _LOADED:
        return
    module_name = path.stem if path.stem not in sys.modules else f"{path.stem}_{len(_LOADED)}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{where} names {name!r}, which is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    _LOADED[path] = module_name
