"""Named arrays in ``.npz`` files, read within bounds: the header is believed only after it was checked."""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import BundleError, EdgectlError

__all__ = ["Arrays", "read_npz", "write_npz"]

Arrays = dict[str, NDArray[np.generic]]

# What zipfile, zlib and numpy's header parser raise for bytes that are not what they should be.
_MALFORMED = (
    OSError,
    ValueError,
    TypeError,
    RuntimeError,
    EOFError,
    SyntaxError,
    OverflowError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
)


def write_npz(arrays: Mapping[str, NDArray[np.generic]]) -> bytes:
    """Pack arrays; the same arrays give the same bytes (sorted names, fixed dates; deflated: golden images
    shrink to a fifth)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as z:
        for name in sorted(arrays):
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(arrays[name], order="C"), allow_pickle=False)
            info = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))
            z.writestr(info, member.getvalue(), zipfile.ZIP_DEFLATED)
    return out.getvalue()


def read_npz(
    source: Path | bytes, *, max_bytes: int, max_arrays: int = 256, error: type[EdgectlError] = BundleError
) -> Arrays:
    """Read an untrusted ``.npz``. No pickles; the sum of unpacked sizes is at most ``max_bytes``.

    Raises ``error`` for anything else than a well-formed file within these bounds.
    """
    what = source.name if isinstance(source, Path) else "array file"
    try:
        with zipfile.ZipFile(source if isinstance(source, Path) else io.BytesIO(source)) as z:
            members = z.infolist()
            total = sum(m.file_size for m in members)
            if len(members) > max_arrays or total > max_bytes:
                raise error(
                    f"{what} unpacks to {len(members)} arrays, {total} bytes; at most {max_arrays} arrays, {max_bytes} bytes are read"
                )
            arrays: Arrays = {}
            for m in members:
                with z.open(m) as f:
                    data = f.read(m.file_size + 1)
                if len(data) != m.file_size:
                    raise error(f"{what}: member {m.filename!r} is larger than it says")
                arrays[m.filename.removesuffix(".npy")] = _array(data)
            return arrays
    except _MALFORMED as e:
        raise error(f"{what} is not a readable .npz file: {e}") from e


def _array(data: bytes) -> NDArray[np.generic]:
    """One ``.npy`` member. numpy allocates what the header claims, so the claim is compared with the bytes
    first."""
    f = io.BytesIO(data)
    version = np.lib.format.read_magic(f)
    header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if header is None:
        raise ValueError(f"unsupported .npy version {version}")
    shape, fortran, dtype = header(f)
    if dtype.hasobject:
        raise ValueError("object arrays are not read")
    body = memoryview(data)[f.tell() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"array of shape {shape} does not match its {len(body)} bytes")
    return np.frombuffer(body, dtype=dtype).reshape(shape, order="F" if fortran else "C")
