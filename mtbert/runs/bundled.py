"""Files that are installed with mtbert: recipes and sample data."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "bundled"


def folder() -> Path:
    """Return the folder of recipes (`configs`), sample data and accelerate's configs: `recipes/` in the repository.

    `mtbert/bundled` is a symbolic link to it, so that a wheel contains the files and the repository has no copy.
    """
    return ROOT.resolve()


def recipes() -> dict[str, Path]:
    """Return the file of each recipe that can be run, by its name, such as `quickstart` or `cs224n/E6`."""
    configs = folder() / "configs"
    files = sorted(configs.glob("**/*.yaml"))
    return {str(file.relative_to(configs).with_suffix("")): file for file in files if file.stem != "base"}
