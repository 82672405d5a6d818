"""Pages of Markdown in terminals, narrow ones, and files."""

import io

import pytest
from rich.console import Console

from mtbert.cli.pages import print_page

PAGE = """# Scores

**Bold**, and a table:

| recipe | overall |
|---|---|
| *single* of a long name | .716 |
"""


def printed(width, terminal):
    file = io.StringIO()
    print_page(PAGE, Console(file=file, width=width, force_terminal=terminal, color_system=None))
    return file.getvalue()


def test_a_wide_terminal_shows_a_formatted_page():
    page = printed(80, True)
    assert "**" not in page and "|---|" not in page and "single of a long name" in page


@pytest.mark.parametrize(("width", "terminal"), [(30, True), (80, False), (1000, False)])
def test_a_narrow_terminal_and_a_file_get_the_page_as_it_is(width, terminal):
    assert printed(width, terminal).rstrip() == PAGE.rstrip()


def test_a_table_that_just_fits_is_formatted():
    longest = max(map(len, PAGE.splitlines()))
    assert "**" not in printed(longest, True) and "**" in printed(longest - 1, True)
