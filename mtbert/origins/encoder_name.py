"""The public name of an encoder, also of one in a local folder; never a path of the machine."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from ..modeling.hub_upload import is_path
from .known_encoders import BASE_NAME, BASE_SHA256, SMALL_NAME, SMALL_PACKAGE, SMALL_SHA256, WEIGHTS

_BY_DIGEST = {SMALL_SHA256: SMALL_NAME, BASE_SHA256: BASE_NAME}
_LOADED = re.compile(r"""(?:from_pretrained|SentenceTransformer|CrossEncoder)\(\s*["']([^"']+)["']""")


def hub_name(name: Any) -> str | None:
    """Return a model's name if it is a valid name on the hub, else None."""
    valid = isinstance(name, str) and not is_path(name) and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name)
    return name if valid else None


def encoder_name(encoder: Any) -> str | None:
    """Return the name on the hub of the encoder that a recipe names; None if it has none.

    A local encoder has the name of the published encoder whose weights it has (those of `mtbert encoder`), or else the
    name that the code in its README.md loads, or that its config.json was loaded by (`_name_or_path`), or the
    `base_model` in the metadata of its README.md. Nothing is fetched.

    Args:
        encoder: a folder, or a name on the hub.
    """
    if not isinstance(encoder, str):
        return None
    folder = Path(encoder)
    if not folder.is_dir():
        return SMALL_NAME if SMALL_PACKAGE in folder.parts else hub_name(encoder)
    weights, readme = folder / WEIGHTS, _read(folder / "README.md")
    if weights.is_file():
        with weights.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest in _BY_DIGEST:
            return _BY_DIGEST[digest]
    loaded = Counter(name for name in _LOADED.findall(readme) if "/" in name and hub_name(name))
    candidates: list[Any] = [name for name, _ in loaded.most_common(1)]
    candidates += [_config_name(folder), *_base_models(readme)]
    names = (_own_name(name, folder) for name in candidates)
    return next((name for name in names if name is not None), None)


def _own_name(name: Any, folder: Path) -> str | None:
    """Return a valid name on the hub that is not this folder itself."""
    return None if name in (str(folder), folder.name) else hub_name(name)


def _config_name(folder: Path) -> Any:
    try:
        config = json.loads(_read(folder / "config.json") or "{}")
    except ValueError:
        return None
    return config.get("_name_or_path") if isinstance(config, dict) else None


def _base_models(readme: str) -> list[Any]:
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", readme, re.DOTALL)
    if match is None:
        return []
    try:
        values = yaml.safe_load(match[1])
    except yaml.YAMLError:
        return []
    base = values.get("base_model") if isinstance(values, dict) else None
    return base if isinstance(base, list) else [base]


def _read(file: Path) -> str:
    """Return the text of a file; empty if there is none, or it can not be read."""
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
