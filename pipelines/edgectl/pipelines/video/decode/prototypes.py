"""What the decoders of segmentation models share: masks as sums of prototypes (YOLACT, Bolya et al., ICCV 2019)."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from edgectl.core.errors import ModelError
from edgectl.engines.base import Outputs
from edgectl.pipelines.video.decode.base import Detections, check_finite, expect
from edgectl.pipelines.video.masks import MOST_CELLS, InstanceMasks, MaskGrid
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["boxes_and_prototypes", "with_masks"]

_MOST_LOGIT = 60_000.0
"""In half precision."""
_SURELY = 64
"""So many cells in the middle of a box have a pixel in it."""


def boxes_and_prototypes(outputs: Outputs) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The output of three axes and that of four, ``[1, M, h, w]``, which comes as (M, h, w). Raises
    :class:`ModelError`."""
    boxes = [o for o in outputs.values() if o.ndim == 3]
    maps = [o for o in outputs.values() if o.ndim == 4]
    if len(outputs) != 2 or len(boxes) != 1 or len(maps) != 1:
        shapes = ", ".join(f"{name} {'x'.join(map(str, o.shape))}" for name, o in outputs.items())
        raise ModelError(
            f"this decoder reads boxes [1, ?, ?] and prototypes [1, M, H, W], the model has {shapes}"
        )
    return boxes[0], expect(maps[0], (1, None, None, None), "prototypes output")[0]


def with_masks(
    found: Detections,
    coefficients: NDArray[np.float32],
    prototypes: NDArray[np.float32],
    meta: LetterboxMeta,
) -> Detections:
    """Detections with their masks: (N, M) coefficients of (M, h, w) prototypes, which span the input. As the authors do,
    what has no pixel in its mask is no detection.

    Raises :class:`ModelError` for prototypes finer than the input, :class:`EngineError` for what is no number.
    """
    _, rows, columns = prototypes.shape
    if not (1 <= rows <= meta.input_height and 1 <= columns <= meta.input_width):
        raise ModelError(
            f"the prototypes have {columns}x{rows} cells, the model's input {meta.input_width}x{meta.input_height} pixels"
        )
    cell = (meta.input_width / columns / meta.sx, meta.input_height / rows / meta.sy)
    grid = MaskGrid(meta.x - meta.left / meta.sx, meta.y - meta.top / meta.sy, *cell)
    check_finite(coefficients)
    x, y = grid.columns(found.xyxy[:, 0::2]), grid.rows(found.xyxy[:, 1::2])
    # every cell whose middle lies next to a pixel of the box
    first = np.clip(np.floor(np.stack([x[:, 0], y[:, 0]], axis=1)), 0, [columns - 1, rows - 1])
    last = np.clip(np.floor(np.stack([x[:, 1], y[:, 1]], axis=1)) + 2, 1, [columns, rows])
    corners, ends = first.astype(np.int64), last.astype(np.int64)
    cells = np.cumsum((ends - corners).prod(axis=1))
    maps = [
        _map(coefficients[row], prototypes[:, top:bottom, left:right])
        if cells[row] <= MOST_CELLS
        else np.empty((0, 0), np.float32)
        for row, ((left, top), (right, bottom)) in enumerate(
            zip(corners.tolist(), ends.tolist(), strict=True)
        )
    ]
    exact = InstanceMasks(tuple(maps), corners, found.xyxy, (grid,) * len(maps))
    real = [not m.size or _has_pixel(exact, row, meta) for row, m in enumerate(maps)]
    masks = dataclasses.replace(exact, maps=tuple(m.astype(np.float16) for m in maps))
    return dataclasses.replace(found, masks=masks).select(np.array(real, np.bool_))


def _map(coefficients: NDArray[np.float32], prototypes: NDArray[np.float32]) -> NDArray[np.float32]:
    """(h, w) of (M,) and (M, h, w). Raises :class:`EngineError`."""
    values = np.tensordot(coefficients, prototypes, 1)
    check_finite(values)
    # of one map only the ratios count
    values *= min(1.0, _MOST_LOGIT / max(float(np.abs(values).max()), 1e-9))
    return np.asarray(values, np.float32)


def _has_pixel(masks: InstanceMasks, row: int, meta: LetterboxMeta) -> bool:
    """Whether a pixel of the input lies in the mask and in the box."""
    shown = masks.maps[row] > 0
    # without those at the edge of the box and around it
    if shown[2:-2, 2:-2].sum() >= _SURELY:
        return True
    if not shown.any():
        return False
    origin, scale = np.array([meta.x, meta.y] * 2), np.array([meta.sx, meta.sy] * 2)
    box = (masks.boxes[row] - origin) * scale + np.array([meta.left, meta.top] * 2)
    left, top, right, bottom = np.ceil(box).astype(int).tolist()
    x = meta.x + (np.arange(left, right) + 0.5 - meta.left) / meta.sx
    y = meta.y + (np.arange(top, bottom) + 0.5 - meta.top) / meta.sy
    return bool((masks.logits(row, x, y) > 0).any())
