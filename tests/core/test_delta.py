"""Differences: exact, small where tensors are close, and harmless whatever they are."""

from __future__ import annotations

import contextlib
import lzma
import random
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.graphs import network, onnx_file, tuned

from edgectl.core.delta import apply_delta, make_delta, tensor_spans
from edgectl.core.errors import ProtocolError


def apply(folder: Path, old: bytes, delta: bytes, size: int) -> bytes:
    (folder / "old").write_bytes(old)
    (folder / "delta").write_bytes(delta)
    return b"".join(apply_delta(folder / "old", folder / "delta", size))


def test_fine_tuned_network_is_made_from_the_old_one_and_a_quarter_of_the_bytes(tmp_path: Path) -> None:
    net = network()
    net.pop("b")
    old, new = onnx_file(net, b""), onnx_file(tuned(net))
    delta = make_delta(old, new)
    assert delta is not None
    assert apply(tmp_path, old, delta, len(new)) == new
    assert len(delta) < 0.25 * len(new)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    drop=st.sampled_from(["", "a", "b", "c"]),
    shift=st.binary(max_size=300),
    seed=st.integers(0, 99),
    scratch=st.booleans(),
)
def test_any_pair_of_networks_makes_the_exact_bytes(
    tmp_path: Path, drop: str, shift: bytes, seed: int, scratch: bool
) -> None:
    net = network(seed, size=2000)
    other = network(seed + 100, size=2000) if scratch else tuned(net, seed)
    other.pop(drop, None)
    other["new"] = np.arange(seed, dtype=np.int8)
    old, new = (
        onnx_file(net),
        onnx_file(other, nodes=b"\x1a" + bytes([len(shift) & 0x7F]) + shift[: len(shift) & 0x7F]),
    )
    delta = make_delta(old, new)
    assert delta is not None
    assert apply(tmp_path, old, delta, len(new)) == new


def test_files_that_are_no_networks_have_no_difference() -> None:
    rng = random.Random(1)
    net = onnx_file(network(size=2000))
    for other in (b"", rng.randbytes(5000), net[:-100], onnx_file({"x": np.zeros(1000, np.float32)})):
        assert make_delta(net, other) is None
        assert make_delta(other, net) is None


def test_another_base_or_size_is_refused(tmp_path: Path) -> None:
    old, new = onnx_file(network(size=2000)), onnx_file(tuned(network(size=2000)))
    delta = make_delta(old, new)
    assert delta is not None
    for wrong, size in ((old + b"x", len(new)), (old, len(new) - 1), (old, 1 << 40)):
        with pytest.raises(ProtocolError, match="other files"):
            apply(tmp_path, wrong, delta, size)
    with pytest.raises(ProtocolError, match="cannot be applied"):
        b"".join(apply_delta(tmp_path / "gone", tmp_path / "delta", len(new)))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_bytes_make_more_than_was_asked_for_or_raise_anything_else(
    tmp_path: Path, data: st.DataObject
) -> None:
    old, new = onnx_file(network(size=800)), onnx_file(tuned(network(size=800)))
    good = make_delta(old, new)
    assert good is not None
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    wrong = bytes(bad[: data.draw(st.integers(0, len(bad)))]) if data.draw(st.booleans()) else bytes(bad)
    with contextlib.suppress(ProtocolError):
        assert len(apply(tmp_path, old, wrong, len(new))) == len(new)


def forge(
    folder: Path,
    table: list[tuple[int, int, int]],
    size: int,
    old_size: int,
    content: int = 100,
    lengths: tuple[int, ...] = (),
) -> None:
    packed = zlib.compress(b"".join(struct.pack(">BQQ", *s) for s in table))
    flat = zlib.compressobj(9, zlib.DEFLATED, -15)
    streams = [flat.compress(bytes(content)) + flat.flush(), *(lzma.compress(bytes(content), preset=0),) * 3]
    header = struct.pack(
        ">QQII4Q", old_size, size % 2**64, len(table), len(packed), *(lengths or map(len, streams))
    )
    (folder / "old").write_bytes(bytes(old_size))
    (folder / "delta").write_bytes(b"edgectl-delta-1\n" + header + packed + b"".join(streams))


@pytest.mark.parametrize(
    "segment",
    [(1, 150, 51), (1, 2**63, 10), (4, 0, 7), (3, 0, 9), (255, 0, 9), (2, 201, 0)],
    ids=["beyond the base", "far beyond", "half a number", "width 3", "width 255", "empty, beyond"],
)
def test_segment_that_the_base_does_not_have_is_refused(
    tmp_path: Path, segment: tuple[int, int, int]
) -> None:
    forge(tmp_path, [segment], segment[2], old_size=200)
    with pytest.raises(ProtocolError, match="does not have"):
        list(apply_delta(tmp_path / "old", tmp_path / "delta", segment[2]))
    forge(tmp_path, [(1, 150, 50)], 50, old_size=200)
    assert b"".join(apply_delta(tmp_path / "old", tmp_path / "delta", 50)) == bytes(50)


@pytest.mark.parametrize("width", [0, 1])
def test_streams_that_are_said_to_be_endless_are_refused(tmp_path: Path, width: int) -> None:
    forge(tmp_path, [(width, 0, 50)], 50, old_size=200, lengths=(2**64 - 1,) * 4)
    with pytest.raises(ProtocolError, match="shorter than it says"):
        list(apply_delta(tmp_path / "old", tmp_path / "delta", 50))


numbers = st.integers(0, 2**64 - 1) | st.integers(0, 5000)
segments = st.lists(st.tuples(st.integers(0, 5) | st.integers(0, 255), numbers, numbers), max_size=5)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=segments, fit=st.booleans(), old_size=st.integers(0, 3000), bomb=st.booleans())
def test_forged_segments_are_refused_or_filled(
    tmp_path: Path, table: list[tuple[int, int, int]], fit: bool, old_size: int, bomb: bool
) -> None:
    size = sum(s for _, _, s in table) if fit else 4000
    forge(tmp_path, table, size, old_size, 1 << 20 if bomb else 100)
    made = 0
    with contextlib.suppress(ProtocolError):
        for piece in apply_delta(tmp_path / "old", tmp_path / "delta", size):
            made += len(piece)
    assert made <= min(size, 5 << 20)


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader_of_networks(data: bytes) -> None:
    for junk in (data, onnx_file(network(size=400))[:200] + data):
        with contextlib.suppress(ProtocolError):
            tensor_spans(junk)


def test_a_large_network_is_made_in_little_memory(tmp_path: Path) -> None:
    old, new = (
        onnx_file({"a": np.full((40, 1 << 18), v, np.int8), "b": np.full((4, 1 << 18), v, np.float32)})
        for v in (1, 2)
    )
    delta = make_delta(old, new)
    assert delta is not None
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "delta").write_bytes(delta)
    tracemalloc.start()
    made = sum(len(piece) for piece in apply_delta(tmp_path / "old", tmp_path / "delta", len(new)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert made == len(new) > 14_000_000
    assert peak < 6_000_000, f"{peak} bytes"
