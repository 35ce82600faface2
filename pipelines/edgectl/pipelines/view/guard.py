"""Who may see the page, and who may write. Pure: decides on the heads of a request.

Without a token the page is for this machine alone. A site that the person visits in the same browser must not get at
it: not by a name of its own that leads to 127.0.0.1 (DNS rebinding; the ``Host`` header is checked), not by pictures
that it puts into its own pages (``Sec-Fetch-Site``), and not by requests that it sends (``Origin``, and a word that
only the page knows).
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from edgectl.core.errors import UsageError

__all__ = ["DEFAULT_PORT", "HEADERS", "MIN_TOKEN", "Denial", "Guard", "is_loopback", "parse_address"]

DEFAULT_PORT = 8088
MIN_TOKEN = 16
"""Characters of a token that somebody chooses."""

HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; img-src 'self' data:; style-src 'self'; script-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
"""Of every answer."""


@dataclass(frozen=True, slots=True)
class Denial:
    status: int
    why: str


@dataclass(frozen=True)
class Guard:
    """``token`` None: only for a server on a loopback address."""

    token: str | None = field(default=None, repr=False)
    port: int = 0
    session: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """What the browser shows after it has shown the token: another one with each start."""
    word: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    """What a request that writes must carry: the page has it."""

    @property
    def cookie(self) -> str:
        """Its name. Browsers keep no cookies apart by ports: this does."""
        return f"edgectl_view_{self.port}"

    def refuses(self, method: str, headers: Mapping[str, str]) -> Denial | None:
        """Why a request is not answered. ``headers``: names in lower case."""
        host = headers.get("host", "")
        if self.token is None and not _is_this_machine(host):
            return Denial(421, "this page is for 127.0.0.1 and localhost, and was asked for by another name")
        if headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") != "navigate":
            return Denial(403, "another site asks for this")
        if method not in ("GET", "HEAD"):
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != host:
                return Denial(403, "another site asks for this")
        return None

    def knows(self, headers: Mapping[str, str], cookies: Mapping[str, str], query_token: str | None) -> bool:
        """Whether who asks has the token, if one is needed."""
        if self.token is None:
            return True
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        return (
            _same(cookies.get(self.cookie, ""), self.session)
            or self.is_token(bearer)
            or self.is_token(query_token or "")
        )

    def is_token(self, given: str) -> bool:
        return self.token is not None and _same(given, self.token)

    def may_write(self, headers: Mapping[str, str]) -> bool:
        """Whether a request that writes carries the page's word."""
        return _same(headers.get("x-edgectl-word", ""), self.word)


def _same(given: str, wanted: str) -> bool:
    """In a time that tells nothing about either, lengths included."""
    return hmac.compare_digest(*(hashlib.sha256(text.encode()).digest() for text in (given, wanted)))


def _is_this_machine(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    return name == "localhost" or is_loopback(name)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, reaches this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_address(text: str) -> tuple[str, int | None]:
    """``HOST:PORT``, ``HOST``, ``:PORT`` or ``[IPv6]:PORT``; without a host 127.0.0.1, without a port None. Port 0: any
    that is free.
    Raises :class:`UsageError`."""
    wrong = UsageError(
        f"{text!r} is no address for the page", hint="write HOST:PORT, for example 127.0.0.1:8088"
    )
    try:
        parts = urlsplit(f"//{text}")
        port = parts.port
    except ValueError as e:
        raise wrong from e
    if parts.path or parts.query or parts.fragment or parts.username is not None or " " in text:
        raise wrong
    return parts.hostname or "127.0.0.1", port
