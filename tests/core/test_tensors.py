"""Array files are believed only as far as their bytes go."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgectl.core.errors import BundleError
from edgectl.core.tensors import read_npz, write_npz

ARRAYS = {
    "in/0/x": np.arange(6, dtype=np.float32).reshape(2, 3),
    "out/0/y": np.array([True, False]),
    "n": np.array(3, np.int64),
}


def test_arrays_come_back_and_the_same_arrays_give_the_same_bytes() -> None:
    data = write_npz(ARRAYS)
    back = read_npz(data, max_bytes=10_000)
    assert back.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        np.testing.assert_array_equal(back[name], value)
        assert back[name].dtype == value.dtype
    assert write_npz(dict(reversed(ARRAYS.items()))) == data


@given(st.binary(max_size=400))
def test_any_bytes_are_arrays_or_one_typed_error(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        read_npz(data, max_bytes=1000)


@given(st.data())
def test_any_flipped_byte_is_arrays_or_one_typed_error(data: st.DataObject) -> None:
    body = bytearray(write_npz(ARRAYS))
    at = data.draw(st.integers(0, len(body) - 1))
    body[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(BundleError):
        read_npz(bytes(body), max_bytes=10_000)


def _npz(member: bytes, *, compress: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compress) as z:
        z.writestr("a.npy", member)
    return out.getvalue()


def test_a_header_that_promises_a_terabyte_allocates_nothing() -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with pytest.raises(BundleError, match="does not match"):
        read_npz(_npz(member), max_bytes=10_000)


def test_a_zip_bomb_is_refused_before_it_unpacks() -> None:
    with pytest.raises(BundleError, match="at most"):
        read_npz(_npz(bytes(50_000_000), compress=zipfile.ZIP_DEFLATED), max_bytes=1_000_000)


def test_a_member_that_lies_about_its_size_is_refused() -> None:
    data = bytearray(_npz(bytes(100_000), compress=zipfile.ZIP_DEFLATED))
    size = struct.pack("<I", 100_000)
    at = data.find(size)
    while at >= 0:
        data[at : at + 4] = struct.pack("<I", 10)
        at = data.find(size)
    with pytest.raises(BundleError):
        read_npz(bytes(data), max_bytes=1000)


def test_objects_are_never_unpickled() -> None:
    member = io.BytesIO()
    np.save(member, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(BundleError, match="object arrays"):
        read_npz(_npz(member.getvalue()), max_bytes=10_000)
