"""Text that can be drawn. OpenCV 5 has letters of its own for most scripts; those of OpenCV 4 are ASCII alone, and it
draws question marks for all else."""

from __future__ import annotations

import logging
import threading
import unicodedata

import cv2

__all__ = ["drawable"]

_log = logging.getLogger(__name__)

_EVERY_SCRIPT = int(cv2.__version__.partition(".")[0]) >= 5
_LETTERS = str.maketrans(
    {"ß": "ss", "ẞ": "SS", "æ": "ae", "Æ": "AE", "ø": "o", "Ø": "O", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L"}
    | {"đ": "d", "Đ": "D", "ı": "i", "þ": "th", "Þ": "TH", "ð": "d", "°": " deg", "\N{EN DASH}": "-"}
)
"""What has no accent to take off."""


_told = threading.Event()


def drawable(text: str, *, every_script: bool = _EVERY_SCRIPT) -> str:
    """``text`` in one line, in letters that there are. ``every_script`` False: accents go, and what is not Latin is a
    question mark; the log says so once."""
    if text.isascii() and text.isprintable():
        return text
    line = "".join(c if c.isprintable() else " " for c in text)
    if every_script or line.isascii():
        return line
    bare = unicodedata.normalize("NFKD", line.translate(_LETTERS))
    bare = "".join(c for c in bare if not unicodedata.combining(c))
    if not bare.isascii() and not _told.is_set():
        _told.set()
        _log.warning(
            "text such as %r is drawn with question marks: OpenCV %s has no letters for it (it needs 5)",
            line,
            cv2.__version__,
        )
    return bare.encode("ascii", "replace").decode("ascii")
