"""The least ONNX file that has tensors, without the onnx package: what :mod:`edgectl.core.delta` sees of
one."""

from __future__ import annotations

import numpy as np

_TYPES = {"int8": 3, "float32": 1, "float16": 10, "int64": 7}


def field(number: int, payload: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def onnx_file(tensors: dict[str, np.ndarray], nodes: bytes = b"") -> bytes:
    graph = field(2, b"graph") + nodes
    for name, t in tensors.items():
        dims = b"".join(varint(1 << 3) + varint(d) for d in t.shape)
        graph += field(
            5,
            dims
            + varint(2 << 3)
            + varint(_TYPES[t.dtype.name])
            + field(8, name.encode())
            + field(9, t.tobytes()),
        )
    return varint(1 << 3) + varint(8) + field(2, b"made by hand") + field(7, graph)


def network(seed: int = 0, *, size: int = 40_000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "a": rng.normal(0, 30, (size // 100, 100)).clip(-127, 127).astype(np.int8),
        "b": rng.normal(0, 1, (size // 400, 50)).astype(np.float32),
        "c": rng.normal(0, 1, (33, 7)).astype(np.float16),
        "shape": np.array([1, -1], np.int64),
    }


def tuned(net: dict[str, np.ndarray], seed: int = 1) -> dict[str, np.ndarray]:
    """Every weight moves a little: no byte run survives."""
    rng = np.random.default_rng(seed)
    return {
        name: (t + rng.integers(-1, 2, t.shape)).clip(-127, 127).astype(t.dtype)
        if t.dtype == np.int8
        else (t * (1 + rng.normal(0, 1e-4, t.shape))).astype(t.dtype)
        for name, t in net.items()
    }
