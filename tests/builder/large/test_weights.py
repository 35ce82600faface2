"""Weights read a piece at a time."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edgectl.builder.large import weights
from edgectl.builder.large.weights import StoredWeight, bytes_of
from edgectl.core.errors import ModelError

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PIECE", 64)


@pytest.mark.parametrize("kind", FLOATS)
def test_any_float_is_read_as_float32_at_once_or_in_pieces(tmp_path: Path, kind: int) -> None:
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind))
    values = np.random.default_rng(0).standard_normal((7, 11)).astype(dtype)
    (tmp_path / "w").write_bytes(b"before" + values.tobytes() + b"after")
    w = StoredWeight(tmp_path / "w", 6, kind, (7, 11))
    assert np.array_equal(w.values(), values.astype(np.float32))
    assert b"".join(w.pieces(TensorProto.FLOAT)) == values.astype(np.float32).tobytes()
    assert b"".join(w.pieces(kind)) == values.tobytes()


def test_a_file_that_became_shorter_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(bytes(399))
    w = StoredWeight(tmp_path / "w", 0, TensorProto.FLOAT, (10, 10))
    for read in (w.values, lambda: list(w.pieces(TensorProto.FLOAT))):
        with pytest.raises(ModelError, match="w became shorter while the model was built"):
            read()
    (tmp_path / "w").unlink()
    with pytest.raises(ModelError, match="cannot read w"):
        w.values()


def test_a_file_that_was_written_since_it_was_looked_at_is_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "w"
    file.write_bytes(bytes(400))
    w = StoredWeight(file, 0, TensorProto.FLOAT, (10, 10), file.stat().st_mtime_ns)
    assert not w.values().any()
    file.write_bytes(bytes([1]) * 400)
    os.utime(file, ns=(0, w.mtime_ns or 0))
    assert w.values().all()
    os.utime(file, ns=(0, (w.mtime_ns or 0) + 1))
    for read in (w.values, lambda: list(w.pieces(TensorProto.FLOAT))):
        with pytest.raises(ModelError, match="w was written while the model was built"):
            read()


def test_what_float32_cannot_hold_is_said(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(np.asarray([1.0, 1e300]).tobytes())
    with pytest.raises(ModelError, match="beyond float32"):
        StoredWeight(tmp_path / "w", 0, TensorProto.DOUBLE, (2,)).values()


@given(st.lists(st.integers(0, 9), max_size=4))
def test_two_values_of_four_bits_share_a_byte(shape: list[int]) -> None:
    n = int(np.prod(shape, dtype=np.int64))
    assert bytes_of(TensorProto.INT4, tuple(shape)) == (n + 1) // 2
    assert bytes_of(TensorProto.FLOAT16, tuple(shape)) == 2 * n


def test_strings_and_unknown_types_have_no_size() -> None:
    for kind in (TensorProto.STRING, 999):
        with pytest.raises(ValueError, match=r"type|strings"):
            bytes_of(kind, (1,))
