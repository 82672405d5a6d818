"""What is public stays: names, commands, keys and files are those that are stored."""

import importlib.util
import json
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GONE = """These public names are gone: {names}
Somebody's program or file has them. Let each go on working as an alias that warns (mtbert.errors.deprecated, see
docs/api.md), write a line of CHANGELOG.md, and only then store the names again:
PYTHONPATH=tests/support python tests/compat/public_names.py"""
NEW = """These public names are new: {names}
From now on they are kept. If that is meant, write a line of CHANGELOG.md and store them:
PYTHONPATH=tests/support python tests/compat/public_names.py
If not, give them a name that begins with _, or leave them out of mtbert.__all__"""


@pytest.fixture(scope="module")
def found() -> dict[str, list[str]]:
    spec = importlib.util.spec_from_file_location("public_names", HERE / "public_names.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.collect()


@pytest.fixture(scope="module")
def stored() -> dict[str, list[str]]:
    return json.loads((HERE / "public_names.json").read_text())


def missing(of: dict[str, list[str]], there: dict[str, list[str]]) -> list[str]:
    return [f"{kind}: {name}" for kind, names in of.items() for name in names if name not in there.get(kind, ())]


def test_no_public_name_is_gone(found, stored):
    names = missing(stored, found)
    assert not names, GONE.format(names=", ".join(names))


def test_every_new_public_name_is_meant(found, stored):
    names = missing(found, stored)
    assert not names, NEW.format(names=", ".join(names))


def test_the_page_names_every_kind(stored):
    page = (HERE.parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
    for name in stored["names of mtbert"] + [f"mtbert {command}" for command in stored["commands"]]:
        assert f"`{name}`" in page, f"docs/api.md lacks {name}"
