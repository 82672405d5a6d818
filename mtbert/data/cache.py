"""Cache keys of files and local dataset folders: the bytes of the files, not their time and place."""

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
    """A name for the bytes of files, in their order; they are read at several GB/s (xxHash, 128 bits)."""
    digests = []
    for path in files:
        with open(path, "rb") as file:
            digests.append(hashlib.file_digest(file, xxhash.xxh3_128).hexdigest())
    return Hasher.hash(digests)


def load_hub(name: str, subset: str | None, split: str, revision: str | None) -> Dataset:
    """A split of a dataset on the hub, or of a local folder, whose data files' bytes are part of the cache's key."""
    key = {}
    if os.path.isdir(name):
        builder = datasets.load_dataset_builder(name, subset, revision=revision)
        files = [file for _, some in sorted((builder.config.data_files or {}).items()) for file in some]
        content = content_key(file for file in files if os.path.isfile(file))
        key["config_id"] = f"{builder.config.name}-{content}"
    return datasets.load_dataset(name, subset, split=split, revision=revision, **key)
