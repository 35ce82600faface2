"""RTSP 1.0 (RFC 2326) for a client that records: its requests as bytes, what the server answers, and the login that
it asks for (RFC 7617, RFC 7616). No IO.

    >>> request("OPTIONS", "rtsp://nvr/yard", 1)
    b'OPTIONS rtsp://nvr/yard RTSP/1.0\\r\\nCSeq: 1\\r\\nUser-Agent: edgectl\\r\\n\\r\\n'
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["RtspAnswer", "RtspLogin", "RtspReader", "framed", "request"]

_MAX_HEAD = 16 << 10
_MAX_BODY = 64 << 10
_MAX_HEADERS = 100
_MAX_CHALLENGE = 4096
"""Characters of a question for a password. Those of servers have about two hundred."""
_MAX_ASKED = 4
"""Questions for a password over one connection."""
_DOLLAR = 0x24
_STATUS = re.compile(r"RTSP/[0-9]\.[0-9] ([0-9]{3}) ?([^\r\n]*)")
_SCHEME = re.compile(r"\b(?:Basic|Digest)\b(?=\s)", re.IGNORECASE)
# at the beginning of a word alone: Python's lock is held while an expression is tried
_FIELD = re.compile(r'(?<![A-Za-z0-9_-])([A-Za-z][A-Za-z0-9_-]*)=(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))')
_ALGORITHMS = {"md5": "md5", "sha-256": "sha256"}


def request(
    method: str, uri: str, number: int, headers: Mapping[str, str] | None = None, body: bytes = b""
) -> bytes:
    """``number``: CSeq. ``uri`` without credentials."""
    lines = [f"{method} {uri} RTSP/1.0", f"CSeq: {number}", "User-Agent: edgectl"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body


def framed(channel: int, packet: bytes) -> bytes:
    """A packet between the messages (section 10.12). At most 65535 bytes."""
    return bytes((_DOLLAR, channel)) + len(packet).to_bytes(2, "big") + packet


@dataclass(frozen=True, slots=True)
class RtspAnswer:
    status: int
    reason: str
    headers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By name in lower case; a name may come several times."""

    def header(self, name: str) -> str:
        """The first of that name, or ``""``."""
        return next(iter(self.headers.get(name, ())), "")

    @property
    def number(self) -> int | None:
        """CSeq of the request that it answers."""
        value = self.header("cseq").strip()
        return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else None


