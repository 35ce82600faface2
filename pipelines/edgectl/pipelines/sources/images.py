"""A folder of images in name order, or one image: each a picture of its own, or, with ``fps``, the film that they make.

OpenCV turns them upright by their EXIF orientation.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.frame import Frame, Notice, Stamp
from edgectl.pipelines.sources.base import IMAGE_SUFFIXES, MAX_PIXELS, EndOfStream, ImagesOptions, SourceInfo

__all__ = ["ImagesSource"]

_MAX_FILE_BYTES = 256 << 20


class ImagesSource:
    """Frames one second (or 1 / fps) apart; each may have its own size."""

    def __init__(self, path: Path, options: ImagesOptions | None = None) -> None:
        self._path = path
        self._fps = None if options is None else options.fps
        self._files: list[Path] = []
        self._seq = 0
        self.decode_errors = self.corrupt_frames = 0
        self.outage: str | None = None

    def open(self) -> SourceInfo:
        files = [self._path] if self._path.is_file() else sorted(self._path.iterdir())
        self._files = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()]
        if not self._files:
            raise SourceError(f"folder {self._path} has no images", hint=f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
        kind: Literal["images", "file"] = "images" if self._fps is None else "file"
        return SourceInfo(str(self._path), kind, None, None, self._fps or 1.0, False, len(self._files))

    def read(self, timeout_s: float) -> Frame | None:
        if self._seq >= len(self._files):
            raise EndOfStream(Notice("source", "ended", False, "start"))
        path = self._files[self._seq]
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise DataError(f"image {path.name} has more than {_MAX_FILE_BYTES} bytes")
            data = np.fromfile(path, np.uint8)
        except OSError as e:
            raise SourceError(f"cannot read {path}: {e.strerror}") from e
        hint = "check it with an image viewer" if path == self._path else "remove it from the folder"
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except cv2.error as e:
            raise DataError(f"image {path.name} cannot be decoded", hint=hint) from e
        if image is None or image.size // 3 > MAX_PIXELS:
            raise DataError(f"image {path.name} cannot be decoded", hint=hint)
        t_s = self._seq / (self._fps or 1.0)
        stamp = Stamp(self._seq, round(t_s * 1e9), time.monotonic_ns(), t_s, None, "pts")
        self._seq += 1
        frame = Frame.of_bgr(image.astype(np.uint8, copy=False), stamp)
        frame.name = path.name
        return frame

    def interrupt(self) -> None:
        pass  # nothing waits here

    def close(self) -> None:
        self._files = []
