"""Cache keys of files and local dataset folders; they depend on the files' bytes, not on their paths and dates."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

import datasets
import xxhash
from datasets import Dataset
from datasets.fingerprint import Hasher


def content_key(files: Iterable[str | Path]) -> str:
    """Return a hash of the files' bytes, in the given order (128-bit xxHash, several GB/s)."""
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, xxhash.xxh3_128).hexdigest())
    return Hasher.hash(digests)


def load_hub(name: str, subset: str | None, split: str, revision: str | None) -> Dataset:
    """Load a split of a hub dataset or of a local dataset folder.

    The cache key of a local folder includes the bytes of its data files, so that a changed file is read again.
    """
    key = {}
    if os.path.isdir(name):
        builder = datasets.load_dataset_builder(name, subset, revision=revision)
        files_by_split = sorted((builder.config.data_files or {}).items())
        files = [file for _, split_files in files_by_split for file in split_files]
        content = content_key(file for file in files if os.path.isfile(file))
        key["config_id"] = f"{builder.config.name}-{content}"
    return datasets.load_dataset(name, subset, split=split, revision=revision, **key)
