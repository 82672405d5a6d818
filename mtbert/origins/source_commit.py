"""The commit of the code that is running."""

from __future__ import annotations

import subprocess
from pathlib import Path

SECONDS = 10  # longest time that git may take


def source_commit() -> str | None:
    """Return the last commit that changed the running package; None if it is not tracked by git, as when installed."""
    folder = Path(__file__).resolve().parent.parent
    command = ["git", "-C", str(folder), "log", "-1", "--format=%H", "--", "."]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
