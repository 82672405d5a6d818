"""Environments of the benchmark's peers, built from the pinned files beside this one."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
REMOVED = "# remove:"  # of a pinned file: a package that others require and do not import here


def build(name: str, folder: Path) -> Path:
    """Return the Python of the environment `<name>.txt`; build it unless it was built from the same file.

    Args:
        name: `onnx` or `openvino`.
        folder: folder of all environments.

    Raises:
        RuntimeError: it cannot be built; with the last lines that pip wrote.
    """
    pins = HERE / f"{name}.txt"
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    place, stamp = folder / name, folder / name / "built-from"
    python = place / "bin" / "python"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == digest:
        return python
    print(f"building the environment {place} from {pins.name}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(pins)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise RuntimeError(f"the environment of {pins} can not be built:\n{last}")
    removed = [line.split(":")[1].strip() for line in lines_of(pins) if line.startswith(REMOVED)]
    if removed:
        subprocess.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *removed], check=True)
    stamp.write_text(digest, encoding="utf-8")
    return python


def lines_of(file: Path) -> list[str]:
    """Return the lines of a text file."""
    return file.read_text(encoding="utf-8").splitlines()
