"""Cameras for the child process of a source: what a grabber of a device does, well and badly."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any


def grab(argument: dict[str, Any], out: Any) -> None:
    """A device of ``width`` × ``height`` whose frame ``i`` has the luma ``i``, and which does ``then`` after
    ``frames``: ``end``, ``hang``, ``crash``, ``raise``, ``lie`` or ``grow``. ``half``: a file that it makes after half of
    them; it goes on once a slot of its ring is free."""
    width, height = argument["width"], argument["height"]
    if argument["then"] == "hang at once":
        time.sleep(3600)
    out.opened(width, height, 25.0)
    for i in range(argument["frames"]):
        if "half" in argument and i == argument["frames"] // 2:
            Path(argument["half"]).touch()
            while not out._free:
                out._take_back()
                time.sleep(0.001)
        _frame(out, width, height, i)
        time.sleep(argument.get("period_s", 0.0))
    if argument["then"] == "grow":
        _frame(out, 2 * width, 2 * height, 200)
    elif argument["then"] == "hang":
        time.sleep(3600)
    elif argument["then"] == "crash":
        ctypes.string_at(0)
    elif argument["then"] == "exit":
        os._exit(3)
    elif argument["then"] == "raise":
        raise ValueError("the driver is confused")
    elif argument["then"] == "lie":
        out._say({"frame": {**argument["lie"]}})
        time.sleep(3600)


def _frame(out: Any, width: int, height: int, value: int) -> None:
    shapes = [(height, width), (height // 2, width // 2), (height // 2, width // 2)]

    def fill(view: memoryview) -> None:
        view[: width * height] = bytes([value]) * (width * height)
        view[width * height :] = b"\x80" * (len(view) - width * height)

    out.frame(shapes, fill, {"fmt": "I420", "colour": ["bt601", False]})
