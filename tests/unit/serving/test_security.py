"""Keys, names of the host, and limits: what is allowed, and how what is wrong is named."""

from __future__ import annotations

import pytest

from mtbert.cli import arguments
from mtbert.errors import InputError
from mtbert.serving.security import Keys, allowed_hosts

KEY = "0123456789abcdef"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no key; write one on a line"),
        (" \n\n", "holds no key"),
        (f"{KEY}\nshort\n", "key 2 must have 16 characters or more"),
        (f"{KEY} and a space", "without spaces"),
        (f"{KEY}é", "in ASCII"),
        (f"{KEY}\x07", "printable"),
    ],
)
def test_a_file_of_keys_that_is_wrong_is_refused(text, message, tmp_path):
    (tmp_path / "keys").write_text(text)
    with pytest.raises(InputError, match=message):
        Keys.read(str(tmp_path / "keys"))


def test_a_file_of_keys_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name, why in (("gone", "No such file"), ("binary", "not UTF-8"), (".", "directory")):
        with pytest.raises((InputError, OSError), match=f"--api_key_file .*{why}"):
            Keys.read(str(tmp_path / name))


def test_keys_are_compared_whole():
    keys = Keys([KEY, KEY[::-1]])
    assert keys.allow(f"Bearer {KEY}") and keys.allow(f"bearer  {KEY[::-1]} ")
    for value in (None, "", KEY, f"Basic {KEY}", f"Bearer {KEY[:-1]}", f"Bearer {KEY}0", "Bearer ", "Bearer \udcff"):
        assert not keys.allow(value)
    assert Keys().allow(None) and not Keys()


def test_names_of_the_host():
    assert "localhost" in allowed_hosts("127.0.0.1", None) and "*" not in allowed_hosts("::1", None)
    assert allowed_hosts("0.0.0.0", None) == ["*"]
    assert allowed_hosts("127.0.0.1", ["*.example.org"]) == ["*.example.org"]
    with pytest.raises(InputError, match=r"--allowed_hosts has 'a\.\*'"):
        allowed_hosts("127.0.0.1", ["a.*"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "70000"], "--port is 70000, but must be 0 to 65535"),
        (["--max_texts", "0"], "--max_texts is 0, but must be 1 or more"),
        (["--gather_ms", "-1"], "--gather_ms is -1.0, but must be 0 or more"),
        (["--timeout", "nan"], "--timeout is nan, but must be 1 or more"),
        (["--threads", "0"], "--threads is 0, but must be 1 or more"),
        (["--max_body", "1.5"], "argument --max_body: invalid int value"),
    ],
)
def test_limits_are_checked_before_any_work(options, message, capsys):
    with pytest.raises(SystemExit):
        arguments.PARSERS["serve"](["checkpoint", *options])
    assert message in capsys.readouterr().err
