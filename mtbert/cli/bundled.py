"""The recipes and the sample data that come with mtbert, as files."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1] / "bundled"


def folder() -> Path:
    """The folder of recipes (`configs`), sample data and configs of accelerate: `recipes/` in the repository.

    `mtbert/bundled` is a link to it there, so that a wheel has the files and the repository no copy of them.
    """
    return ROOT.resolve()


def recipes() -> dict[str, Path]:
    """Name, such as `quickstart` or `cs224n/E6` → file, of each recipe that can be run."""
    configs = folder() / "configs"
    files = sorted(configs.glob("**/*.yaml"))
    return {str(file.relative_to(configs).with_suffix("")): file for file in files if file.stem != "base"}
