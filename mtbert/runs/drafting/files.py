"""Find the tables among given files and folders, and the train, dev and test split of each, by their names."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ...data.compression import COMPRESSED
from ...data.readers import SUFFIXES, file_format
from ...errors import InputError, MissingFileError

WORDS = {
    "train": ("train", "training", "trn"),
    "dev": ("dev", "valid", "validation", "val", "development", "eval"),
    "test": ("test", "testing", "tst", "heldout"),
}
SPLIT_OF = {word: split for split, words in WORDS.items() for word in words}
SHEETS = (".xlsx", ".xls", ".xlsm", ".ods")
SAVED = ("state.json", "dataset_info.json")  # of a data set that `save_to_disk` wrote
SAVED_SPLITS = "dataset_dict.json"
NO_DATA = ("dataset_info.json", "dataset_infos.json", "state.json", "config.json", "package.json", "recipe.json")
DEEPEST = 3  # folders below a given one
PART = re.compile(r"(?:part|shard)[\W_]*\d+(?:[\W_]*of[\W_]*\d+)?", re.I)  # a name that says no more than a number
SHARD = re.compile(r"(?:[\W_]*(?:of|part|shard))?[\W_]*\d+(?:[\W_]*of[\W_]*\d+)?", re.I)


@dataclass(frozen=True)
class TableFiles:
    """The files of one table.

    Attributes:
        name: its name, of which the names of tasks are made.
        splits: split → files, or folders that `save_to_disk` wrote.
        folder: the folder of its files.
        remarks: sentences on files that are not used.
    """

    name: str
    splits: dict[str, tuple[Path, ...]]
    folder: Path
    remarks: tuple[str, ...] = field(default=())


def split_of(name: str) -> tuple[str | None, str, str]:
    """Take the split's word out of a name without its suffix: the split, and what stands before and after the word.

    `ids-sst-test-student` is of the split `test`; before it stands `ids-sst`, and after it `student`. Of a name without
    such a word all is before it; but `part-003`, which names no table, is after it.
    """
    words = re.split(r"([\W_]+)", name)
    for i in range(len(words) - 1, -1, -1):
        split = SPLIT_OF.get(words[i].lower())
        if split is not None:
            return split, "".join(words[: max(0, i - 1)]), "".join(words[i + 2 :])
    return (None, "", name) if PART.fullmatch(name) else (None, name, "")


def stem(path: Path) -> str:
    """The name of a file without the suffixes of its format and its compression."""
    name = path.name
    for suffixes in (COMPRESSED, tuple(SUFFIXES)):
        if Path(name).suffix.lower() in suffixes:
            name = Path(name).stem
    return name


def find_tables(given: Sequence[str]) -> list[TableFiles]:
    """Group files by table and split.

    Args:
        given: files, and folders of files or of data sets that `save_to_disk` wrote.

    Raises:
        InputError: a file has no format that can be read, or a folder has no data.
        MissingFileError: a file does not exist.
    """
    files: list[tuple[Path, Path]] = []  # a file, and the given folder that holds it
    tables = []
    for name in given:
        path = Path(name).expanduser()
        if path.is_dir():
            saved = _saved(path)
            if saved is not None:
                tables.append(saved)
                continue
            inside = _files_in(path)
            if not inside:
                raise InputError(f"{path} {_holds(path)}, but no file with rows ({', '.join(SUFFIXES)})")
            files += [(file, path) for file in inside]
        else:
            _check_file(path)
            files.append((path, path.parent))
    return _named([*tables, *_grouped(files)])


def _check_file(path: Path) -> None:
    if not path.exists():
        where = path.parent if str(path.parent) else Path(".")
        names = sorted(os.listdir(where)) if where.is_dir() else []
        near = difflib.get_close_matches(path.name, names, 1)
        hint = f"; the nearest name there is {near[0]!r}" if near else ""
        raise MissingFileError(f"there is no file {str(path)!r}{hint}")
    if path.suffix.lower() in SHEETS:
        raise InputError(f"{path} is a spreadsheet; save it as CSV in UTF-8, one file a sheet, and give that")
    if file_format(path) is None:
        raise InputError(f"{path} ends in none of {', '.join(SUFFIXES)}; rename it by what it holds")


def _files_in(folder: Path) -> list[Path]:
    files = []
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        hidden = any(part.startswith((".", "_")) for part in parts)
        usable = path.is_file() and file_format(path) is not None and path.name not in NO_DATA
        if usable and not hidden and len(parts) <= DEEPEST:
            files.append(path)
    return files


def _holds(folder: Path) -> str:
    names = sorted(os.listdir(folder))
    if not names:
        return "is empty"
    return f"holds {', '.join(names[:5])}{', …' if len(names) > 5 else ''}"


def _saved(folder: Path) -> TableFiles | None:
    """The splits of a data set that `save_to_disk` wrote; None for any other folder."""
    if (folder / SAVED_SPLITS).is_file():
        splits: dict[str, tuple[Path, ...]] = {}
        remarks = []
        for path in sorted(inside for inside in folder.iterdir() if (inside / SAVED[0]).is_file()):
            split = split_of(path.name)[0]
            if split is None or split in splits:
                remarks.append(f"the split {path.name!r} of {folder} is not used")
            else:
                splits[split] = (path,)
        if splits:
            return TableFiles(_real_name(folder), _with_train(splits), folder, tuple(remarks))
    if all((folder / name).is_file() for name in SAVED):
        return TableFiles(_real_name(folder), {"train": (folder,)}, folder.parent)
    return None


def _real_name(folder: Path) -> str:
    """The name of a folder, of the current one, too."""
    return folder.resolve().name


def _grouped(files: Iterable[tuple[Path, Path]]) -> list[TableFiles]:
    """The tables of files: those whose names, or whose folders' names, differ in the split alone are of one table."""
    groups: dict[tuple[Path, str], dict[str, list[Path]]] = {}
    remarks: dict[tuple[Path, str], list[str]] = {}
    splits_beside: dict[Path, set[str | None]] = {}
    for path, _ in files:
        splits_beside.setdefault(path.parent.parent, set()).add(SPLIT_OF.get(path.parent.name.lower()))
    for path, given in dict.fromkeys(files):
        split, before, after = split_of(stem(path))
        folder = path.parent
        named_by_folder = folder != given or len(splits_beside[folder.parent] - {None}) > 1
        if split is None and named_by_folder:
            split = SPLIT_OF.get(folder.name.lower())
            folder = folder.parent if split else folder
        shard = SHARD.fullmatch(after) is not None
        key = folder, before or ("" if shard else after)
        of_split = groups.setdefault(key, {}).setdefault(split or "train", [])
        if not of_split or (shard and SHARD.fullmatch(split_of(stem(of_split[0]))[2])):
            of_split.append(path)
        elif path.resolve() != of_split[0].resolve():
            other = f"{of_split[0].name} is its {split or 'train'} split"
            remarks.setdefault(key, []).append(f"{path.name} is not used, since {other}")
    return [
        TableFiles(
            name or _real_name(folder),
            _with_train({split: tuple(paths) for split, paths in splits.items()}),
            folder,
            tuple(remarks.get((folder, name), ())),
        )
        for (folder, name), splits in groups.items()
    ]


def _with_train(splits: dict[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    """The splits in their order. Without a train split the first of the others takes its place."""
    if "train" not in splits:
        first = next(split for split in WORDS if split in splits)
        splits = {"train": splits[first], **{split: paths for split, paths in splits.items() if split != first}}
    return {split: splits[split] for split in WORDS if split in splits}


def _named(tables: list[TableFiles]) -> list[TableFiles]:
    """The tables with different names: those of the same name get that of their folder in front, or a number."""
    named: list[TableFiles] = []
    for table in tables:
        same = [other for other in tables if other.name == table.name]
        name = table.name if len(same) == 1 else f"{_real_name(table.folder)}_{table.name}"
        taken, number = {other.name for other in named}, 2
        while name in taken:
            name, number = f"{_real_name(table.folder)}_{table.name}_{number}", number + 1
        remark = (f"two tables are called {table.name}; this one is {name}",) if name != table.name else ()
        named.append(TableFiles(name, table.splits, table.folder, (*table.remarks, *remark)))
    return named
