"""Pictures between boundaries, however the bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import DataError
from edgectl.pipelines.sources.media import multipart
from edgectl.pipelines.sources.media.multipart import MAX_PART, Multipart

PARTS = st.lists(
    st.binary(min_size=1, max_size=60).filter(lambda b: b"--cut" not in b and b[-1:] not in b"\r\n"),
    max_size=6,
)


@given(PARTS, st.booleans(), st.sampled_from([b"\r\n", b"\n"]), st.data())
def test_however_the_bytes_are_cut_the_parts_are_the_same(
    parts: list[bytes], length: bool, line: bytes, data: st.DataObject
) -> None:
    stream = b"preamble" + line
    for part in parts:
        size = b"content-length: %d" % len(part) + line if length else b""
        stream += b"--cut" + line + b"Content-Type: image/jpeg" + line + size + line + part + line
    stream += b"--cut--" + line
    reader, found, at = Multipart("--cut"), [], 0
    while at < len(stream):
        step = data.draw(st.integers(1, 40))
        found += reader.feed(stream[at : at + step])
        at += step
    assert found == parts


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_give_parts_or_an_error_of_ours(pieces: list[bytes]) -> None:
    reader = Multipart("cut")
    for piece in pieces:
        try:
            reader.feed(b"--cut\r\n" + piece)
        except DataError:
            return


def test_a_part_that_says_it_is_too_large_is_refused_before_it_comes() -> None:
    with pytest.raises(DataError, match="is not taken"):
        Multipart("cut").feed(b"--cut\r\nContent-Length: %d\r\n\r\n" % (MAX_PART + 1))


def test_a_part_or_its_headers_that_do_not_end_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multipart, "MAX_PART", 1 << 20)
    reader = Multipart("cut")
    reader.feed(b"--cut\r\n\r\n")
    reader.feed(bytes(1 << 20))
    with pytest.raises(DataError, match="more than 1 MiB"):
        reader.feed(bytes(1))
    with pytest.raises(DataError, match="do not end"):
        Multipart("cut").feed(b"--cut\r\n" + b"x" * 20_000)


@pytest.mark.parametrize("boundary", ["", "--", '""', "x" * 300])
def test_a_boundary_that_is_none_is_said(boundary: str) -> None:
    with pytest.raises(DataError, match="what lies between them"):
        Multipart(boundary)
