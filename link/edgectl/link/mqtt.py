"""One MQTT 3.1.1 connection that keeps itself alive.

The connection is made again with full-jitter back-off (0.5..60 s), subscriptions are repeated, and publishes
that were not acknowledged are sent again. Outstanding QoS 1 publishes are bounded by a window of our own:
paho re-sends everything after a reconnect and its queue has no bound. A PUBACK proves that the broker took a
message, never that a subscriber will get it.

Two threads: ``mqtt-<name>`` drives the socket, ``mqtt-<name>-in`` calls the handlers. Not here: what topics
and payloads mean.
"""

from __future__ import annotations

import logging
import queue
import random
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import MQTTErrorCode

from edgectl.core.clock import clock_says
from edgectl.core.errors import LinkError
from edgectl.link.bounded_client import BoundedClient
from edgectl.link.incoming import Incoming, IncomingQueue

__all__ = ["BrokerOptions", "Handle", "Handler", "Link", "Tls"]

log = logging.getLogger(__name__)

Handler = Callable[[str, bytes], None]
"""``(topic, payload)``; runs on the dispatcher thread and must not wait for the network."""

_BACKOFF_S = (0.5, 60.0)
_KEEPALIVE_S = 30
_JOIN_S = 1.0
"""For a connection that is being made, at the end."""
_X509_NOT_YET_VALID, _X509_EXPIRED = 9, 10
"""Of OpenSSL's verification."""
_DENIALS = frozenset({"Bad user name or password", "Not authorized"})
"""Paho's words for the return codes 4 and 5 (MQTT 3.1.1, section 3.2.2.3)."""
_ASK_AGAIN_S = 30.0
"""After a subscription was refused: a broker that is just starting may not have its access rules yet."""
_BACK_PRESSURE_S = 5.0
"""How long the socket thread waits for a full inbound queue (TCP slows the broker down) before it drops a
message."""


@dataclass(frozen=True)
class Tls:
    """TLS with an optional client certificate. ``ca`` None: the system's authorities."""

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
            if self.cert is not None:
                context.load_cert_chain(self.cert, self.key)
        except OSError as e:  # ssl.SSLError is one
            raise LinkError(
                f"cannot use the TLS files: {e}", hint="check the paths of ca, cert and key"
            ) from e
        return context


@dataclass(frozen=True)
class BrokerOptions:
    """Where the broker is and who we are to it."""

    host: str
    port: int = 1883
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def check(self) -> None:
        """Raises :class:`LinkError` if the TLS files cannot be used: for who had better not start then."""
        if self.tls is not None:
            self.tls.context()


class Handle:
    """One publish on its way to the broker."""

    def __init__(self) -> None:
        self._acknowledged = threading.Event()

    @property
    def done(self) -> bool:
        """Whether the broker has acknowledged it."""
        return self._acknowledged.is_set()

    def wait(self, timeout_s: float) -> bool:
        """Wait for the acknowledgement; False if it has not come in time."""
        return self._acknowledged.wait(timeout_s)


