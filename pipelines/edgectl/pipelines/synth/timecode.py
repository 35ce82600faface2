"""A frame number burnt into pixels, so that decode and buffering delays cannot hide.

32 bits as black and white cells in the lower left corner, two rows of 16, between two guard cells per row
(white, then black) that tell a code from a picture that merely looks like one. Cells are ``height // 45``
pixels, at least 4, so that they survive H.264; in a picture narrower than 72 pixels, 3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["burn", "read"]

_COLUMNS = 18  # guard, 16 bits, guard


def burn(image: NDArray[np.uint8], value: int) -> None:
    """Write the unsigned 32-bit ``value`` into a BGR or grey image of at least 64×64, in place."""
    cell = _cell(image)
    bits = np.array([(value >> (31 - i)) & 1 for i in range(32)], dtype=np.uint8).reshape(2, 16)
    grid = np.zeros((2, _COLUMNS), dtype=np.uint8)
    grid[:, 0] = 1
    grid[:, 1:17] = bits
    block = np.kron(grid * np.uint8(255), np.ones((cell, cell), dtype=np.uint8))
    target = image[image.shape[0] - 2 * cell :, : _COLUMNS * cell]
    target[...] = block if image.ndim == 2 else block[..., None]


def read(image: NDArray[np.uint8]) -> int | None:
    """The value in a BGR or grey image (a decoder's Y plane is enough), or None where there is no code."""
    cell = _cell(image)
    if cell < 3:
        return None
    block = image[image.shape[0] - 2 * cell :, : _COLUMNS * cell]
    if block.shape[:2] != (2 * cell, _COLUMNS * cell):
        return None
    if block.ndim == 3:
        block = block.mean(axis=2)
    means = block.reshape(2, cell, _COLUMNS, cell)[:, 1:-1, :, 1:-1].mean(axis=(1, 3))
    grid = means > 128
    if not grid[:, 0].all() or grid[:, 17].any() or (np.abs(means - 128) < 40).any():
        return None
    value = 0
    for bit in grid[:, 1:17].ravel():
        value = value << 1 | int(bit)
    return value


def _cell(image: NDArray[np.uint8]) -> int:
    height, width = int(image.shape[0]), int(image.shape[1])
    return min(max(4, height // 45), width // _COLUMNS)
