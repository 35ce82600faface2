"""Threads of a stream: named, none of them dies unheard, and none holds up the others."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import cv2

from edgectl.core.errors import EdgectlError, EngineError

__all__ = ["prepare_process", "stream_thread", "within"]

T = TypeVar("T")

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


def within(seconds: float, call: Callable[[], T], undo: Callable[[T], object] = lambda _: None) -> T:
    """What ``call`` returns, or raises, in a thread of its own: for what cannot be interrupted, as a file on a disk that
    hangs. Raises :class:`TimeoutError` after ``seconds``; what it returns later is undone."""
    done: list[Callable[[], T]] = []
    lock = threading.Lock()
    given_up = False

    def failed(e: BaseException) -> T:
        raise e

    def run() -> None:
        try:
            found = call()
        except BaseException as e:
            done.append(partial(failed, e))
            return
        with lock:
            late = given_up
            done.append(lambda: found)
        if late:
            undo(found)

    thread = threading.Thread(target=run, name="within", daemon=True)
    thread.start()
    try:
        thread.join(seconds)
    finally:
        # also where somebody is interrupted (Ctrl-C)
        with lock:
            given_up = not done
    if given_up:
        raise TimeoutError
    return done[0]()


def prepare_process() -> None:
    """For a process that does nothing but run streams: a thread that computes in Python does not hold up a frame
    for 5 ms, and OpenCV does not split an image of a third of a millisecond over all cores."""
    sys.setswitchinterval(0.0005)
    cv2.setNumThreads(1)
