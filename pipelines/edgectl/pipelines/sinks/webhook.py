"""Events as JSON to a web address, one POST each. They wait on disk while it is away, and arrive in order."""

from __future__ import annotations

import http.client
import json
import logging
import random
import socket
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from edgectl.core.errors import EdgectlError, StorageError
from edgectl.core.uri import redact
from edgectl.link.mqtt import Tls
from edgectl.link.spool import Kind
from edgectl.pipelines.sinks.base import Record, Sink, SinkContext, SinkOptions, SinkType, StreamOutput
from edgectl.pipelines.sinks.spool_place import SpoolPlace
from edgectl.pipelines.sources.media.http_fetch import WatchedHttp, WatchedHttps, hang_up
from edgectl.pipelines.stream.events import is_update

__all__ = ["SINK", "WebhookConfig", "WebhookSink", "verdict"]

_log = logging.getLogger(__name__)

_TIMEOUT_S = 10.0
_BACKOFF_S = (1.0, 300.0)
_DRAIN_S = 5.0
_HURRIED_S = 1.0
_JOIN_S = 0.5


class WebhookConfig(SinkOptions):
    url: str = Field(repr=False, max_length=2048)
    """``https://…`` or ``http://…``. It is never printed whole: what stands behind the host may be a secret."""
    headers: dict[str, str] = Field(default={}, repr=False, max_length=32)
    """Sent with each event, e.g. ``Authorization``; never printed."""
    on: tuple[str, ...] = ()
    """Ids of rules and zones whose events are sent; none: all events but updates of objects."""
    ca: Path | None = None
    """PEM file of the authority that signed the server's certificate; none: the system's."""
    tries: int = Field(default=20, ge=1, le=1000)
    """After so many failures an event is given up, so that the next ones come through."""
    spool_mb: int = Field(default=20, ge=1, le=10_000)
    """What may wait on disk."""
    spool_hours: float = Field(default=24.0, gt=0, le=8760)
    """How long it may wait."""

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
        except ValueError:
            good = False
        if not good or not url.isascii() or any(c.isspace() for c in url):
            raise ValueError("it must be an address that begins with https:// or http://")
        return url

    @field_validator("headers")
    @classmethod
    def _are_headers(cls, headers: dict[str, str]) -> dict[str, str]:
        for name, value in headers.items():
            if not name.replace("-", "").isalnum() or not value.isprintable() or not value.isascii():
                raise ValueError(f"{name[:40]!r} is no header of letters in one line")
        return headers

    def event_names(self) -> tuple[str, ...]:
        return self.on


def verdict(status: int) -> Literal["done", "again", "never"]:
    """What an answer means (RFC 9110, section 15): 408, 425, 429 and all of the server's own failures pass; what else is no success
    stays what it is, however often it is tried. A redirection is not followed: it would take the headers elsewhere."""
    if 200 <= status < 300:
        return "done"
    return "again" if status in (408, 425, 429) or status >= 500 else "never"


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


class WebhookSink(Sink):
    name = "webhook"

    def __init__(self, options: WebhookConfig, context: SinkContext) -> None:
        """Raises :class:`LinkError` for an authority that cannot be used."""
        self._options = options
        self._what = redact(f"{urlsplit(options.url).scheme}://{urlsplit(options.url).hostname}/…")
        self._sockets: list[socket.socket] = []
        handlers: list[urllib.request.BaseHandler] = [_NoRedirection(), WatchedHttp(self._sockets)]
        if options.url.startswith("https"):
            handlers.append(WatchedHttps(self._sockets, Tls(options.ca).context()))
        self._opener = urllib.request.build_opener(*handlers)
        self._place = SpoolPlace(
            "webhook",
            context.stream,
            options.url,
            context.out,
            max_bytes=options.spool_mb << 20,
            max_age_s=options.spool_hours * 3600,
        )
        self._spool = self._place.spool
        self._trouble: str | None = None
        self._sent = 0
        self._stop = threading.Event()
        self._more = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"webhook-{context.stream}", daemon=True)
        self._thread.start()

    def write(self, output: StreamOutput) -> None:
        rows: list[tuple[Kind, str, bytes]] = [
            ("event", "", json.dumps(r, separators=(",", ":")).encode())
            for r in output.records
            if self._wants(r)
        ]
        if rows:
            try:
                self._spool.put_all(rows, time.time())
            except StorageError as e:
                e.retryable = True
                raise
            self._more.set()

    def trouble(self) -> str | None:
        return self._trouble

    def progress(self) -> int:
        return self._sent

    def close(self) -> None:
        deadline = time.monotonic() + (_HURRIED_S if self.hurried else _DRAIN_S)
        while self._spool.oldest(1) and self._trouble is None and time.monotonic() < deadline:
            time.sleep(0.02)
        self._stop.set()
        self._more.set()
        self._thread.join(0.1)
        # of a server that does not answer
        hang_up(tuple(self._sockets))
        # it ends by itself, where it still waits for a name or for a connection
        self._thread.join(_JOIN_S)
        if left := len(self._spool.oldest(1000)):
            _log.warning("webhook: %d events wait for %s; %s", left, self._what, self._place.who)
        self._place.close()

    def _wants(self, record: Record) -> bool:
        return record.get("rule") in self._options.on if self._options.on else not is_update(record)

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                rows = self._spool.oldest(1)
                if not rows:
                    self._more.wait(1.0)
                    self._more.clear()
                    continue
                why = self._post(rows[0].payload)
                failures = failures + 1 if why is not None else 0
                if why is None:
                    self._spool.delete(rows[0])
                    self._sent += 1
                    self._trouble = None
                    continue
                meaning, text = why
                if meaning == "never" or failures >= self._options.tries:
                    _log.error("webhook: an event is given up: %s", text)
                    self._spool.drop(rows[0])
                    failures = 0
                self._trouble = text
            except EdgectlError as e:
                failures += 1
                self._trouble = e.message
            wait_s = min(_BACKOFF_S[1], _BACKOFF_S[0] * 2.0 ** min(failures, 12))
            self._stop.wait(random.uniform(wait_s / 2, wait_s) if failures else 0)

    def _post(self, data: bytes) -> tuple[str, str] | None:
        """None: it has arrived. Otherwise what its failure means, and a sentence without secrets."""
        headers = {"Content-Type": "application/json", "User-Agent": "edgectl", **self._options.headers}
        self._sockets.clear()
        request = urllib.request.Request(self._options.url, data, headers, method="POST")  # noqa: S310 -- http(s) alone
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                status = int(answer.status)
        except urllib.error.HTTPError as e:
            status = e.code
            e.close()
        except urllib.error.URLError as e:
            reason = (
                getattr(e.reason, "strerror", None) or getattr(e.reason, "verify_message", None) or e.reason
            )
            return "again", f"{self._what} cannot be reached: {reason}"
        except (OSError, http.client.HTTPException, ValueError) as e:
            return "again", f"{self._what} cannot be reached: {type(e).__name__}"
        meaning = verdict(status)
        return None if meaning == "done" else (meaning, f"{self._what} answers {status}")


def _open(options: WebhookConfig, context: SinkContext) -> WebhookSink:
    return WebhookSink(options, context)


SINK = SinkType(
    _open,
    "events as JSON to a web address, one POST each, which wait on disk while it is away",
    WebhookConfig,
)
