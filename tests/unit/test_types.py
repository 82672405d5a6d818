"""The types of mtbert/ are checked strictly, everywhere, with few exceptions that say why."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST = 25
WITH_REASON = re.compile(r"# type: ignore\[[a-z-]+\]  # \S+ \S+")


def test_exceptions_are_few_and_each_has_its_code_and_reason():
    files = {path: path.read_text(encoding="utf-8") for path in (ROOT / "mtbert").rglob("*.py")}
    ignored = [(path, line) for path, text in files.items() for line in text.splitlines() if "type: ignore" in line]
    assert 0 < len(ignored) <= MOST
    assert [each for each in ignored if not WITH_REASON.search(each[1])] == []
    assert [path for path, text in files.items() if re.search(r"#\s*mypy:", text)] == []


def test_no_module_of_ours_is_left_out():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mypy"]
    assert settings["strict"] and settings["packages"] == ["mtbert"]
    assert "exclude" not in settings and "ignore_errors" not in settings
    named = [name for override in settings["overrides"] for name in override["module"]]
    assert named and not any(name.startswith(("mtbert", "*")) for name in named)
