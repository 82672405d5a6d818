"""Sealed checkpoints: after a killed process, a broken file or a full disk, a run never resumes from a damaged one.

A checkpoint is complete if it has `checksums.json`, which is written last, when all other files are on the disk. Older
checkpoints are removed only after that.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from peft import PeftModel
from safetensors import SafetensorError
from transformers import TrainerState

from ...errors import CheckpointError, InputError
from ...files import adding_files, check_room, to_disk, write_json
from ...modeling.checkpoint_loading import read_json, unloadable_parts
from ...modeling.modeling_mtbert import MtBertForMultiTask

CHECKSUMS = "checksums.json"
STATE = "trainer_state.json"
MODEL_FILES = ("*model*.safetensors",)  # the files that a best checkpoint needs
_NEEDED = (*MODEL_FILES, "optimizer*", "scheduler.pt", "rng_state*.pth", STATE)
_WRITTEN_FIRST = ("config.json", "adapter_config.json", "*.safetensors")  # the first files of a checkpoint


def refuse_unloadable(model: MtBertForMultiTask | PeftModel) -> None:
    """Raise InputError if the checkpoints of a model could not be loaded again; called before training.

    Raises:
        InputError: with the parts that the model's config does not describe.
    """
    inside = isinstance(model, PeftModel)
    inner: Any = model.get_base_model() if inside else getattr(model, "_orig_mod", model)  # unwrap torch.compile's
    if parts := unloadable_parts(inner, with_encoder=not inside):
        raise InputError(
            f"model is not what its config describes, so that its checkpoints could not be loaded: {'; '.join(parts)}; "
            "describe heads by TaskSpec.head and adapters by AdapterSpec, or make your own ones in the __init__ of a "
            "subclass of MtBertForMultiTask"
        )


def start(checkpoint: str | Path) -> None:
    """Remove an earlier checkpoint of the same name, left by a killed run or by a run that is repeated.

    Raises:
        CheckpointError: if the folder of this name was not written by a run.
    """
    path = Path(checkpoint)
    if not path.exists() and not path.is_symlink():
        return
    if not _is_own(path):
        raise CheckpointError(f"{path} is in the way of a checkpoint, and no run wrote it; move it elsewhere")
    shutil.rmtree(path)


def seal(folder: str | Path, patterns: Sequence[str] = ("*",)) -> None:
    """Wait until a folder's files are on the disk, and write their sizes and checksums into `checksums.json`.

    Args:
        patterns: patterns of the names of the files to include.
    """
    folder = Path(folder)
    paths = {path for pattern in patterns for path in folder.glob(pattern)}
    paths = sorted(path for path in paths if path.is_file() and path.name != CHECKSUMS)
    for path in paths:
        to_disk(path)
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in paths}
    write_json(folder / CHECKSUMS, files)


def write_state(folder: str | Path, state: TrainerState) -> None:
    """Write a trainer's state in transformers' format, atomically."""
    write_json(Path(folder, STATE), asdict(state), sort_keys=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=256)
def _sha256_once(path: Path, inode: int, size: int, modified: int, changed: int) -> str:
    """`_sha256`, but a file is not read again while its inode, size and times (ns) stay the same."""
    return _sha256(path)


def forget_checked_files() -> None:
    """Let `damage` read every file again: a disk may have lost bytes since, which changes no time of a file."""
    _sha256_once.cache_clear()


def damage(checkpoint: str | Path, needed: Sequence[str] = _NEEDED) -> str:
    """The reason why a checkpoint is damaged or incomplete; empty if it is neither.

    Files that this process has checked already are read again only if they were changed.

    Args:
        needed: patterns of names of the files that it must have.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        return "there is no such folder"
    if not (folder / CHECKSUMS).exists():
        return f"there is no {CHECKSUMS}, which is written last"
    try:
        files = read_json(folder / CHECKSUMS, remedy="", limited=False)
        sealed = {name: (entry["bytes"], entry["sha256"]) for name, entry in files.items()}
    except InputError as error:
        return str(error)
    except (KeyError, TypeError):
        return f"{CHECKSUMS} can not be read: it must map each file to its bytes and sha256"
    for name, (size, digest) in sealed.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        now = path.stat()
        if now.st_size != size:
            return f"{name} has {now.st_size:,} bytes, but was written with {size:,}"
        if _sha256_once(path.resolve(), now.st_ino, now.st_size, now.st_mtime_ns, now.st_ctime_ns) != digest:
            return f"{name} is not what was written: its SHA-256 differs"
    missing = [pattern for pattern in needed if next(folder.glob(pattern), None) is None]
    return f"it was saved without {', '.join(missing)}" if missing else ""


def step_of(checkpoint: str | Path) -> int | None:
    """The step in a checkpoint's name; None for any other name."""
    name = re.fullmatch(r"checkpoint-(0|[1-9][0-9]*)", Path(checkpoint).name, re.ASCII)
    return None if name is None else int(name[1])


def by_step(folder: str | Path) -> list[Path]:
    """The checkpoints that a run has written into its folder, complete or not, in the order of steps.

    Folders that a user has put there, such as a copy under another name, are left out.
    """
    checkpoints = (path for path in Path(folder).glob("checkpoint-*") if _is_own(path))
    return sorted(checkpoints, key=lambda path: step_of(path) or 0)