class RtspReader:
    """Cuts what a server sends into answers, in pieces of any size. Packets between them, and requests of the
    server, are skipped. Never holds more than 80 KiB."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, data: bytes) -> list[RtspAnswer]:
        """Raises ValueError for what is no RTSP."""
        self._held += data
        found = []
        while (end := self._whole()) is not None:
            piece = bytes(self._held[:end])
            del self._held[:end]
            if piece[0] != _DOLLAR and (answer := _answer(piece)) is not None:
                found.append(answer)
        return found

    def _whole(self) -> int | None:
        """How long the first piece is; None: it is not all there."""
        held = self._held
        while held and held[0] in b"\r\n":
            del held[:1]
        if not held:
            return None
        if held[0] == _DOLLAR:
            end = 4 + int.from_bytes(held[2:4], "big") if len(held) >= 4 else 4
            return end if len(held) >= end else None
        head = held.find(b"\r\n\r\n", 0, _MAX_HEAD)
        if head < 0:
            if len(held) >= _MAX_HEAD:
                raise ValueError("an answer without an end")
            return None
        length = _headers(bytes(held[:head])).get("content-length", ("0",))[0].strip()
        if not length.isascii() or not length.isdigit() or len(length) > 6 or int(length) > _MAX_BODY:
            raise ValueError("an answer that is too long")
        end = head + 4 + int(length)
        return end if len(held) >= end else None


def _headers(head: bytes) -> dict[str, tuple[str, ...]]:
    """Raises ValueError for too many."""
    found: dict[str, tuple[str, ...]] = {}
    lines = head.decode("utf-8", "replace").split("\r\n")[1:]
    if len(lines) > _MAX_HEADERS:
        raise ValueError("an answer with too many headers")
    for line in lines:
        name, _, value = line.partition(":")
        found[name.strip().lower()] = (*found.get(name.strip().lower(), ()), value.strip())
    return found


def _answer(piece: bytes) -> RtspAnswer | None:
    """None: a request."""
    head = piece.partition(b"\r\n\r\n")[0]
    first = head.partition(b"\r\n")[0].decode("utf-8", "replace")
    if (status := _STATUS.match(first)) is not None:
        # it is shown to people, whose terminals obey other characters
        reason = "".join(c for c in status[2].strip()[:100] if c.isprintable())
        return RtspAnswer(int(status[1]), reason, _headers(head))
    if first.rpartition(" ")[2].startswith("RTSP/"):
        return None
    raise ValueError("it does not speak RTSP")


class RtspLogin:
    """Answers the server's question for a password: Digest with SHA-256 or MD5, or Basic, in this order."""

    def __init__(self, user: str, password: str) -> None:
        self._user, self._password = user, password
        self._asked: Mapping[str, str] | None = None
        """The server's challenge; empty for Basic."""
        self._count = 0
        self._times = 0
        """How often it was asked."""

    def asked(self, answer: RtspAnswer) -> bool:
        """Take the challenge of a 401. False: it cannot be met, or it was, and the password is wrong; or the server goes
        on asking."""
        self._times += 1
        again = self._asked is not None
        challenges = [
            _challenge(c) for line in answer.headers.get("www-authenticate", ()) for c in _split(line)
        ]
        known = [c for c in challenges if c is not None]
        best = max(known, key=lambda c: ("sha" in c.get("algorithm", "").lower(), bool(c)), default=None)
        if best is None or self._times > _MAX_ASKED or (again and best.get("stale", "").lower() != "true"):
            return False
        self._asked, self._count = best, 0
        return True

    def header(self, method: str, uri: str) -> dict[str, str]:
        """For a request; empty before the server asked."""
        asked = self._asked
        if asked is None:
            return {}
        if not asked:
            both = base64.b64encode(f"{self._user}:{self._password}".encode()).decode()
            return {"Authorization": f"Basic {both}"}
        self._count += 1
        return {"Authorization": "Digest " + ", ".join(self._digest(asked, method, uri))}

    def _digest(self, asked: Mapping[str, str], method: str, uri: str) -> list[str]:
        algorithm = asked.get("algorithm") or "MD5"
        name = _ALGORITHMS[algorithm.lower().removesuffix("-sess")]

        def hashed(*parts: str) -> str:
            return hashlib.new(name, ":".join(parts).encode(), usedforsecurity=False).hexdigest()

        realm, nonce = asked.get("realm", ""), asked["nonce"]
        count, own = f"{self._count:08x}", secrets.token_hex(8)
        who = hashed(self._user, realm, self._password)
        if algorithm.lower().endswith("-sess"):
            who = hashed(who, nonce, own)
        what = hashed(method, uri)
        with_count = "auth" in re.split(r"[\s,]+", asked.get("qop", ""))
        said = [f'username="{_quoted(self._user)}"', f'realm="{_quoted(realm)}"', f'nonce="{_quoted(nonce)}"']
        said.append(f'uri="{uri}"')
        if with_count:
            response = hashed(who, nonce, count, own, "auth", what)
            said += ["qop=auth", f"nc={count}", f'cnonce="{own}"']
        else:
            response = hashed(who, nonce, what)
        said.append(f'response="{response}"')
        if "algorithm" in asked:
            said.append(f"algorithm={algorithm}")
        if "opaque" in asked:
            said.append(f'opaque="{_quoted(asked["opaque"])}"')
        return said


def _split(line: str) -> list[str]:
    """The challenges of one header, which may name several. None of one that is too long."""
    if len(line) > _MAX_CHALLENGE:
        return []
    starts = [found.start() for found in _SCHEME.finditer(line)]
    if not starts:
        return [line]
    return [line[a:b].rstrip(", \t") for a, b in zip(starts, [*starts[1:], len(line)], strict=True)]


def _challenge(text: str) -> dict[str, str] | None:
    """The fields of a Digest, nothing for Basic; None for what we cannot do."""
    scheme, _, rest = text.strip().partition(" ")
    if scheme.lower() == "basic":
        return {}
    fields = {
        m[1].lower(): re.sub(r"\\(.)", r"\1", m[2]) if m[3] is None else m[3] for m in _FIELD.finditer(rest)
    }
    known = fields.get("algorithm", "MD5").lower().removesuffix("-sess") in _ALGORITHMS
    printable = all(v.isprintable() for v in fields.values())
    return fields if scheme.lower() == "digest" and "nonce" in fields and known and printable else None


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
