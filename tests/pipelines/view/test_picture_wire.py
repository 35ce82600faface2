"""What the worker and the agent's page say to each other about pictures: what goes in comes out, whatever else is named."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import ProtocolError
from edgectl.pipelines.view.looks import WIDTHS, Look, ViewerPicture
from edgectl.pipelines.view.picture_wire import (
    ALIVE,
    EventPicture,
    packed_picture,
    parse_message,
    parse_wanted,
    receive_message,
    wanted_line,
)

names = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
looks = st.builds(Look, st.sampled_from(WIDTHS), st.booleans())
sizes = st.integers(1, 8192)
pictures = st.builds(
    ViewerPicture,
    stream=names,
    seq=st.integers(0, 2**62),
    width=sizes,
    height=sizes,
    taken_ns=st.integers(0, 2**62),
    time_s=st.none() | st.floats(0, 4e9),
    jpeg=st.binary(max_size=2000),
)
events = st.builds(
    EventPicture,
    stream=names,
    events=st.lists(st.text(max_size=40), max_size=5).map(tuple),
    jpeg=st.binary(max_size=2000),
)


def through(data: bytes, *, pieces: int = 0) -> tuple[bytes, bytes] | None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        step = pieces or max(1, len(data))
        for at in range(0, len(data), step):
            ours.sendall(data[at : at + step])
        ours.shutdown(socket.SHUT_WR)
        return receive_message(theirs, 10.0)


@given(st.sets(st.tuples(names, looks), max_size=20))
def test_what_is_wanted_is_understood(wanted: set[tuple[str, Look]]) -> None:
    assert parse_wanted(wanted_line(sorted(wanted))) == wanted


@given(looks, pictures)
def test_picture_arrives_as_it_was(look: Look, picture: ViewerPicture) -> None:
    message = through(packed_picture(look, picture))
    assert message is not None
    assert parse_message(*message) == (look, picture)


@given(events)
def test_picture_of_events_arrives_as_it_was(event: EventPicture) -> None:
    message = through(event.packed(), pieces=7)
    assert message is not None
    assert parse_message(*message) == event


def test_message_that_says_nothing_is_none() -> None:
    assert through(ALIVE) is None


@given(st.binary(max_size=300))
def test_noise_is_refused_or_ends(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        parse_wanted(data)
    with contextlib.suppress(ProtocolError, ConnectionError):
        message = through(data)
        if message is not None:
            parse_message(*message)


def test_message_without_an_end_or_larger_than_allowed_is_refused() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"\0\0\0\5\0\0\0\0ab")
        with pytest.raises(TimeoutError):
            receive_message(theirs, 0.05)
    with pytest.raises(ProtocolError):
        through(b"\xff" * 8)


@pytest.mark.parametrize(
    "line", [b'{"show": [["gate", 641, true]]}', b'{"show": [["../x", 640, true]]}', b"[]", b"{}"]
)
def test_line_that_asks_for_what_there_is_not_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError):
        parse_wanted(line)
