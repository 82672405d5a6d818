"""Who may ask: API keys, names of the host, and pages of other sites. Also the headers of every answer."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..errors import FileError, InputError

SHORTEST_KEY = 16
# The page loads its own two files and asks this server alone; no other page may show it in a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class Keys:
    """The keys that clients may send as `Authorization: Bearer KEY`; without any, everybody may ask."""

    def __init__(self, keys: Iterable[str] = ()):
        self._digests = [_digest(key.encode()) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._digests)

    @classmethod
    def read(cls, file: str | None) -> Keys:
        """Read a file with a key on each line; blank lines do not count. None: no keys.

        Raises:
            FileError: the file cannot be read.
            InputError: it holds no key, or one that is too short or has a character that a header cannot hold.
        """
        if file is None:
            return cls()
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8"
            raise FileError(f"--api_key_file {file} cannot be read: {why}") from error
        keys = [line.strip() for line in lines if line.strip()]
        if not keys:
            raise InputError(f"--api_key_file {file} holds no key; write one on a line, such as: openssl rand -hex 32")
        for number, key in enumerate(keys, 1):
            if len(key) < SHORTEST_KEY or not (key.isascii() and key.isprintable()) or " " in key:
                rule = f"must have {SHORTEST_KEY} characters or more, printable, in ASCII and without spaces"
                raise InputError(f"--api_key_file {file}: key {number} {rule}")
        return cls(keys)

    def allow(self, authorization: str | None) -> bool:
        """Whether a header has one of the keys, compared in constant time."""
        scheme, _, key = (authorization or "").partition(" ")
        given = _digest(key.strip().encode("utf-8", "surrogateescape"))
        same = [hmac.compare_digest(given, digest) for digest in self._digests]
        return not same or (scheme.lower() == "bearer" and any(same))


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()  # of equal length, so that the comparison does not tell a key's length


def allowed_hosts(host: str, names: Sequence[str] | None) -> list[str]:
    """The names of the host under which the server answers: given ones, else those of this machine, or any.

    A page of another site can make a browser ask a server on the user's own machine under that site's name. So a server
    that listens on this machine only answers to its own names.

    Args:
        host: the address that the server listens on.
        names: given names; None: by the address.

    Raises:
        InputError: a name has `*` elsewhere than in front.
    """
    if names is None:
        return ["localhost", "127.0.0.1", "[::1]", "::1", host] if is_local(host) else ["*"]
    for name in names:
        if "*" in name and name != "*" and not (name.startswith("*.") and "*" not in name[1:]):
            raise InputError(f"--allowed_hosts has {name!r}; write a name, *.name, or * for any")
    return list(names)


def is_local(host: str) -> bool:
    """Whether an address is reached from this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
