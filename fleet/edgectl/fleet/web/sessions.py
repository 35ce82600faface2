"""Who may use the dashboard: sessions of browsers, links that work once, and how often a wrong token may be tried.

A session begins with the API's token, or with a link that somebody who has the token asked for. It is kept here, in
memory: a restart of the controller ends all of them. Used on one thread, that of the server; ``clock`` is monotonic
seconds.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["LINK_S", "SESSION_S", "Session", "Sessions"]

SESSION_S = 12 * 3600.0
LINK_S = 60.0
"""How long a link waits for its one use."""
TRIES = 5
"""Wrong tokens from one address, and links, within"""
TRIES_S = 60.0
_MOST_SESSIONS = 64
_MOST_LINKS = 16
_MOST_ADDRESSES = 1024


@dataclass
class Session:
    word: str = field(repr=False)
    """What every form of this session carries: a page of another site cannot know it."""
    until_s: float
    notice: str = ""
    """What the next page says on top: what became of an act."""

    def take_notice(self) -> str:
        said, self.notice = self.notice, ""
        return said

    def may_act(self, word: str) -> bool:
        return _same(word, self.word)


class Sessions:
    def __init__(self, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._token = token
        self._clock = clock
        self._of: dict[str, Session] = {}
        """By the hash of what the browser shows, oldest first."""
        self._links: dict[str, float] = {}
        """Hash of a link's secret → until when it works."""
        self._wrong: dict[str, deque[float]] = {}
        """Address → when it showed a wrong token."""

    def wait_s(self, address: str) -> int:
        """Whole seconds until this address may try again; 0: now."""
        tries = self._wrong.get(address)
        now = self._clock()
        while tries and now - tries[0] >= TRIES_S:
            tries.popleft()
        if not tries:
            self._wrong.pop(address, None)
            return 0
        return math.ceil(tries[0] + TRIES_S - now) if len(tries) >= TRIES else 0

    def sign_in(self, token: str, address: str) -> str | None:
        """A new session's cookie, or None for a wrong token, which counts. Ask :meth:`wait_s` first."""
        if not _same(token, self._token):
            self._count(address)
            return None
        return self._begin()

    def link(self) -> str:
        """A secret that begins one session within :data:`LINK_S`."""
        now = self._clock()
        self._links = {key: until for key, until in self._links.items() if until > now}
        while len(self._links) >= _MOST_LINKS:
            del self._links[next(iter(self._links))]
        secret = secrets.token_urlsafe(32)
        self._links[_hash(secret)] = now + LINK_S
        return secret

    def enter(self, secret: str, address: str) -> str | None:
        """As :meth:`sign_in`, with the secret of a link, which is used up."""
        until = self._links.pop(_hash(secret), None)
        if until is None or until <= self._clock():
            self._count(address)
            return None
        return self._begin()

    def find(self, cookie: str | None) -> Session | None:
        if cookie is None:
            return None
        key = _hash(cookie)
        session = self._of.get(key)
        if session is not None and session.until_s <= self._clock():
            del self._of[key]
            return None
        return session

    def end(self, cookie: str) -> None:
        self._of.pop(_hash(cookie), None)

    def _begin(self) -> str:
        while len(self._of) >= _MOST_SESSIONS:
            del self._of[next(iter(self._of))]
        cookie = secrets.token_urlsafe(32)
        self._of[_hash(cookie)] = Session(secrets.token_urlsafe(24), self._clock() + SESSION_S)
        return cookie

    def _count(self, address: str) -> None:
        self._wrong.setdefault(address, deque(maxlen=TRIES)).append(self._clock())
        while len(self._wrong) > _MOST_ADDRESSES:
            del self._wrong[next(iter(self._wrong))]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _same(given: str, wanted: str) -> bool:
    """In a time that tells nothing about either, lengths included."""
    return hmac.compare_digest(_hash(given), _hash(wanted))
