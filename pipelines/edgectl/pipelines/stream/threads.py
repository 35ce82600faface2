"""Threads of a stream: named, and none of them dies unheard."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from edgectl.core.errors import EdgectlError, EngineError

__all__ = ["stream_thread"]

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
