"""One count of all malformed inputs of a session, which its closing lines tell."""

from __future__ import annotations

import pytest
from malformed import EXAMPLES, Tally

TALLY = pytest.StashKey[Tally]()


@pytest.fixture(scope="session")
def tally(pytestconfig) -> Tally:
    """Counts what is tried, and judges the errors."""
    return pytestconfig.stash.setdefault(TALLY, Tally())


def pytest_terminal_summary(terminalreporter, config):
    found = config.stash.get(TALLY, None)
    if found is not None and EXAMPLES:
        terminalreporter.write_line(
            f"malformed inputs tried: {found.tried:,}, refused: {found.refused:,}, unclear errors: {len(found.unclear)}"
        )
