"""Checkpoints that a killed process, a broken file or a full disk cannot turn into a wrong resume.

A checkpoint is complete when `checksums.json` stands in it, which is written last, after all else is on the disk. Older
checkpoints are removed after that, never before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from peft import PeftModel
from safetensors import SafetensorError

from ..modeling.checkpoints import unloadable_parts
from ..modeling.modeling_mtbert import MtBertForMultiTask

CHECKSUMS = "checksums.json"
_NEEDED = ("*model*.safetensors", "optimizer*", "scheduler.pt", "rng_state*.pth", "trainer_state.json")


class CheckpointError(ValueError):
    """A checkpoint that cannot be written, or that a run cannot go on from."""


def refuse_unloadable(model: MtBertForMultiTask | PeftModel) -> None:
    """Refuse a model whose checkpoints would not load again, before it is trained.

    Raises:
        ValueError: with the parts that its config does not describe.
    """
    inside = isinstance(model, PeftModel)
    model = model.get_base_model() if inside else getattr(model, "_orig_mod", model)  # as torch.compile wraps it
    if found := unloadable_parts(model, with_encoder=not inside):
        raise ValueError(
            f"model is not what its config describes, so that its checkpoints could not be loaded: {'; '.join(found)}; "
            "describe heads by TaskSpec.head and adapters by AdapterSpec, or make your own ones in the __init__ of a "
            "subclass of MtBertForMultiTask"
        )


def start(checkpoint: str | Path) -> None:
    """Make way for a checkpoint: what a killed run left of it, or one of a run that is gone over again, is removed."""
    if os.path.isdir(checkpoint):
        shutil.rmtree(checkpoint)


def seal(checkpoint: str | Path) -> None:
    """Wait until a checkpoint's files are on the disk, and write down what they are."""
    folder = Path(checkpoint)
    paths = [path for path in sorted(folder.iterdir()) if path.is_file() and path.name != CHECKSUMS]
    for path in paths:
        _to_disk(path)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}
    new = folder / f"{CHECKSUMS}.new"
    new.write_text(json.dumps(files, indent=2) + "\n", encoding="utf-8")
    _to_disk(new)
    new.replace(folder / CHECKSUMS)
    _to_disk(folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def damage(checkpoint: str | Path) -> str:
    """What is wrong with a checkpoint that a run is to go on from; empty if nothing is."""
    folder = Path(checkpoint)
    try:
        files = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        known = {name: (each["bytes"], each["sha256"]) for name, each in files.items()}
    except FileNotFoundError:
        return f"there is no {CHECKSUMS}, which is written last"
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        return f"{CHECKSUMS} can not be read: {error}"
    for name, (size, digest) in known.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, but was written with {size:,}"
        if _sha256(path) != digest:
            return f"{name} is not what was written: its SHA-256 differs"
    missing = [each for each in _NEEDED if next(folder.glob(each), None) is None]
    return f"it was saved without {', '.join(missing)}" if missing else ""


def by_step(folder: str | Path) -> list[Path]:
    """The checkpoints in a run's folder, complete or not, the first step first."""
    found = [path for path in Path(folder).glob("checkpoint-*") if path.name.rpartition("-")[2].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def last_complete(folder: str | Path) -> str | None:
    """The last complete checkpoint in a folder; None if there is none. Those that are damaged are warned of."""
    for checkpoint in reversed(by_step(folder)):
        if not (found := damage(checkpoint)):
            return str(checkpoint)
        warnings.warn(f"{checkpoint} is not complete ({found}); going on from the one before it", stacklevel=3)
    return None


def remove_older(folder: str | Path, limit: int | None, kept: Sequence[str | None] = ()) -> None:
    """Remove checkpoints until `limit` are left: damaged ones first, then those of the first steps.

    Args:
        limit: None or 0: as many as there are.
        kept: checkpoints that stay: the one just written, the best.
    """
    checkpoints = by_step(folder)
    stay = {Path(each).resolve() for each in kept if each is not None}
    for checkpoint in sorted(checkpoints, key=lambda path: (path / CHECKSUMS).is_file()):
        if not limit or len(checkpoints) <= limit:
            return
        if checkpoint.resolve() not in stay:
            shutil.rmtree(checkpoint, ignore_errors=True)
            checkpoints.remove(checkpoint)


@contextmanager
def writing(folder: str | Path, own: bool = True) -> Iterator[None]:
    """Within, a checkpoint is written; if that fails, what there is of it is removed.

    Args:
        own: whether this process answers for the folder, rather than adding to it.

    Raises:
        CheckpointError: that says what failed, how much room there is, and which checkpoint is left.
    """
    folder = Path(folder)
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if own:
            shutil.rmtree(folder, ignore_errors=True)
        free = shutil.disk_usage(folder.parent).free if folder.parent.is_dir() else 0
        others = [each for each in by_step(folder.parent) if each != folder and (each / CHECKSUMS).is_file()]
        left = f"{others[-1]} is the last one that was written" if others else "there is no earlier one"
        raise CheckpointError(
            f"{folder} could not be written: {error}; {free / 2**20:,.1f} MiB are free there, {left}; make room, and "
            "go on with --training.resume_from_checkpoint true"
        ) from error
