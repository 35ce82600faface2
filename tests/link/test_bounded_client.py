"""What we take from inside paho, against paho itself."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator

import pytest
from paho.mqtt.enums import MQTTErrorCode

from edgectl.link.bounded_client import _RECEIVE_BYTES, BoundedClient


class Recording(BoundedClient):
    """Writes down what it reads, and in which pieces."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.told = 0
        super().__init__("recording", on_bytes=self._tell)

    def _tell(self) -> None:
        self.told += 1

    def _sock_recv(self, bufsize: int) -> bytes:
        data = super()._sock_recv(bufsize)
        self.pieces.append(data)
        return data


@contextlib.contextmanager
def recording() -> Iterator[tuple[Recording, socket.socket]]:
    """A client whose broker is the other end of a socket: its CONNECT has come, nothing was answered."""
    client = Recording()
    with socket.create_server(("127.0.0.1", 0)) as server:
        client.connect("127.0.0.1", server.getsockname()[1])
        far, _ = server.accept()
    with far:
        far.settimeout(20)
        far.recv(4096)
        try:
            yield client, far
        finally:
            client.disconnect()
            client.loop(0.1)
            client.close_wakeup()


def read_on(client: BoundedClient) -> None:
    while client.loop(20) == MQTTErrorCode.MQTT_ERR_SUCCESS:
        pass


def test_paho_reads_every_byte_through_our_hook_in_bounded_pieces() -> None:
    """A private method of paho: a version that no longer calls it must fail here."""
    body = b"\x00\x01t" + bytes(range(256)) * 2400
    length = bytes([len(body) & 127 | 128, len(body) >> 7 & 127 | 128, len(body) >> 14])
    sent = b"\x20\x02\x00\x00" + b"\x30" + length + body
    got: list[bytes] = []
    with recording() as (client, far):
        client.on_message = lambda _client, _data, message: got.append(message.payload)
        sender = threading.Thread(target=far.sendall, args=(sent,))
        sender.start()
        while not got:
            assert client.loop(20) == MQTTErrorCode.MQTT_ERR_SUCCESS
        sender.join()
    assert got == [body[3:]]
    assert b"".join(client.pieces) == sent
    assert client.told == len(client.pieces)
    assert max(map(len, client.pieces)) <= _RECEIVE_BYTES < len(body)


def test_paho_tells_our_hook_the_length_of_a_packet_before_it_takes_it() -> None:
    with recording() as (client, far):
        far.sendall(b"\x20\x02\x00\x00" + b"\x30\xff\xff\xff\x7f" + b"\x00\x01t")
        with pytest.raises(ValueError, match="more than 16 MiB"):
            read_on(client)
    assert b"".join(client.pieces) == b"\x20\x02\x00\x00" + b"\x30\xff\xff\xff\x7f"
