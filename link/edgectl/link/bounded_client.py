"""paho's client with what it has no public way to: a bound on what it receives, word of each piece, a clean end."""

from __future__ import annotations

from collections.abc import Callable

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

__all__ = ["BoundedClient"]

_RECEIVE_BYTES = 1 << 17
_MAX_PACKET_BYTES = 16 << 20
"""paho would collect the 256 MiB that MQTT allows before anybody sees the first byte."""


class BoundedClient(paho.Client):
    """Tells of every piece that arrives, and takes no endless packet.

    paho has no public way to either. Its private names stand here and nowhere else. The tests fail where a
    version of paho means something else by them, and ``pyproject.toml`` allows no version that they have not
    seen.
    """

    def __init__(self, client_id: str, *, on_bytes: Callable[[], None]) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=client_id, protocol=paho.MQTTv311)
        self._on_bytes = on_bytes

    def _sock_recv(self, bufsize: int) -> bytes:
        """``bufsize``: what is left of the packet. paho would ask for all of it, and a hundred times before
        anybody else sees how long it is."""
        if bufsize > _MAX_PACKET_BYTES:
            raise ValueError(f"it sends a packet of more than {_MAX_PACKET_BYTES >> 20} MiB")
        data = super()._sock_recv(min(bufsize, _RECEIVE_BYTES))
        if data:
            self._on_bytes()
        return data

    def close_wakeup(self) -> None:
        """Close the pair of sockets that wakes the loop up: paho does it in ``__del__`` only, and the
        collector may come to the sockets first."""
        self._reset_sockets(sockpair_only=True)
