"""Threads of a stream: named, none of them dies unheard, and none holds up the others."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable

import cv2

from edgectl.core.errors import EdgectlError, EngineError

__all__ = ["prepare_process", "stream_thread"]

_log = logging.getLogger(__name__)


def stream_thread(
    does: str, stream: str, loop: Callable[[], None], failed: Callable[[EdgectlError], None]
) -> threading.Thread:
    """A thread, not started, that runs ``loop`` and hands to ``failed`` what it raises; what is not ours
    becomes an EngineError."""

    def run() -> None:
        try:
            loop()
        except EdgectlError as e:
            failed(e)
        except Exception as e:
            _log.exception("stream %s: %s failed", stream, does)
            failed(EngineError(f"stream {stream} failed: {type(e).__name__}: {e}"))

    return threading.Thread(target=run, name=f"{does}-{stream}", daemon=True)


def prepare_process() -> None:
    """For a process that does nothing but run streams: a thread that computes in Python does not hold up a frame
    for 5 ms, and OpenCV does not split an image of a third of a millisecond over all cores."""
    sys.setswitchinterval(0.0005)
    cv2.setNumThreads(1)
