"""Train in every way, from the same saved weights, with the mtbert and the scripts of a given source tree.

    python tests/golden/ways.py TREE START OUT [--make] [--only NAME]...

START holds the encoder, data and initial weights; `--make` writes them, with TREE's mtbert. OUT gets a folder for each
way with all that its script wrote, and `<way>.json`: whether it ended, or what stopped it. It goes through what both
sides of a rewrite have: the scripts in `recipes/`, `MtBertForMultiTask` and the files of a checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import hashlib
import json
import os
import runpy
import shutil
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from ways_start import TASKS, fill_weights, write_data, write_encoder, write_initial
from ways_table import WAYS, Way

DROPOUT = 0.1
READY = "ready"


def folder_name(name: str) -> str:
    """The folder of a way."""
    return name.replace(", ", "-").replace(" ", "_")


def initial_folder(start: Path, way: Way, dropout: float) -> Path:
    """The folder of the model that a way begins with."""
    return start / "initial" / hashlib.sha256(way.start(dropout).encode()).hexdigest()[:16]


def make_start(start: Path, names: Sequence[str], dropout: float) -> None:
    """Write encoder, data, a teacher and initial weights; `READY` comes last.

    Where this tree's mtbert has no such head or adapter, there are no initial weights.
    """
    start.mkdir(parents=True, exist_ok=True)
    encoder = start / "encoder"
    write_encoder(encoder, dropout)
    write_data(start / "data")
    write_initial(start / "teacher", encoder, TASKS, None, seed=2)
    for name in names:
        folder = initial_folder(start, WAYS[name], dropout)
        if folder.exists():
            continue
        try:
            write_initial(folder, encoder, WAYS[name].specs(dropout), WAYS[name].adapter, seed=1)
        except ValueError:
            shutil.rmtree(folder, ignore_errors=True)
    (start / READY).touch()


@contextlib.contextmanager
def initial_weights(start: Path, initial: Path) -> Iterator[None]:
    """Within it, `MtBertForMultiTask.from_encoder` gives heads and adapters the saved weights.

    The encoder's weights are those of its folder, which may be a pre-trained one, but a pooler is saved only here. The
    seed is set at the end, so that the number of random draws before does not matter.
    """
    from transformers import set_seed

    from mtbert import MtBertForMultiTask

    original = MtBertForMultiTask.from_encoder

    def from_encoder(cls, encoder, *args, **kwargs):
        model = original(encoder, *args, **kwargs)
        if initial.is_dir():
            weights = _saved_weights(cls, initial)
            missing = set(model.state_dict()) ^ set(weights)
            if missing:
                raise RuntimeError(f"the saved weights and the model differ in {sorted(missing)}")
            if Path(encoder).resolve() != (start / "encoder").resolve():
                weights = {key: value for key, value in weights.items() if not _from_pretraining(key)}
            model.load_state_dict(weights, strict=False)
        else:
            fill_weights(model, seed=1)
        set_seed(4)
        return model

    with mock.patch.object(MtBertForMultiTask, "from_encoder", classmethod(from_encoder)):
        yield


@functools.cache
def _saved_weights(model_class: type, folder: Path) -> dict[str, Any]:
    return model_class.from_pretrained(str(folder)).state_dict()


def _from_pretraining(name: str) -> bool:
    return name.startswith("encoder.") and ".pooler." not in name


def run_way(tree: Path, start: Path, out: Path, name: str, dropout: float = DROPOUT, steps: int | None = None) -> None:
    """Train in one way, in the current process; the current folder is `out`.

    Args:
        tree: root of the sources whose scripts run.
        steps: most optimizer steps; None: as the way says.
    """
    way, folder = WAYS[name], folder_name(name)
    recipe = out / f"{folder}.recipe.yaml"
    recipe.write_text(json.dumps(way.recipe_tree(folder, os.path.relpath(start, out), dropout, steps)))
    script = str(tree / way.script)
    result = {"way": name, "error": None, "refused": False}
    with open(out / f"{folder}.txt", "w", encoding="utf-8") as log:
        try:
            with (
                contextlib.redirect_stdout(log),
                contextlib.redirect_stderr(log),
                contextlib.chdir(out),
                mock.patch.object(sys, "argv", [script, recipe.name]),
                initial_weights(start, initial_folder(start, way, dropout)),
            ):
                runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            if ended.code not in (None, 0):
                result |= {"error": str(ended.code), "refused": not (out / folder).exists()}
        except Exception as error:
            traceback.print_exc(file=log)
            result |= {"error": f"{type(error).__name__}: {error}"}
    (out / f"{folder}.json").write_text(json.dumps(result))


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tree", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--only", action="append", choices=WAYS)
    given = parser.parse_args(argv)
    tree, start, out = given.tree.resolve(), given.start.resolve(), given.out.resolve()
    sys.path.insert(0, str(tree))
    import mtbert

    if not Path(mtbert.__file__).resolve().is_relative_to(tree):
        sys.exit(f"mtbert is imported from {mtbert.__file__}, but must be that of {tree}")
    names = given.only or list(WAYS)
    out.mkdir(parents=True)
    if given.make:
        make_start(start, names, DROPOUT)
    gc.freeze()  # each training collects garbage, which need not search what is imported
    for name in names:
        run_way(tree, start, out, name)


if __name__ == "__main__":
    main(sys.argv[1:])
