"""A client of a TLS broker that says what the broker answered, which our own link has no use for."""

from __future__ import annotations

import queue
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from edgectl.core.wire import Topics
from edgectl.link.mqtt import Tls

T = Topics("home")
DIGEST = "sha256:" + "ab" * 32


def own_topics(device: str) -> list[str]:
    """What a device says."""
    return [
        T.conn(device),
        T.reported(device),
        T.reply(device),
        T.telemetry(device),
        T.event(device, "yard"),
        T.need(DIGEST, device),
    ]


class Client:
    def __init__(self, port: int, tls: Tls, *, client_id: str = "", will: str | None = None) -> None:
        """Connect to the broker on loopback. ``will``: its topic."""
        self.client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        self.client.tls_set_context(tls.context())
        if will is not None:
            self.client.will_set(will, b"x", 1)
        self.got: queue.Queue[str] = queue.Queue()
        self.up: queue.Queue[bool] = queue.Queue()
        self.down: queue.Queue[str] = queue.Queue()
        self.granted: queue.Queue[bool] = queue.Queue()
        self.client.on_connect = lambda _c, _d, _f, reason, _p: self.up.put(not reason.is_failure)
        self.client.on_disconnect = self._disconnected
        self.client.on_subscribe = lambda _c, _d, _m, reasons, _p: self.granted.put(not reasons[0].is_failure)
        self.client.on_message = lambda _c, _d, m: self.got.put(m.topic)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self.up.get(timeout=10)

    def _disconnected(
        self, _client: paho.Client, _data: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        self.down.put(str(reason))
        self.granted.put(False)

    def subscribe(self, topic: str) -> bool:
        """Whether the broker grants it. Mosquitto grants every filter, and filters each message; EMQX ends
        the connection."""
        self.client.subscribe(topic, 1)
        return self.granted.get(timeout=10)

    def publish(self, topic: str, payload: bytes = b"x", *, retain: bool = False) -> None:
        """Until the broker has answered; 3.1.1 has no words for a refusal."""
        self.client.publish(topic, payload, 1, retain).wait_for_publish(10)

    def drain(self, last: str) -> list[str]:
        """Topics received before ``last``."""
        found = []
        while (topic := self.got.get(timeout=10)) != last:
            found.append(topic)
        return found

    def vanish(self) -> None:
        """Cut the connection, so that the broker sends the will."""
        sock = self.client.socket()
        assert sock is not None
        self.client.loop_stop()
        sock.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop_stop()
        self.client._reset_sockets(sockpair_only=True)
