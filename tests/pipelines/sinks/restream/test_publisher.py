"""What a client says to a server that records, and what it makes of one that does not behave."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.rtsp import secured
from support.rtsp_script import Asked, RtspScript, agree, answered, scripted
from support.web import own_certificate

from edgectl.pipelines.sinks.restream import publisher
from edgectl.pipelines.sinks.restream.publisher import PublishAddress, PublishError, RtspPublisher

SDP = b"v=0\r\n"


@contextlib.contextmanager
def client(port: int, url: str = "rtsp://127.0.0.1:{}/yard") -> Iterator[RtspPublisher]:
    with contextlib.closing(RtspPublisher(PublishAddress.of(url.format(port)), threading.Event())) as one:
        yield one


def failure(script: RtspScript, act: Callable[[RtspPublisher], None] | None = None) -> PublishError:
    with client(script.port, "rtsp://ann:gehe%2Fim@127.0.0.1:{}/yard") as one:
        one.connect()
        if act is None:
            with pytest.raises(PublishError) as failed:
                one.record(SDP)
        else:
            one.record(SDP)
            with pytest.raises(PublishError) as failed:
                act(one)
    assert "geheim" not in str(failed.value)
    assert "gehe" not in str(failed.value)
    assert failed.value.retryable
    return failed.value


def test_the_stream_is_announced_set_up_recorded_and_taken_down() -> None:
    with scripted() as script:
        with client(script.port) as one:
            one.connect()
            one.record(SDP)
            one.send([b"\x80\x60rtp", b"\x80\xc8rtcp"])
        while len(script.asked) < 4:
            pass
    url = f"rtsp://127.0.0.1:{script.port}/yard"
    assert [(a.method, a.uri) for a in script.asked] == [
        ("ANNOUNCE", url),
        ("SETUP", f"{url}/streamid=0"),
        ("RECORD", url),
        ("TEARDOWN", url),
    ]
    assert script.asked[0].body == SDP
    assert script.asked[0].headers["content-type"] == "application/sdp"
    assert "mode=record" in script.asked[1].headers["transport"]
    assert [a.headers.get("session") for a in script.asked] == [None, None, "8f3a", "8f3a"]
    # the channels that the server chose
    assert script.packets == [(4, b"\x80\x60rtp"), (5, b"\x80\xc8rtcp")]


@pytest.mark.parametrize(
    ("said", "channels"),
    [
        ("0" * 5000 + "-1", (0, 1)),
        ("0000999-1", (0, 1)),
        ("255-256", (0, 1)),
        ("two-three", (0, 1)),
        ("2-999", (2, 3)),
        ("7", (7, 8)),
    ],
)
def test_channels_that_are_none_are_the_first_two(said: str, channels: tuple[int, int]) -> None:
    def answer(asked: Asked) -> bytes:
        return answered(asked, "200 OK", f"Transport: RTP/AVP/TCP;interleaved={said}", "Session: 1")

    with scripted(answer) as script:
        with client(script.port) as one:
            one.connect()
            one.record(SDP)
            one.send([b"\x80\x60rtp", b"\x80\xc8rtcp"])
        while len(script.asked) < 4:
            pass
    assert tuple(channel for channel, _ in script.packets) == channels


def test_a_password_is_given_to_who_asks_and_stands_in_no_address() -> None:
    def ask(asked: Asked) -> bytes:
        if "authorization" in asked.headers:
            return agree(asked)
        return answered(asked, "401 Unauthorized", 'WWW-Authenticate: Digest realm="nvr", nonce="n1"')

    with scripted(ask) as script, client(script.port, "rtsp://ann:gehe%2Fim@127.0.0.1:{}/yard") as one:
        one.connect()
        one.record(SDP)
    assert [a.method for a in script.asked][:4] == ["ANNOUNCE", "ANNOUNCE", "SETUP", "RECORD"]
    assert all("ann" not in a.uri and "gehe" not in str(a.headers) for a in script.asked)


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        ("401 Unauthorized", "auth"),
        ("403 Forbidden", "auth"),
        ("404 Not Found", "not_found"),
        ("503 Busy", "refused"),
    ],
)
def test_a_no_has_a_code(status: str, reason: str) -> None:
    challenge = 'WWW-Authenticate: Basic realm="nvr"'
    with scripted(lambda asked: answered(asked, status, challenge)) as script:
        e = failure(script)
    assert e.reason == reason
    assert status in e.message


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_OPEN_S", 0.2)
    with scripted(lambda _: None) as script:
        assert failure(script).reason == "timeout"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(b"", "ended"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "invalid"), (b"x" * 20_000, "invalid")],
)
def test_one_that_hangs_up_or_talks_nonsense(answer: bytes, reason: str) -> None:
    with scripted(lambda _: answer) as script:
        assert failure(script).reason == reason


def test_one_that_takes_nothing_any_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_STALL_S", 0.2)

    def flood(one: RtspPublisher) -> None:
        while True:
            one.send([bytes((0x80, 96)) + bytes(60_000)] * 20)

    with scripted(reads=False) as script:
        assert failure(script, flood).reason == "timeout"


def test_one_that_hangs_up_while_it_records_is_seen_without_a_picture() -> None:
    over = threading.Event()

    def hang_up(asked: Asked) -> bytes:
        return b"" if asked.method == "OPTIONS" else agree(asked)

    def listen(one: RtspPublisher) -> None:
        one._alive_s = 0.0
        while not over.wait(0.01):
            one.listen()

    with scripted(hang_up) as script:
        assert failure(script, listen).reason == "ended"


def test_we_tell_that_we_are_there_at_half_of_the_session_s_time() -> None:
    with scripted() as script, client(script.port) as one:
        one.connect()
        one.record(SDP)
        assert one._alive_s == 2.0


def test_a_certificate_is_checked(tmp_path: Path) -> None:
    certificate, key = own_certificate(tmp_path)
    with scripted() as script, secured(script.port, certificate, key) as port:
        address = PublishAddress.of(f"rtsps://127.0.0.1:{port}/yard")
        for trusted in (None, certificate):
            tls = ssl.create_default_context(cafile=trusted)
            with contextlib.closing(RtspPublisher(address, threading.Event(), tls=tls)) as one:
                if trusted is None:
                    with pytest.raises(PublishError, match="certificate is not trusted") as failed:
                        one.connect()
                    assert failed.value.reason == "tls"
                else:
                    one.connect()
                    one.record(SDP)


@pytest.mark.parametrize(
    "url",
    [
        "https://nvr/yard",
        "rtsp:///yard",
        "rtsp://nvr:99999/yard",
        "rtsp://ann:gehe/im@nvr/yard",
        "rtsp://nvr/yard#x",
        "https://nvr:8554/yard",
        "rtsp://nvr/ya rd",
        "rtsp://nvr/\u00e4",
        "rtsp://nvr/a\r\nX: y",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address") as failed:
        PublishAddress.of(url)
    assert "gehe" not in str(failed.value)


def test_an_address_is_shown_and_asked_for_without_its_secrets() -> None:
    address = PublishAddress.of("RTSPS://ann:a%40b@[::1]/yard?x=1")
    assert (address.host, address.port, address.secure) == ("::1", 322, True)
    assert address.uri == "rtsps://[::1]/yard?x=1"
    assert address.login == ("ann", "a@b")
    assert "a@b" not in repr(address)
    assert "ann" not in address.what
