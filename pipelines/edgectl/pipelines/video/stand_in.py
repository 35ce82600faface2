"""Another variant of the detector, in its place while less has to be done: opened beside the stream, which goes on
meanwhile, and closed when it is not wanted any more.

Left out: when that is (:mod:`edgectl.pipelines.stream.governor`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from edgectl.core.errors import EdgectlError, ModelError
from edgectl.pipelines.stream.part import PartVariant
from edgectl.pipelines.stream.threads import stream_thread
from edgectl.pipelines.video.detector import Detector
from edgectl.pipelines.video.swap import HotSwap

__all__ = ["StandIn"]

_log = logging.getLogger(__name__)
_CLOSE_S = 20.0


class StandIn:
    """One per stream. :meth:`want` from any thread."""

    def __init__(
        self,
        stream: str,
        engines: HotSwap[Detector],
        variants: Mapping[str, PartVariant],
        open_detector: Callable[[PartVariant], Detector],
        failed: Callable[[str, EdgectlError], None],
    ) -> None:
        """``variants``: by name. ``open_detector``: opened, warm and with its seat. ``failed`` hears of a variant that
        cannot be opened; the detector's own goes on. It is called by a thread of this object."""
        self._stream = stream
        self._engines = engines
        self._variants = variants
        self._open = open_detector
        self._failed = failed
        self._change = threading.Condition()
        self._wanted: str | None = None
        self._own = engines.engine
        """The slot's engine when that was wanted."""
        self._present: str | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    def want(self, name: str | None) -> None:
        """A variant, or None for the detector's own. Returns at once."""
        with self._change:
            self._wanted, self._own = name, self._engines.engine
            if self._thread is None and name is not None and not self._closed:
                self._thread = stream_thread("stand-in", self._stream, self._follow, self._give_up)
                self._thread.start()
            self._change.notify_all()

    @property
    def settled(self) -> bool:
        """Whether what is wanted is in place."""
        with self._change:
            return self._wanted == self._present

    def close(self) -> None:
        """Begin nothing more. The engine itself is closed with the others of the stream."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread is not None:
            self._thread.join(_CLOSE_S)

    # -- in the thread --

    def _follow(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closed or self._wanted != self._present)
                if self._closed:
                    return
                wanted, own = self._wanted, self._own
            try:
                self._engines.stand_in(None if wanted is None else self._opened(wanted, own), own)
            except EdgectlError as e:
                with self._change:
                    # not again for the same one
                    self._wanted = self._present
                assert wanted is not None
                _log.warning("stream %s: the variant %s cannot take over: %s", self._stream, wanted, e)
                self._failed(wanted, e)
                continue
            with self._change:
                self._present = wanted
                self._change.notify_all()

    def _opened(self, name: str, own: Detector) -> Detector:
        detector = self._open(self._variants[name])
        if detector.labels != own.labels:
            detector.close()
            raise ModelError(
                f"variant {name} has {len(detector.labels)} labels, the detector has {len(own.labels)}"
            )
        if detector.keypoints != own.keypoints:
            detector.close()
            raise ModelError(f"the keypoints of variant {name} are not those of the detector")
        return detector

    def _give_up(self, e: EdgectlError) -> None:
        self._failed(self._wanted or "", e)