def _is_own(path: Path) -> bool:
    """Whether a folder is a checkpoint that a run has written under this name."""
    step = step_of(path)
    if step is None or path.is_symlink() or not path.is_dir():
        return False
    if not (path / STATE).exists():  # the run was killed before it wrote the state
        names = list(path.iterdir())
        return not names or any(next(path.glob(pattern), None) for pattern in _WRITTEN_FIRST)
    try:
        return read_json(path / STATE, limited=False)["global_step"] == step
    except (InputError, KeyError):  # the state is incomplete
        return True


def next_best(folder: str | Path, metric: str, greater_is_better: bool) -> Path | None:
    """The undamaged checkpoint with the best score, the last one of equal scores; None if there is none.

    Args:
        metric: name of the score in the log.
    """
    best, best_score = None, -math.inf
    for checkpoint in by_step(folder):
        if damage(checkpoint, needed=(*MODEL_FILES, STATE)):
            continue
        log = read_json(checkpoint / STATE, "take another checkpoint", limited=False)["log_history"]
        scores = [entry[metric] for entry in log if metric in entry]
        score = scores[-1] if scores else math.nan
        score = score if greater_is_better else -score
        if score >= best_score:
            best, best_score = checkpoint, score
    return best


def last_complete(folder: str | Path) -> str | None:
    """The last complete checkpoint in a folder; None if there is none. Warn of damaged ones."""
    for checkpoint in reversed(by_step(folder)):
        damaged = damage(checkpoint)
        if not damaged:
            return str(checkpoint)
        warnings.warn(f"{checkpoint} is not complete ({damaged}); going on from the one before it", stacklevel=3)
    return None


def remove_older(folder: str | Path, limit: int | None, kept: Sequence[str | None] = ()) -> None:
    """Remove checkpoints until `limit` are left: incomplete ones first, then those of the first steps.

    Args:
        limit: largest number of checkpoints; None or 0: no limit.
        kept: checkpoints that are never removed: the one just written, the best.
    """
    checkpoints = by_step(folder)
    stay = {Path(kept_path).resolve() for kept_path in kept if kept_path is not None}
    for checkpoint in sorted(checkpoints, key=lambda path: (path / CHECKSUMS).is_file()):
        if not limit or len(checkpoints) <= limit:
            return
        if checkpoint.resolve() not in stay:
            shutil.rmtree(checkpoint, ignore_errors=True)
            checkpoints.remove(checkpoint)


@contextmanager
def writing(folder: str | Path, own: bool = True) -> Iterator[None]:
    """Context in which a checkpoint is written; if that fails, the incomplete checkpoint is removed.

    Args:
        own: whether this process removes it; one of all processes does.

    Raises:
        CheckpointError: with the error, the free space on the disk, and the last complete checkpoint.
    """
    folder = Path(folder)
    try:
        yield
    except Exception as error:
        if own:
            shutil.rmtree(folder, ignore_errors=True)
        if not _is_refused_write(error):
            raise
        raise _not_written(folder, folder.parent, error) from error


@contextmanager
def writing_model(folder: str | Path, checkpoints: str | Path, own: bool = True) -> Iterator[str]:
    """Yield a temporary folder for a model's files; they are moved into `folder` when the block ends.

    Args:
        checkpoints: the folder of the run's checkpoints; the error names its last one.
        own: whether this process writes the files.

    Raises:
        CheckpointError: as in `writing`; no partial file is left.
    """
    if not own:
        yield str(folder)
        return
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with adding_files(folder) as part:
            yield str(part)
    except Exception as error:
        if not _is_refused_write(error):
            raise
        raise _not_written(folder, Path(checkpoints), error) from error


def _is_refused_write(error: Exception) -> bool:
    """Whether an error can come from a failed write; tokenizers raises plain `Exception`s."""
    return isinstance(error, OSError | RuntimeError | SafetensorError) or type(error) is Exception


def _not_written(folder: Path, checkpoints: Path, error: Exception) -> CheckpointError:
    place = next(parent for parent in (folder, *folder.absolute().parents) if parent.is_dir())
    free = shutil.disk_usage(place).free
    others = [path for path in by_step(checkpoints) if path != folder and (path / CHECKSUMS).is_file()]
    left = f"{others[-1]} is the last one that was written" if others else "there is no earlier one"
    return CheckpointError(
        f"{folder} could not be written: {error}; {free / 2**20:,.1f} MiB are free there, {left}; make room, and "
        "go on with --training.resume_from_checkpoint true"
    )


def check_room_for_run(folder: str | Path, weights: int, moments: int, count: int, limit: int | None) -> None:
    """Check that the disk has room for a run's model and for the checkpoints that it keeps at a time.

    If there is room for one checkpoint but not for all, warn.

    Args:
        folder: the output folder.
        weights: bytes of the saved model.
        moments: bytes of the optimizer's moments in a checkpoint.
        count: number of checkpoints that the run writes.
        limit: number of checkpoints that it keeps; None: all.

    Raises:
        OSError: if there is no room for one checkpoint and the model.
    """
    checkpoint = weights + moments
    least = weights + checkpoint * min(count, 1)
    check_room(folder, least, "what this run writes")
    at_once = min(count, limit + 1 if limit else count)  # an old one is removed after the new one is written
    try:
        check_room(folder, weights + checkpoint * at_once, f"a model and {at_once} checkpoints")
    except OSError as error:
        warnings.warn(f"{error.strerror}, or set training.save_total_limit", stacklevel=3)
