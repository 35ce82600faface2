"""Looks after alerts: has the rules look, keeps what fires, tells the broker, and whoever listens on the web.

What fires and what has to be told of it are written before anybody is told. A notice that a web address does not take waits in
the database, in order, and is sent again with longer and longer pauses; one that it refuses for good is given up and logged.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import httpx

from edgectl.core.errors import LinkError, StorageError, UsageError
from edgectl.core.wire import Topics
from edgectl.fleet.alerts.book import Alert, AlertBook, AlertChange
from edgectl.fleet.alerts.facts import AlertFacts
from edgectl.fleet.alerts.settings import AlertsConfig
from edgectl.fleet.store.inventory import Inventory
from edgectl.link.mqtt import Link

__all__ = ["Alerting", "WebhookSender", "signature"]

log = logging.getLogger(__name__)

_EVERY_S = 15.0
_TIMEOUT_S = 10.0
_BACKOFF_S = (1.0, 300.0)
_CHANGES = 100
"""In one notice; how many more there are stands in it."""
_MAX_SECRET = 4096


class Alerting:
    """One thread ticks it; others may read what fires."""

    def __init__(
        self, config: AlertsConfig, topics: Topics, inventory: Inventory, link: Link, fleet: str
    ) -> None:
        """Raises :class:`UsageError` for a secret that cannot be read, :class:`StorageError`."""
        self._config = config
        self._topics = topics
        self._inventory = inventory
        self._link = link
        self._fleet = fleet
        self._book = AlertBook(inventory.firing())
        self._next_s = 0.0
        self._unsent: dict[tuple[str, str], None] = {}
        """Alerts of which the broker does not know yet what became of them."""
        self._heard: deque[tuple[str, str]] = deque(maxlen=4096)
        """Of which the broker has a message."""
        self.connected()
        self.sender: WebhookSender | None = None
        if config.webhook is not None and config.webhook_secret is not None:
            self.sender = WebhookSender(config.webhook, _secret(config.webhook_secret), inventory)

    def start(self) -> None:
        if self.sender is not None:
            self.sender.start()

    def close(self) -> None:
        if self.sender is not None:
            self.sender.close()

    def firing(self) -> list[Alert]:
        """The longest first."""
        return sorted(self._book.firing.copy().values(), key=lambda a: (a.since_s, a.key))

    def connected(self) -> None:
        """The broker may have lost what it kept. What ended meanwhile is still to be told."""
        self._unsent |= dict.fromkeys(self._book.firing)

    def on_retained(self, topic: str, payload: bytes) -> None:
        """What the broker has of an alert, ours as well: of one that is over, it is to be cleared. From any thread."""
        levels = self._topics.parse(topic)
        if payload and levels is not None and len(levels) == 3:
            self._heard.append((levels[1], "" if levels[2] == "-" else levels[2]))

    def tick(self, now_s: float, facts: Callable[[float], AlertFacts | None]) -> None:
        """Have the rules look, if it is time and ``facts`` has all of them: it is asked with every tick until then. Raises
        :class:`StorageError`: it is looked again then."""
        found = facts(now_s) if now_s >= self._next_s else None
        if found is not None:
            book = self._book.copy()
            try:
                changes = book.step(found, self._config)
            except (ArithmeticError, LookupError, TypeError, ValueError):
                # a defect of ours: no rollout waits for it
                log.exception("alerts are not looked for: a defect of the controller")
                self._next_s = now_s + _EVERY_S
                return
            if changes:
                notice = self._notice(changes, now_s) if self.sender is not None else None
                self._inventory.save_alerts(book.firing.values(), notice, now_s)
                self._tell(changes)
            changed = [
                k for k, a in book.firing.items() if (b := self._book.firing.get(k)) and b.count != a.count
            ]
            self._unsent |= dict.fromkeys(changed)
            self._book, self._next_s = book, now_s + _EVERY_S
        while self._heard:
            if (key := self._heard.popleft()) not in self._book.firing:
                self._unsent[key] = None
        self._publish()

    def _tell(self, changes: list[AlertChange]) -> None:
        for c in changes:
            a = c.alert
            why = "; ".join(f"{who}: {what}" for who, what in list(a.about.items())[:3])
            text = f"fires: {a.count} × {why}" if c.what == "firing" else "is over"
            self._inventory.log("alert", f"{a.rule}/{a.site}", text)
            log.warning("alert %s at %s %s", a.rule, a.site or "no site", text)
            self._unsent[a.key] = None
        if self.sender is not None:
            self.sender.nudge()

    def _notice(self, changes: list[AlertChange], now_s: float) -> str:
        told = [{"what": c.what, "alert": json.loads(c.alert.encode())} for c in changes[:_CHANGES]]
        return json.dumps(
            {"fleet": self._fleet, "at_s": now_s, "changes": told, "more": max(0, len(changes) - _CHANGES)}
        )

    def _publish(self) -> None:
        """Retained for as long as it fires."""
        while self._config.mqtt and self._unsent and self._link.is_up:
            key = next(iter(self._unsent))
            alert = self._book.firing.get(key)
            try:
                payload = b"" if alert is None else alert.encode()
                self._link.publish(self._topics.alert(*key), payload, retain=True, timeout_s=5.0)
            except LinkError as e:
                log.info("alerts wait for the broker: %s", e.message)
                return
            self._unsent.pop(key, None)


class WebhookSender:
    """The thread ``alerts``: notices of the database, oldest first, to one address. A redirection is not followed, and no
    proxy of the environment is asked."""

    def __init__(
        self,
        url: str,
        secret: bytes,
        inventory: Inventory,
        *,
        backoff_s: tuple[float, float] = _BACKOFF_S,
    ) -> None:
        self._url = url
        self._secret = secret
        self._inventory = inventory
        self._backoff_s = backoff_s
        self._http = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False, trust_env=False)
        self._stop = threading.Event()
        self._more = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alerts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def nudge(self) -> None:
        self._more.set()

    def close(self) -> None:
        self._stop.set()
        self._more.set()
        if self._thread.ident is not None:
            self._thread.join(_TIMEOUT_S + 1)
        self._http.close()

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                notice = self._inventory.oldest_notice()
                if notice is None:
                    self._more.wait(30.0)
                    self._more.clear()
                    continue
                if self._send(*notice):
                    self._inventory.drop_notice(notice[0])
                    failures = 0
                    continue
            except StorageError as e:
                log.warning("alerts wait: %s", e.message)
            failures += 1
            longest_s = min(self._backoff_s[1], self._backoff_s[0] * 2.0 ** min(failures - 1, 12))
            self._stop.wait(random.uniform(longest_s / 2, longest_s))

    def _send(self, number: int, notice: str) -> bool:
        """Whether it is done with."""
        body = notice.encode()
        headers = {
            "content-type": "application/json",
            "user-agent": "edgectl",
            "edgectl-notice": str(number),
            "edgectl-signature": signature(self._secret, body, int(time.time())),
        }
        try:
            # its body is not waited for, however long it is
            with self._http.stream("POST", self._url, content=body, headers=headers) as answer:
                status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as e:
            log.warning("the webhook of alerts does not answer: %s", type(e).__name__)
            return False
        if 200 <= status < 300:
            return True
        if status in (408, 425, 429) or status >= 500:
            log.warning("the webhook of alerts answers %d: it is tried again", status)
            return False
        log.error("the webhook of alerts refuses a notice with %d: it is given up", status)
        return True


def signature(secret: bytes, body: bytes, at_s: int) -> str:
    """``t=UNIX,v1=HEX``: HMAC-SHA256 over ``UNIX.BODY``. Whoever checks it refuses one that is old."""
    mac = hmac.new(secret, b"%d." % at_s + body, hashlib.sha256)
    return f"t={at_s},v1={mac.hexdigest()}"


def _secret(path: Path) -> bytes:
    try:
        with path.open("rb") as f:
            data = f.read(_MAX_SECRET).strip()
    except OSError as e:
        raise UsageError(f"the webhook's secret {path} cannot be read: {e.strerror}") from e
    if len(data) < 16:
        raise UsageError(
            f"the webhook's secret {path} has fewer than 16 bytes", hint="openssl rand -hex 32 makes one"
        )
    return data