class Link:
    """Subscribe first, then :meth:`start` (retries for ever) or :meth:`connect` (fails fast)."""

    def __init__(
        self,
        broker: BrokerOptions,
        name: str,
        *,
        will: tuple[str, bytes] | None = None,
        window: int = 20,
        queue_size: int = 4096,
        queue_bytes: int = 64 << 20,
        max_payload: int = 4 << 20,
        keepalive_s: int = _KEEPALIVE_S,
        max_backoff_s: float = _BACKOFF_S[1],
    ) -> None:
        """``will``: (topic, payload), published retained by the broker when this connection is lost.

        ``window``: outstanding publishes; ``queue_size``, ``queue_bytes``: messages received and not handled
        yet, in number and all together; larger payloads than ``max_payload`` bytes are dropped and counted in
        :attr:`dropped`. ``keepalive_s``: a connection on which nothing came for this long is tried with a
        ping, and given up after as long again; ``max_backoff_s``: the longest wait between two tries to
        connect.
        """
        self.broker = broker
        self.name = name
        self.dropped = 0
        self.on_up: Callable[[], None] | None = None
        """Called on the dispatcher thread after each (re)connect, subscriptions already sent."""
        self._window = threading.BoundedSemaphore(window)
        self._window_size = window
        self._max_payload = max_payload
        self._keepalive_s = keepalive_s
        self._max_backoff_s = max_backoff_s
        self.is_kept = False
        """For a handler: the message that it has now is one that the broker had kept when we subscribed,
        however old; nobody said it just now."""
        self._since_s = self._came_s = self._handled_s = 0.0
        self._subscriptions: dict[str, Handler] = {}
        self._lock = threading.Lock()
        self._handles: dict[int, Handle] = {}
        # never held while paho is called: it calls back under a lock of its own
        self._handles_lock = threading.Lock()
        self._inbox = IncomingQueue(queue_size, queue_bytes)
        self._up = threading.Event()
        self._stopping = threading.Event()
        self._refused: str | None = None
        self._denied = False
        self._asked: dict[int, list[str]] = {}
        """Packet id → the filters of a subscription that is not answered yet."""
        self._ask_again: float | None = None
        # A random client id: the broker's access rules rest on the certificate, and a reused id kicks the
        # other client off.
        self._client = BoundedClient(f"{name[:40]}-{secrets.token_hex(8)}", on_bytes=self._came)
        if broker.username is not None:
            self._client.username_pw_set(broker.username, broker.password)
        self._secured = broker.tls is None
        if will is not None:
            self._client.will_set(*will, qos=1, retain=True)
        self._client.max_inflight_messages_set(0)  # the window above is the bound
        self._client.on_connect = self._connected
        self._client.on_disconnect = self._disconnected
        self._client.on_message = self._received
        self._client.on_publish = self._published
        self._client.on_subscribe = self._subscribed
        # With a write hook, publish() on other threads only queues and wakes the loop; it never touches the
        # socket.
        self._client.on_socket_register_write = lambda *_: None
        self._threads = (
            threading.Thread(target=self._loop, name=f"mqtt-{name}", daemon=True),
            threading.Thread(target=self._dispatch, name=f"mqtt-{name}-in", daemon=True),
        )

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_up(self) -> bool:
        return self._up.is_set()

    @property
    def trouble(self) -> str | None:
        """Why there is no connection; None while there is one."""
        return None if self.is_up else self._refused or "no answer yet"

    @property
    def denied(self) -> bool:
        """Whether the broker said no to user name and password: trying again will not help."""
        return self._denied and not self.is_up

    @property
    def waiting(self) -> int:
        """How many messages came and are not handled yet; a large one counts for several."""
        return self._inbox.qsize()

    @property
    def hears(self) -> tuple[float, float] | None:
        """Monotonic seconds ``(since, until)``: whatever the broker sent between them has been handled, and
        it was never silent for long.

        Who sent nothing in that time was silent. ``until`` lags behind the clock by what still waits to be
        handled, and by up to ``keepalive_s`` where nobody says anything. None while there is no connection.
        """
        came_s = self._came_s
        until_s = came_s if self._inbox.unfinished_tasks == 0 else self._handled_s
        return (self._since_s, until_s) if self.is_up else None

    @property
    def address(self) -> str | None:
        """Our own address on the way to the broker; None while there is no connection."""
        sock: Any = self._client.socket()
        try:
            return str(sock.getsockname()[0]) if sock is not None else None
        except OSError:  # it was just lost
            return None

    def start(self) -> None:
        """Connect in the background and keep trying for ever, also while the TLS files cannot be used:
        they may be mended meanwhile."""
        for thread in self._threads:
            thread.start()

    def connect(self, timeout_s: float = 5.0) -> None:
        """Start, and wait for the first connection. Raises :class:`LinkError`, and the link is closed, if
        there is none."""
        try:
            self._secure()
        except LinkError:
            self.close(drain_s=0)
            raise
        self.start()
        deadline = time.monotonic() + timeout_s
        while not self._up.wait(0.02):
            if time.monotonic() > deadline or self._refused:
                reason = self._refused or "no answer"
                self.close(drain_s=0)
                raise LinkError(
                    f"there is no MQTT broker to use at {self.broker}: {reason}",
                    hint="start one with `edgectl broker run`, or check host, port and credentials",
                )

    def subscribe(self, topic_filter: str, handler: Handler) -> None:
        """Receive a topic filter at QoS 1, now and after every reconnect. The last handler set for a
        filter wins."""
        with self._lock:
            self._subscriptions[topic_filter] = handler
        if self.is_up:
            self._ask([topic_filter])

    def unsubscribe(self, topic_filter: str) -> None:
        with self._lock:
            self._subscriptions.pop(topic_filter, None)
        if self.is_up:
            self._client.unsubscribe(topic_filter)

    def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, timeout_s: float | None = None
    ) -> Handle:
        """Hand one message over at QoS 1, waiting while the window is full (that is the flow control), at
        most ``timeout_s``.

        Raises :class:`LinkError` if the window stays full, and at once on the dispatcher thread, which may
        not wait. A message handed over while the connection is down is sent when it is back.
        """
        wait = threading.current_thread() is not self._threads[1]
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._window.acquire(blocking=wait, timeout=0.2 if wait else None):
            if not wait or self._stopping.is_set() or (deadline is not None and time.monotonic() > deadline):
                raise LinkError(
                    f"{self._window_size} messages wait for an answer of the broker at {self.broker}"
                )
        # Without a connection paho keeps the message and sends it later; only its return code says otherwise.
        try:
            mid = self._client.publish(topic, payload, qos=1, retain=retain).mid
        except BaseException:
            # a topic that is none: no answer will come for it
            self._window.release()
            raise
        return self._handle(mid, acknowledged=False)

    def close(self, *, drain_s: float = 2.0) -> None:
        """Wait up to ``drain_s`` for outstanding publishes, disconnect (no will is sent), and join both
        threads. One that waits for a name server or for a broker that says nothing ends by itself later."""
        if self._stopping.is_set():
            return
        if self.is_up:
            deadline = time.monotonic() + drain_s
            for _ in range(self._window_size):
                self._window.acquire(timeout=max(0.0, deadline - time.monotonic()))
        self._stopping.set()
        if self.is_up:
            self._client.disconnect()
        for thread, within_s in zip(self._threads, (_JOIN_S, None), strict=True):
            if thread.ident is not None and thread is not threading.current_thread():
                thread.join(within_s)
        if not self._threads[0].is_alive():
            self._client.close_wakeup()

    # ---- the socket thread

    def _loop(self) -> None:
        attempt = 0
        while not self._stopping.is_set():
            try:
                self._secure()
                self._client.connect(self.broker.host, self.broker.port, self._keepalive_s)
                while (
                    self._client.loop(0.5) == MQTTErrorCode.MQTT_ERR_SUCCESS and not self._stopping.is_set()
                ):
                    if self.is_up:
                        attempt = 0
                    if self._ask_again is not None and time.monotonic() > self._ask_again:
                        self._ask_for_all()
            except ssl.SSLCertVerificationError as e:
                dated = e.verify_code in (_X509_NOT_YET_VALID, _X509_EXPIRED)
                self._refused = (
                    f"{clock_says()}, and by it: {e.verify_message}"
                    if dated
                    else f"its certificate is refused: {e.verify_message}"
                )
            except (OSError, ValueError) as e:
                # it says no more than this, now
                self._denied = False
                self._refused = e.strerror if isinstance(e, OSError) and e.strerror else str(e)
            except LinkError as e:
                if self._refused != e.message:
                    log.error("%s: %s", self.name, e.message)
                self._refused = e.message
            except Exception as e:
                # of the client library, over what a broker sent: this thread must not end
                log.exception("%s: the connection to the broker at %s failed", self.name, self.broker)
                self._refused = str(e)
            self._up.clear()
            attempt += 1
            self._stopping.wait(
                random.uniform(0, min(self._max_backoff_s, _BACKOFF_S[0] * 2 ** min(attempt, 16)))
            )
        self._client.loop(0.1)  # the DISCONNECT packet
        self._inbox_put(None)

    def _came(self) -> None:
        """Something of the broker's has arrived."""
        now = time.monotonic()
        # this process stood still, and who knows what the broker threw away meanwhile
        if now - self._came_s > 3 * self._keepalive_s:
            self._since_s = now
        self._came_s = now

    def _secure(self) -> None:
        if not self._secured and self.broker.tls is not None:
            self._client.tls_set_context(self.broker.tls.context())
            self._secured = True

    def _connected(self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
            self._denied = self._refused in _DENIALS
            return
        self._refused, self._denied = None, False
        self._ask_for_all()
        self._since_s = self._handled_s = time.monotonic()
        self._up.set()
        self._inbox_put(Incoming("", b"", self._since_s))  # on_up, in order with the messages

    def _ask_for_all(self) -> None:
        with self._lock:
            self._asked.clear()
            self._ask_again = None
            filters = list(self._subscriptions)
        if filters:
            self._ask(filters)

    def _ask(self, filters: list[str]) -> None:
        mid = self._client.subscribe([(f, 1) for f in filters])[1]
        with self._lock:
            if mid is not None:
                self._asked[mid] = filters

    def _subscribed(
        self, _client: paho.Client, _data: Any, mid: int, reasons: list[Any], _properties: Any
    ) -> None:
        with self._lock:
            filters = self._asked.pop(mid, [])
        if not any(r.is_failure for r in reasons):
            return
        self._ask_again = time.monotonic() + _ASK_AGAIN_S
        refused = [f for f, r in zip(filters, reasons, strict=False) if r.is_failure]
        log.error(
            "%s: the broker at %s refuses %s; asked again later",
            self.name,
            self.broker,
            ", ".join(refused) or "a topic",
        )

    def _disconnected(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        if not self.is_up and self._refused is None:
            # With TLS 1.3 a broker looks at the client's certificate after the handshake has succeeded for
            # the client.
            why = "; is the certificate of this fleet, valid and not revoked?" if self.broker.tls else ""
            self._refused = f"it closed the connection{why}"
        refused = not self.is_up
        self._up.clear()
        if self._stopping.is_set():
            return
        if refused:
            log.warning(
                "%s: the broker at %s does not take the connection: %s", self.name, self.broker, self._refused
            )
        else:
            log.warning("%s: connection to the broker at %s is lost: %s", self.name, self.broker, reason)

    def _published(self, _client: paho.Client, _data: Any, mid: int, *_: Any) -> None:
        self._handle(mid, acknowledged=True)
        self._window.release()

    def _handle(self, mid: int, *, acknowledged: bool) -> Handle:
        """The handle of a message; publisher and acknowledgement each come here once, in either order."""
        with self._handles_lock:
            handle = self._handles.pop(mid, None)
            if handle is None:
                handle = self._handles[mid] = Handle()
        if acknowledged:
            handle._acknowledged.set()
        return handle

    def _received(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        if len(message.payload) > self._max_payload:
            self.dropped += 1
            log.warning(
                "%s: dropped %d bytes on %s, more than allowed",
                self.name,
                len(message.payload),
                message.topic,
            )
        else:
            self._inbox_put(Incoming(message.topic, bytes(message.payload), time.monotonic(), message.retain))

    def _inbox_put(self, item: Incoming | None) -> None:
        try:
            self._inbox.put(item, timeout=_BACK_PRESSURE_S)
        except queue.Full:
            self.dropped += 1
            log.warning("%s: a received message was dropped, its handlers do not keep up", self.name)

    # ---- the dispatcher thread

    def _dispatch(self) -> None:
        while not self._stopping.is_set():
            try:
                item = self._inbox.get(timeout=0.5)
            except queue.Empty:
                continue
            if item is None:
                return
            self._handle_item(item)
            self._handled_s = max(self._handled_s, item.came_s)
            self._inbox.task_done()

    def _handle_item(self, item: Incoming) -> None:
        self.is_kept = item.retained
        if not item.topic:
            handlers: list[Callable[[], None]] = [self.on_up] if self.on_up else []
        else:
            with self._lock:
                matching = [
                    h for f, h in self._subscriptions.items() if paho.topic_matches_sub(f, item.topic)
                ]
            handlers = [_bind(h, item.topic, item.payload) for h in matching]
        for handler in handlers:
            try:
                handler()
            except Exception:
                # One bad message must not stop the others; a handler that can fail reports it where it
                # belongs.
                log.exception("%s: the handler of %r failed", self.name, item.topic)


def _bind(handler: Handler, topic: str, payload: bytes) -> Callable[[], None]:
    return lambda: handler(topic, payload)
