"""Processes that are started ready to train: what they import is imported once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from forked import CONTEXT

sys.path.insert(0, str(Path(__file__).parent))  # where processes that are started find its modules, too


@pytest.fixture(scope="session")
def processes():
    """What starts them."""
    return CONTEXT
