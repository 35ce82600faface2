"""RTSP as bytes: answers in pieces of any size, nonsense, and the login by the examples of the standards."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.pipelines.sinks.restream import messages
from edgectl.pipelines.sinks.restream.messages import RtspAnswer, RtspLogin, RtspReader, framed, request

ANSWERS = (
    b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 5\r\n\r\nhallo"
    + framed(1, b"$$\r\n\r\n")
    + b"OPTIONS * RTSP/1.0\r\nCSeq: 9\r\n\r\n"
    + b'RTSP/1.0 401 Unauthorized\r\ncseq: 2\r\nWWW-Authenticate: Basic realm="a"\r\n'
    + b'WWW-Authenticate: Digest realm="b", nonce="c"\r\n\r\n'
)


@given(st.lists(st.integers(1, 60), max_size=20))
def test_answers_are_the_same_in_pieces_of_any_size(sizes: list[int]) -> None:
    reader, found, at = RtspReader(), [], 0
    for size in [*sizes, len(ANSWERS)]:
        found += reader.feed(ANSWERS[at : at + size])
        at += size
    assert [(a.status, a.reason, a.number) for a in found] == [(200, "OK", 1), (401, "Unauthorized", 2)]
    assert found[1].headers["www-authenticate"] == ('Basic realm="a"', 'Digest realm="b", nonce="c"')


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: 70000\r\n\r\n",
        b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"x" * 20_000,
        b"RTSP/1.0 200 OK\r\n" + b"a: b\r\n" * 200 + b"\r\n",
    ],
)
def test_what_is_no_rtsp_is_an_error_and_is_not_kept(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"RTSP|answer"):
        RtspReader().feed(data)


@given(st.binary(max_size=400))
def test_any_bytes_are_answers_or_an_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert all(100 <= a.status <= 999 for a in RtspReader().feed(data))


def test_a_request_says_how_long_its_body_is() -> None:
    made = request("ANNOUNCE", "rtsp://nvr/yard", 7, {"Content-Type": "application/sdp"}, b"v=0\r\n")
    assert made.startswith(b"ANNOUNCE rtsp://nvr/yard RTSP/1.0\r\nCSeq: 7\r\n")
    assert made.endswith(b"Content-Length: 5\r\n\r\nv=0\r\n")


def asking(*challenges: str) -> RtspAnswer:
    return RtspAnswer(401, "Unauthorized", {"www-authenticate": challenges})


def test_basic_is_that_of_rfc_7617() -> None:
    login = RtspLogin("Aladdin", "open sesame")
    assert login.header("ANNOUNCE", "/") == {}
    assert login.asked(asking('Basic realm="WallyWorld"'))
    assert login.header("ANNOUNCE", "/") == {"Authorization": "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}
    assert not login.asked(asking('Basic realm="WallyWorld"'))  # it was wrong


RFC_7616 = 'qop="auth, auth-int", algorithm=%s, nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"'


@pytest.mark.parametrize(
    ("algorithm", "response"),
    [
        ("MD5", "8ca523f5e9506fed4657c9700eebdbec"),
        ("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"),
    ],
)
def test_digest_is_that_of_rfc_7616(algorithm: str, response: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = "f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
    monkeypatch.setattr(messages.secrets, "token_hex", lambda _: own)
    login = RtspLogin("Mufasa", "Circle of Life")
    opaque = 'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
    assert login.asked(asking(f'Digest realm="http-auth@example.org", {RFC_7616 % algorithm}, {opaque}'))
    said = login.header("GET", "/dir/index.html")["Authorization"]
    assert f'response="{response}"' in said
    assert "nc=00000001" in said
    assert opaque in said


def test_the_strongest_question_is_answered_and_an_old_nonce_may_be_replaced() -> None:
    login = RtspLogin("a", 'b"')
    md5, sha = (f'Digest realm="r", algorithm={a}, nonce="n"' for a in ("MD5", "SHA-256"))
    assert login.asked(asking('Basic realm="r"', md5, f"{sha}, {md5}"))
    assert "algorithm=SHA-256" in login.header("SETUP", "u")["Authorization"]
    assert login.asked(asking(f'{md5}, stale="true"'))
    said = login.header("SETUP", "u")["Authorization"]
    assert re.search(r'response="[0-9a-f]{32}"', said)
    assert "qop" not in said
    assert not login.asked(asking(md5))


@pytest.mark.parametrize(
    "challenge", ["Negotiate", 'Digest realm="r"', 'Digest nonce="n", algorithm=MD2', ""]
)
def test_a_question_that_cannot_be_answered_is_not(challenge: str) -> None:
    assert not RtspLogin("a", "b").asked(asking(challenge))


@pytest.mark.parametrize("filler", [" ", "a", 'a="'])
def test_a_question_without_an_end_is_not_looked_at(filler: str) -> None:
    challenge = f'Digest realm="r", nonce="n", {filler * 4000}x'
    assert not RtspLogin("a", "b").asked(asking(challenge * 2))


def test_a_server_that_finds_every_nonce_old_is_not_answered_for_ever() -> None:
    login = RtspLogin("a", "b")
    answers = [login.asked(asking('Digest realm="r", nonce="n", stale=true')) for _ in range(9)]
    assert answers == [True] * 4 + [False] * 5


def test_what_a_server_says_moves_no_cursor() -> None:
    (answer,) = RtspReader().feed(b"RTSP/1.0 403 \x1b[2Jno\x07 \xc2\x9b\r\n\r\n")
    assert answer.reason == "[2Jno "
