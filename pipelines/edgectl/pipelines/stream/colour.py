"""Which colours the numbers of a YUV picture mean: matrix and range, and the way to BGR.

OpenCV converts BT.601 limited range alone; everything else goes through one 3 × 4 matrix, which costs the
same. A source that says nothing is BT.601 limited, as FFmpeg reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["VIDEO", "Colour", "Matrix", "to_bgr"]

Matrix = Literal["bt601", "bt709", "fcc", "smpte240m", "bt2020"]

# Share of red and of blue in the luma: H.273, table 4.
_KR_KB: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "fcc": (0.30, 0.11),
    "smpte240m": (0.212, 0.087),
    "bt2020": (0.2627, 0.0593),
}


@dataclass(frozen=True, slots=True)
class Colour:
    matrix: Matrix = "bt601"
    full: bool = False
    """True: luma and chroma use 0..255 (many cameras, MJPEG); False: luma 16..235, chroma 16..240."""


VIDEO = Colour()
"""BT.601, limited range."""


def to_bgr(
    planes: tuple[NDArray[np.uint8], ...], colour: Colour = VIDEO, packed: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """Y (H, W), U and V of any size to BGR (H, W, 3). ``packed``: scratch of ``H * W * 3 // 2`` bytes for the
    usual case.

    The usual case, BT.601 limited with U and V of half the even width and height, is OpenCV's own conversion.
    """
    y, u, v = planes
    height, width = y.shape
    if colour == VIDEO and not (width % 2 or height % 2) and u.shape == v.shape == (height // 2, width // 2):
        whole = np.empty(height * width * 3 // 2, np.uint8) if packed is None else packed
        at = 0
        for plane in planes:
            whole[at : at + plane.size].reshape(plane.shape)[:] = plane
            at += plane.size
        return cv2.cvtColor(whole.reshape(height * 3 // 2, width), cv2.COLOR_YUV2BGR_I420)  # type: ignore[return-value]
    chroma = (
        p if p.shape == y.shape else cv2.resize(p, (width, height), interpolation=cv2.INTER_LINEAR)
        for p in (u, v)
    )
    return cv2.transform(cv2.merge((y, *chroma)), _coefficients(colour))  # type: ignore[return-value]


@cache
def _coefficients(colour: Colour) -> NDArray[Any]:
    """(3, 4): B, G, R from Y, U, V and 1 (H.273, section 8.3, inverted)."""
    kr, kb = _KR_KB[colour.matrix]
    kg = 1 - kr - kb
    black, luma, chroma = (0.0, 255.0, 255.0) if colour.full else (16.0, 219.0, 224.0)
    to_rgb = np.array(
        [
            [1, 2 * (1 - kb), 0],
            [1, -2 * (1 - kb) * kb / kg, -2 * (1 - kr) * kr / kg],
            [1, 0, 2 * (1 - kr)],
        ]
    )
    linear = to_rgb * [255 / luma, 255 / chroma, 255 / chroma]
    return np.concatenate([linear, -linear @ [[black], [128.0], [128.0]]], axis=1)
