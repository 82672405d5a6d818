"""Look up the pinned packages in the database of published vulnerabilities, with pip-audit.

    python .ci/packages.py constraints.txt

Fails for a package that has one, with the version that mends it. Without a network, or where its service does not
answer in time or does not know the packages, it says so and passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

SECONDS = 120  # for all packages; one request each


def look_up(requirements: str, seconds: float = SECONDS) -> list[dict] | None:
    """What pip-audit found of each package: `name`, `version`, `vulns` or `skip_reason`; None: it did not answer."""
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder, "found.json")
        command = [sys.executable, "-m", "pip_audit", "--requirement", requirements, "--no-deps", "--disable-pip"]
        command += ["--format", "json", "--output", str(found), "--progress-spinner", "off", "--timeout", "10"]
        try:
            subprocess.run(command, capture_output=True, timeout=seconds)
            return json.loads(found.read_text(encoding="utf-8"))["dependencies"]
        except (OSError, ValueError, KeyError, subprocess.TimeoutExpired):
            return None


def report(found: list[dict] | None) -> tuple[int, list[str]]:
    """Exit code and lines to print."""
    known = [each for each in found or [] if "vulns" in each]
    if not known:
        return 0, ["packages: not audited, as pip-audit's service cannot be reached, or knows none of them"]
    lines = [
        f"{each['name']} {each['version']}: {flaw['id']}: "
        f"take {' or '.join(flaw['fix_versions']) or 'another package, for no version mends it'}"
        for each in known
        for flaw in each["vulns"]
    ]
    count = f"packages: {len(known)} of {len(found)} audited, {len(lines) or 'no'} known vulnerabilities"
    return int(bool(lines)), [*lines, count]


def main(requirements: str) -> int:
    code, lines = report(look_up(requirements))
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
