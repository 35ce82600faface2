"""Cameras that answer a probe, real responders over UDP and HTTP; and what strangers may send instead."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.web import send, web

from edgectl.core.errors import SourceError
from edgectl.pipelines.sources.media.onvif import FoundCamera, answer_of, discover, stream_uris
from edgectl.pipelines.sources.media.reader import reason_of


def match(
    service: str, scopes: str = "onvif://www.onvif.org/name/Gate%20cam onvif://www.onvif.org/hardware/X1"
) -> bytes:
    return (
        '<?xml version="1.0" encoding="UTF-8"?><s:Envelope xmlns:s="http://www.w3.org/2003/05/soap-envelope" '
        'xmlns:d="http://schemas.xmlsoap.org/ws/2005/04/discovery"><s:Body><d:ProbeMatches><d:ProbeMatch>'
        f"<d:Scopes>{scopes}</d:Scopes><d:XAddrs>http://[fe80::1]/onvif {service}</d:XAddrs>"
        "</d:ProbeMatch></d:ProbeMatches></s:Body></s:Envelope>"
    ).encode()


@contextmanager
def responder(*answers: bytes) -> Iterator[tuple[str, int]]:
    """Answers one probe with all of them."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind(("127.0.0.1", 0))
        s.settimeout(30)
        asked: list[bytes] = []

        def run() -> None:
            data, sender = s.recvfrom(65536)
            asked.append(data)
            for answer in answers:
                s.sendto(answer, sender)

        thread = threading.Thread(target=run)
        thread.start()
        yield s.getsockname()
        thread.join()
        assert b"NetworkVideoTransmitter" in asked[0]


def test_a_camera_is_found_once_however_often_and_whatever_else_answers() -> None:
    good = match("http://127.0.0.1:8000/onvif/device_service")
    with responder(b"\xff\x00 noise", b"<x/>", match("http://10.0.0.9/onvif"), good, good) as place:
        found = discover(1.0, place=place)
    assert found == [FoundCamera("127.0.0.1", "Gate cam X1", "http://127.0.0.1:8000/onvif/device_service")]


def test_an_answer_that_declares_entities_is_not_parsed() -> None:
    bomb = b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>' + match("http://127.0.0.1/onvif")[38:]
    assert answer_of(match("http://127.0.0.1/onvif"), "127.0.0.1") is not None
    assert answer_of(bomb, "127.0.0.1") is None
    assert answer_of(bomb.decode().encode("utf-16"), "127.0.0.1") is None


@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda t: match("http://127.0.0.1/", t))))
def test_any_answer_is_a_camera_or_none(data: bytes) -> None:
    camera = answer_of(data, "127.0.0.1")
    assert camera is None or camera.host == "127.0.0.1"


def device(handler: BaseHTTPRequestHandler, address: str, media: str) -> None:
    """A camera that wants a digest, as RFC 7616 has it."""
    asked = handler.rfile.read(int(handler.headers["Content-Length"])).decode()
    given = dict(re.findall(r'(\w+)="?([^",]+)', handler.headers.get("Authorization", "")))

    def md5(*parts: str) -> str:
        return hashlib.md5(":".join(parts).encode()).hexdigest()

    if given:
        a1, a2 = md5("admin", "cam", "pw"), md5("POST", handler.path)
        if given["response"] == md5(a1, "n1", given["nc"], given["cnonce"], given["qop"], a2):
            if "GetCapabilities" in asked:
                body = f"<c:Media><c:XAddr>{media}</c:XAddr></c:Media>"
            elif "GetProfiles" in asked:
                body = '<c:Profiles token="a"/><c:Profiles token="b&amp;&lt;"/>'
            else:
                token = re.findall(r"<ProfileToken>(.*)</ProfileToken>", asked)[0]
                number = {"a": 1, "b&amp;&lt;": 2}[token]
                body = f"<c:Uri>rtsp://127.0.0.1:554/stream{number}</c:Uri>"
            send(handler, f'<e xmlns:c="urn:c">{body}</e>'.encode(), "application/soap+xml")
            return
    send(handler, b"", "text/plain", 401, WWW_Authenticate='Digest realm="cam", nonce="n1", qop="auth"')


def test_the_streams_of_a_camera_are_told_to_who_has_its_password() -> None:
    with web(lambda h: device(h, address, f"{address}/media")) as address:
        camera = FoundCamera("127.0.0.1", "", f"{address}/onvif/device_service")
        assert stream_uris(camera, "admin", "pw") == [
            "rtsp://127.0.0.1:554/stream1",
            "rtsp://127.0.0.1:554/stream2",
        ]
        for login in ((None, None), ("admin", "wrong")):
            with pytest.raises(SourceError) as caught:
                stream_uris(camera, *login)
            assert reason_of(caught.value.__cause__ or caught.value) == "auth"


def test_a_password_is_never_given_as_it_is_and_to_no_other_host() -> None:
    seen: list[str | None] = []

    def asks_for_it(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.headers.get("Authorization"))
        send(handler, b"", "text/plain", 401, WWW_Authenticate='Basic realm="cam"')

    with web(asks_for_it) as address, pytest.raises(SourceError):
        stream_uris(FoundCamera("127.0.0.1", "", address), "admin", "pw")
    assert seen == [None]
    with web(lambda h: device(h, address, "http://192.0.2.1/media")) as address:
        camera = FoundCamera("127.0.0.1", "", f"{address}/onvif")
        assert len(stream_uris(camera, "admin", "pw")) == 2


def test_an_answer_that_is_too_long_is_not_read() -> None:
    long = b"<a>" + b" " * (1 << 20) + b"</a>"
    with (
        web(lambda h: send(h, long, "text/xml")) as address,
        pytest.raises(SourceError, match="no answer that can be read"),
    ):
        stream_uris(FoundCamera("127.0.0.1", "", address))
