"""A float picture and the uint8 pixels that it was made of, both ways."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.core.bundle import TensorSpec
from edgectl.core.task import ImageInput
from edgectl.engines.base import Engine, Feeds, Outputs

__all__ = ["PixelFed", "Pixels", "pixel_feeds", "pixels_of"]


class Pixels:
    """A float picture as the uint8 pixels that it was made of: a quarter of the bytes, and the same values
    to the bit."""

    def __init__(self, spec: ImageInput) -> None:
        levels = np.arange(256, dtype=np.float64)
        self._tables = [
            ((levels * spec.scale - spec.mean[c]) / spec.std[c]).astype(np.float32) for c in range(3)
        ]
        self._axis = 1 if spec.layout == "NCHW" else 3
        along = [3 if a == self._axis else 1 for a in range(4)]
        self._zero = np.asarray([t[0] for t in self._tables], np.float32).reshape(along)
        self._step = np.asarray([(t[255] - t[0]) / 255 for t in self._tables], np.float32).reshape(along)

    def encode(self, values: NDArray[Any]) -> NDArray[np.uint8] | None:
        """The pixels; None if ``values`` is not exactly such a picture."""
        if values.ndim != 4 or values.shape[self._axis] != 3 or values.dtype != np.float32:
            return None
        codes = self.nearest(values)
        return codes if np.array_equal(self.decode(codes), values) else None

    def nearest(self, values: NDArray[np.float32]) -> NDArray[np.uint8]:
        """The pixels, each the nearest; ``values`` and they have the layout and the order of colours of
        the task's input."""
        codes: NDArray[np.uint8] = np.clip(np.rint((values - self._zero) / self._step), 0, 255).astype(
            np.uint8
        )
        return codes

    def decode(self, codes: NDArray[np.uint8]) -> NDArray[np.float32]:
        planes = [np.take(t, np.take(codes, c, self._axis)) for c, t in enumerate(self._tables)]
        return np.stack(planes, axis=self._axis)


def pixels_of(tensor: NDArray[np.float32], spec: ImageInput) -> NDArray[np.uint8]:
    """The BGR picture (H, W, 3) that a float input was filled from; exact for what the preprocessing made."""
    picture = _inside(tensor, spec)[0]
    return np.ascontiguousarray(picture[:, :, ::-1] if spec.color == "rgb" else picture)


def pixel_feeds(feeds: Feeds, spec: ImageInput) -> dict[str, NDArray[np.uint8]]:
    """The feeds of a folded graph, from those of the graph as it was. ``spec``: the task's input before
    the fold."""
    (name, tensor), *_ = feeds.items()
    return {name: _inside(np.asarray(tensor, np.float32), spec)}


def _inside(tensor: NDArray[np.float32], spec: ImageInput) -> NDArray[np.uint8]:
    """(1, H, W, 3) in the task's order of colours: what a folded graph takes."""
    codes = Pixels(spec).nearest(tensor)
    return np.ascontiguousarray(np.moveaxis(codes, 1, 3) if spec.layout == "NCHW" else codes)


class PixelFed:
    """A folded engine that takes the feeds of the graph as it was, to judge both on the same samples."""

    def __init__(self, engine: Engine, spec: ImageInput) -> None:
        self._engine, self._spec = engine, spec
        shape = (1, 3, spec.height, spec.width) if spec.layout == "NCHW" else (1, spec.height, spec.width, 3)
        self.inputs: tuple[TensorSpec, ...] = (
            TensorSpec(name=engine.inputs[0].name, shape=shape, dtype="float32"),
        )
        self.outputs, self.runtime = engine.outputs, engine.runtime

    def run(self, feeds: Feeds) -> Outputs:
        return self._engine.run(pixel_feeds(feeds, self._spec))

    def close(self) -> None:
        self._engine.close()
