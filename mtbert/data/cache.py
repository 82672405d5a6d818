"""Read files and local dataset folders as datasets, cached by the bytes of the files, not by their time and place."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import xxhash
from datasets import Dataset
from datasets.fingerprint import Hasher


def content_key(files: Iterable[str | Path]) -> str:
    """A name for the bytes of files, in their order; they are read at several GB/s (xxHash, 128 bits)."""
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, xxhash.xxh3_128).hexdigest())
    return Hasher.hash(digests)


def load_file(kind: str, path: str | Path, **options: Any) -> Dataset:
    """The rows of one file, as `datasets.load_dataset` reads them.

    Args:
        kind: a module of `datasets`: `csv`, `json` or `parquet`.
        options: the module's. They and the file's bytes are the key of the cache.
    """
    key = Hasher.hash([content_key([path]), sorted(options.items())])
    # An escaped name, since data_files are patterns; an absolute one, since relative ones depend on the folder.
    file = glob.escape(str(Path(path).absolute()))
    return datasets.load_dataset(kind, data_files=file, split="train", config_id=f"content-{key}", **options)


def load_hub(name: str, subset: str | None, split: str, revision: str | None) -> Dataset:
    """A split of a dataset on the hub, or of a local folder, whose data files' bytes are part of the cache's key."""
    key = {}
    if os.path.isdir(name):
        builder = datasets.load_dataset_builder(name, subset, revision=revision)
        files = [file for _, some in sorted((builder.config.data_files or {}).items()) for file in some]
        content = content_key(file for file in files if os.path.isfile(file))
        key["config_id"] = f"{builder.config.name}-{content}"
    return datasets.load_dataset(name, subset, split=split, revision=revision, **key)
