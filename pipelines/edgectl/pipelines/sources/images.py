"""A folder of images in name order, or one image: for calibration and validation."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np

from edgectl.core.errors import DataError, SourceError
from edgectl.pipelines.frame import Frame, Stamp
from edgectl.pipelines.sources.base import IMAGE_SUFFIXES, MAX_PIXELS, EndOfStream, SourceInfo

__all__ = ["ImagesSource"]

_MAX_FILE_BYTES = 256 << 20


class ImagesSource:
    """Frames one second apart; each may have its own size."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._files: list[Path] = []
        self._seq = 0
        self.decode_errors = 0
        self.outage: str | None = None

    def open(self) -> SourceInfo:
        files = [self._path] if self._path.is_file() else sorted(self._path.iterdir())
        self._files = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()]
        if not self._files:
            raise SourceError(f"folder {self._path} has no images", hint=f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}")
        return SourceInfo(str(self._path), "images", None, None, 1.0, False, len(self._files))

    def read(self, timeout_s: float) -> Frame | None:
        if self._seq >= len(self._files):
            raise EndOfStream
        path = self._files[self._seq]
        try:
            if path.stat().st_size > _MAX_FILE_BYTES:
                raise DataError(f"image {path.name} has more than {_MAX_FILE_BYTES} bytes")
            data = np.fromfile(path, np.uint8)
        except OSError as e:
            raise SourceError(f"cannot read {path}: {e.strerror}") from e
        try:
            image = cv2.imdecode(data, cv2.IMREAD_COLOR) if data.size else None
        except cv2.error as e:
            raise DataError(f"image {path.name} cannot be decoded") from e
        if image is None or image.size // 3 > MAX_PIXELS:
            raise DataError(f"image {path.name} cannot be decoded", hint="remove it from the folder")
        stamp = Stamp(self._seq, self._seq * 1_000_000_000, time.monotonic_ns(), float(self._seq), None, "pts")
        self._seq += 1
        return Frame.of_bgr(image.astype(np.uint8, copy=False), stamp)

    def interrupt(self) -> None:
        pass  # nothing waits here

    def close(self) -> None:
        self._files = []
