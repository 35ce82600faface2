"""A folder of images in name order, or one image: each a picture of its own, or, with ``fps``, the film that
they make.

OpenCV turns them upright by their EXIF orientation.
"""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from edgectl.core.errors import DataError, SourceError
from edgectl.core.schema import Config
from edgectl.pipelines.sources.base import IMAGE_SUFFIXES, MAX_PIXELS, EndOfStream, SourceInfo
from edgectl.pipelines.sources.media.picture_size import stated_size
from edgectl.pipelines.stream.frame import Frame, Notice, Stamp

__all__ = ["ImagesOptions", "ImagesSource"]

_log = logging.getLogger(__name__)
_MAX_FILE_BYTES = 256 << 20
_OTHER_PICTURES = frozenset({".gif", ".avif", ".heic", ".heif", ".jp2", ".jxl"})


class ImagesOptions(Config):
    fps: float | None = Field(default=None, gt=0, le=1000)
    """The pictures are a film with this many a second. None: they are single pictures, each one for
    itself."""


class ImagesSource:
    """Frames one second (or 1 / fps) apart; each may have its own size."""

    def __init__(self, path: Path, options: ImagesOptions | None = None) -> None:
        self._path = path
        self._fps = None if options is None else options.fps
        self._files: list[Path] = []
        self._at = 0
        """Of the next file."""
        self._seq = 0
        self.decode_errors = self.corrupt_frames = 0
        self.outage: str | None = None

    def open(self) -> SourceInfo:
        try:
            files = [self._path] if self._path.is_file() else sorted(self._path.iterdir())
        except OSError as e:
            raise SourceError(
                f"{self._path} is neither a picture nor a folder that can be read: {e.strerror}",
                hint="check the path and its permissions",
            ) from e
        self._files = [f for f in files if f.suffix.lower() in IMAGE_SUFFIXES and f.is_file()]
        if not self._files:
            raise SourceError(
                f"folder {self._path} has no images", hint=f"looked for {', '.join(sorted(IMAGE_SUFFIXES))}"
            )
        if others := [f.name for f in files if f.suffix.lower() in _OTHER_PICTURES]:
            _log.warning(
                "%s: %d files are left out, whose form is read only one by one (%s …)",
                self._path,
                len(others),
                others[0],
            )
        kind: Literal["images", "file"] = "images" if self._fps is None else "file"
        return SourceInfo(str(self._path), kind, None, None, self._fps or 1.0, False, len(self._files))

    def read(self, timeout_s: float) -> Frame | None:
        while self._at < len(self._files):
            path = self._files[self._at]
            image = self._decoded(path)
            t_s = self._at / (self._fps or 1.0)
            self._at += 1
            if image is None:
                continue
            stamp = Stamp(self._seq, round(t_s * 1e9), time.monotonic_ns(), t_s, None, "pts")
            self._seq += 1
            frame = Frame.of_bgr(image, stamp)
            frame.name = path.name
            return frame
        if self._files and self.decode_errors == len(self._files):
            raise DataError(
                f"no image of folder {self._path} can be decoded", hint="check one with an image viewer"
            )
        raise EndOfStream(Notice("source", "ended", False, "start"))

    def _decoded(self, path: Path) -> NDArray[np.uint8] | None:
        """BGR, or None for a picture of a folder that is counted as damaged. Raises :class:`DataError`
        where it is the only one."""
        try:
            size = path.stat().st_size
            data = np.fromfile(path, np.uint8) if 0 < size <= _MAX_FILE_BYTES else None
        except OSError as e:
            raise SourceError(f"cannot read {path}: {e.strerror}") from e
        image = None
        width, height = (data is not None and stated_size(data.data)) or (0, 0)
        large = width * height > MAX_PIXELS
        if data is not None and not large:
            with contextlib.suppress(cv2.error):
                image = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if image is not None and image.size // 3 <= MAX_PIXELS:
            return image.astype(np.uint8, copy=False)
        if path == self._path and large:
            raise DataError(
                f"image {path.name} has a size of {width}x{height}, which is not supported",
                hint=f"up to {MAX_PIXELS / 1e6:.0f} megapixels are; make it smaller",
            )
        if path == self._path:
            raise DataError(f"image {path.name} cannot be decoded", hint="check it with an image viewer")
        self.decode_errors += 1
        why = f"has a size of {width}x{height}, which is not supported" if large else "cannot be decoded"
        _log.warning("image %s %s: it is counted and left out", path.name, why)
        return None

    def interrupt(self) -> None:
        pass  # nothing waits here

    def close(self) -> None:
        self._files = []
