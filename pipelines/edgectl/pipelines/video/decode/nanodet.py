"""NanoDet and NanoDet-Plus as their authors export them (RangiLyu/nanodet, ``tools/export_onnx.py``).

A side of a box is a distribution over distances of 0 to R cells, its mean the distance from the cell (Li et al.,
Generalized Focal Loss, NeurIPS 2020).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.errors import ModelError
from edgectl.core.schema import Config
from edgectl.core.task import ImageInput, TaskSpec
from edgectl.engines.base import Outputs
from edgectl.pipelines.decoders import DecoderType, decoder_options
from edgectl.pipelines.video.decode.base import Detections, expect, finish, only_output, quiet
from edgectl.pipelines.video.decode.candidates import pick, softmax
from edgectl.pipelines.video.decode.grid import grid_cells
from edgectl.pipelines.video.preprocess import LetterboxMeta

__all__ = ["DECODER", "NanoDet"]


class NanoDetOptions(Config):
    strides: tuple[int, ...] = Field(default=(8, 16, 32, 64), min_length=1, max_length=8)
    """Of the grids, finest first; the first NanoDet has 8, 16, 32."""
    centre: float = Field(default=0.0, ge=0, le=1)
    """Where in a cell distances start, in cells; the first NanoDet has 0.5."""
    reach: int = Field(default=7, ge=1, le=64)
    """The longest distance, in cells (``reg_max`` of the authors)."""


class NanoDet:
    """``[1, N, C+4(R+1)]``: C class probabilities, then the logits of the distances to left, top, right and
    bottom. A cell counts for each class that it is sure of."""

    def __init__(self, task: TaskSpec) -> None:
        if not isinstance(task.input, ImageInput):
            raise ModelError(f"task {task.name} decodes boxes but its input is no image")
        options = decoder_options(NanoDetOptions, task)
        self._spec = task.decode
        self._classes = len(task.labels)
        self._bins = options.reach + 1
        cells, self._stride = grid_cells(task.input.width, task.input.height, options.strides)
        self._centre = (cells + np.float32(options.centre)) * self._stride[:, None]

    @quiet
    def __call__(self, outputs: Outputs, meta: LetterboxMeta) -> Detections:
        shape = (1, len(self._stride), self._classes + 4 * self._bins)
        out = expect(only_output(outputs), shape, "NanoDet output")[0]
        rows, score, cls = pick(out[:, : self._classes], self._spec.score, every_class=True)
        sides = self._distances(out[rows, self._classes :]) * self._stride[rows, None]
        centre = self._centre[rows]
        boxes = np.concatenate([centre - sides[:, :2], centre + sides[:, 2:]], axis=1)
        # before suppression, as its authors do
        np.clip(boxes[:, 0::2], 0, meta.input_width, out=boxes[:, 0::2])
        np.clip(boxes[:, 1::2], 0, meta.input_height, out=boxes[:, 1::2])
        return finish(boxes, score, cls, self._spec, meta)

    def _distances(self, logits: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mean of each side's distribution, (M, 4), in cells."""
        chance = softmax(logits.reshape(-1, 4, self._bins))
        return np.asarray(chance @ np.arange(self._bins, dtype=np.float32), np.float32)


DECODER = DecoderType(
    "detector",
    NanoDet,
    "`[1, N, C+4(R+1)]`: C class scores, then a distribution of the distance to each side (NanoDet, NanoDet-Plus)",
    NanoDetOptions,
)
